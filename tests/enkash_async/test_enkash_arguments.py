"""What is refused before any request leaves."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any

import pytest
from aioresponses import aioresponses
from yarl import URL

from enkash_async import (
    CoinAllocationRequest,
    CoinConfiguration,
    EnkashClient,
    FileBreakerStore,
    PasswordCredentials,
    StaticToken,
)
from tests.enkash_async.enkash_kit import ALLOCATE_URL, ALLOCATED, AUTH, COINS, TOKEN_URL, credentials
from tests.wrong_values import PATH, cases, refuses

New = Callable[..., EnkashClient]
Call = Callable[[], Awaitable[object]]

NO_IDS: list[Any] = [
    "",
    " ",
    "a b",
    " a",
    "a/b",
    "../a",
    "..",
    "a?b",
    "a#b",
    "a\nb",
    "a\x00b",
    "a\u202eb",
    "x" * 256,
    None,
    5,
    b"a",
]
NO_NAMES: list[Any] = ["", " ", " a", "a ", "a\nb", "a\tb", "a\x7fb", "a\u202eb", "x" * 256, None, 5, b"a"]
NO_COINS: list[Any] = [-1, 2**63, 1.0, 1.5, "1", True, float("nan"), [1]]
NO_CONFIGURATIONS: list[Any] = ["", "TIERED", "DEFAULT ", 5, {"CUSTOM": "x"}]


@pytest.mark.parametrize("bad", NO_IDS, ids=repr)
async def test_an_id_that_cannot_be_one_is_refused(new_client: New, vendor: aioresponses, bad: Any) -> None:
    client = new_client()
    grant: dict[str, Any] = {"event": "E", "user_id": "EK1", "request_id": "R1"}
    calls: list[Call] = [
        lambda: client.get_balance(bad),
        lambda: client.get_event(bad),
        lambda: client.update_event(bad, amount=1),
        lambda: client.allocate_coins(**{**grant, "user_id": bad}),
    ]
    if bad is not None:
        calls += [
            lambda: client.allocate_coins(**grant, company_id=bad),
            lambda: client.create_event(event="E", amount=1, company_id=bad),
            lambda: client.update_event("WCC1", company_id=bad),
        ]

    for call in calls:
        with pytest.raises((TypeError, ValueError), match=r"_id: "):
            await call()
    assert not vendor.requests


@pytest.mark.parametrize("bad", NO_NAMES, ids=repr)
async def test_a_name_or_request_id_that_cannot_be_one_is_refused(new_client: New, vendor: aioresponses, bad: Any) -> None:
    client = new_client()
    calls: list[Call] = [
        lambda: client.allocate_coins(event=bad, user_id="EK1", request_id="R1"),
        lambda: client.allocate_coins(event="E", user_id="EK1", request_id=bad),
        lambda: client.create_event(event=bad, amount=1),
    ]
    if bad is not None:
        calls += [lambda: client.update_event("WCC1", event=bad)]

    for call in calls:
        with pytest.raises((TypeError, ValueError), match=r"(event|request_id): "):
            await call()
    assert not vendor.requests


@pytest.mark.parametrize("bad", NO_COINS, ids=repr)
async def test_an_amount_that_is_no_whole_number_of_coins_is_refused(new_client: New, vendor: aioresponses, bad: Any) -> None:
    client = new_client()

    calls: list[Call] = [lambda: client.create_event(event="E", amount=bad), lambda: client.update_event("WCC1", amount=bad)]

    for call in calls:
        with pytest.raises((TypeError, ValueError), match=r"^amount: "):
            await call()
    assert not vendor.requests


@pytest.mark.parametrize("bad", NO_CONFIGURATIONS, ids=repr)
async def test_a_configuration_nobody_documents_is_refused(new_client: New, vendor: aioresponses, bad: Any) -> None:
    client = new_client()

    with pytest.raises((TypeError, ValueError), match=r"^configuration: "):
        await client.create_event(event="E", amount=1, configuration=bad)
    with pytest.raises((TypeError, ValueError), match=r"^configuration: "):
        await client.update_event("WCC1", configuration=bad)
    assert not vendor.requests


async def test_a_configuration_that_came_from_the_vendor_and_is_new_cannot_be_sent_back(new_client: New) -> None:
    with pytest.raises(ValueError, match="'tiered'"):
        await new_client().update_event("WCC1", configuration=CoinConfiguration("TIERED"))


async def test_an_update_of_nothing_is_refused(new_client: New, vendor: aioresponses) -> None:
    with pytest.raises(ValueError, match=r"^update_event: "):
        await new_client().update_event("WCC1")
    assert not vendor.requests


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"auth_base_url": "http://auth.example"}, "auth_base_url"),
        ({"auth_base_url": None}, "auth_base_url"),
        ({"company_id": "a b"}, "company_id"),
        ({"credentials": PasswordCredentials("a/b", "s", "u", "p")}, "client_id"),
        ({"token_lifetime": 0}, "token_lifetime"),
        ({"token_lifetime": -1.0}, "token_lifetime"),
        ({"token_lifetime": float("inf")}, "token_lifetime"),
        ({"token_lifetime": True}, "token_lifetime"),
        ({"token_lifetime": "300"}, "token_lifetime"),
        ({"extra_headers": {"Authorization": "Bearer evil"}}, "extra_headers"),
        ({"extra_headers": {"authorization": "Bearer evil"}}, "extra_headers"),
        ({"extra_headers": {"Content-Type": "text/plain"}}, "extra_headers"),
        ({"extra_headers": {"Cookie": "a\r\nHost: evil"}}, "extra_headers"),
        ({"extra_headers": {"Coo kie": "a"}}, "extra_headers"),
        ({"extra_headers": {"Cookie": ""}}, "extra_headers"),
        ({"extra_headers": {"Cookie": 5}}, "extra_headers"),
        ({"extra_headers": [("Cookie", "a")]}, "extra_headers"),
        ({"credentials": StaticToken("t"), "encryption": True}, "encryption"),
        ({"encryption": "false"}, "encryption"),
        ({"repeat_allocations": "false"}, "repeat_allocations"),
        ({"repeat_allocations": 0}, "repeat_allocations"),
        ({"clock": 5, "credentials": StaticToken("t")}, "clock"),
        ({"credentials": None}, "credentials"),
        ({"credentials": StaticToken}, "credentials"),
        ({"credentials": "a-secret-token"}, "credentials"),
        ({"breaker_store": "breaker.json"}, "breaker_store"),
    ],
)
def test_options_that_cannot_be_are_refused(arguments: dict[str, Any], name: str) -> None:
    settings: dict[str, Any] = {"coins_base_url": COINS, "auth_base_url": AUTH, "credentials": credentials()}

    with pytest.raises((TypeError, ValueError), match=rf"^{name}\b"):
        EnkashClient(**{**settings, **arguments})


@pytest.mark.parametrize("bad", [0, -1.0, float("nan"), float("inf"), True, "90", None])
def test_a_breaker_file_that_could_not_be_waited_for_is_not_made(bad: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^lock_timeout: "):
        FileBreakerStore("breaker.json", lock_timeout=bad)


@pytest.mark.parametrize(("name", "value", "error"), cases({"path": PATH}))
def test_a_breaker_file_that_cannot_be_one_is_not_made(name: str, value: Any, error: type[Exception]) -> None:
    refuses(FileBreakerStore, name, value, error)


async def test_members_of_enumerations_are_sent_as_their_values(new_client: New, with_token: aioresponses) -> None:
    class Known(str, Enum):  # noqa: UP042 - a StrEnum writes itself as its value anyway
        COMPANY = "CEK0TCW2W8"
        EVENT = "REFERRAL_EVENT"
        USER = "EKQZVMQK"

    with_token.post(ALLOCATE_URL, payload=ALLOCATED)
    client = new_client(credentials=PasswordCredentials(Known.COMPANY, "s", "u", "p"))

    receipt = await client.allocate_coins(event=Known.EVENT, user_id=Known.USER, request_id=Known.USER)

    assert repr(receipt).startswith("CoinAllocation(event='REFERRAL_EVENT', user_id='EKQZVMQK', request_id='EKQZVMQK'")
    basic = with_token.requests["POST", URL(TOKEN_URL)][0].kwargs["headers"]["Authorization"]
    assert b64decode(basic.removeprefix("Basic ")) == b"CEK0TCW2W8:s"


@pytest.mark.parametrize(
    "parts",
    [
        ("", "s", "u", "p"),
        ("a:b", "s", "u", "p"),
        ("a\nb", "s", "u", "p"),
        (None, "s", "u", "p"),
        ("id", "", "u", "p"),
        ("id", "s", " ", "p"),
        ("id", "s", "u", ""),
        ("id", "s", "u", None),
    ],
)
def test_credentials_with_a_part_missing_are_refused(parts: tuple[Any, ...]) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^(client_id|client_secret|username|password): "):
        PasswordCredentials(*parts)


@pytest.mark.parametrize("token", ["", "two words", "line\n", None, 5])
def test_a_static_token_that_no_header_can_carry_is_refused(token: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^access_token: "):
        StaticToken(token)


@pytest.mark.parametrize("name", ["event", "user_id", "request_id", "company_id"])
@pytest.mark.parametrize("wrong", [5, None, b"x"])
def test_a_request_of_wrong_types_is_not_made(name: str, wrong: Any) -> None:
    usual: dict[str, Any] = {"event": "E", "user_id": "EK1", "request_id": "R1", "company_id": "C1"}
    with pytest.raises(TypeError, match=rf"^{name}: "):
        CoinAllocationRequest(**usual | {name: wrong})
