"""What is refused before any request leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aioresponses import aioresponses

from enkash_async import BodyCipher, CoinConfiguration, EnkashClient, PasswordCredentials, StaticToken
from tests.enkash_async.enkash_kit import AUTH, COINS, credentials

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
        with pytest.raises((TypeError, ValueError), match="_id: expected"):
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
        with pytest.raises((TypeError, ValueError), match=r"(event|request_id): expected"):
            await call()
    assert not vendor.requests


@pytest.mark.parametrize("bad", NO_COINS, ids=repr)
async def test_an_amount_that_is_no_whole_number_of_coins_is_refused(new_client: New, vendor: aioresponses, bad: Any) -> None:
    client = new_client()

    calls: list[Call] = [lambda: client.create_event(event="E", amount=bad), lambda: client.update_event("WCC1", amount=bad)]

    for call in calls:
        with pytest.raises((TypeError, ValueError), match="amount: expected"):
            await call()
    assert not vendor.requests


@pytest.mark.parametrize("bad", NO_CONFIGURATIONS, ids=repr)
async def test_a_configuration_nobody_documents_is_refused(new_client: New, vendor: aioresponses, bad: Any) -> None:
    client = new_client()

    with pytest.raises((TypeError, ValueError), match="configuration: expected"):
        await client.create_event(event="E", amount=1, configuration=bad)
    with pytest.raises((TypeError, ValueError), match="configuration: expected"):
        await client.update_event("WCC1", configuration=bad)
    assert not vendor.requests


async def test_a_configuration_that_came_from_the_vendor_and_is_new_cannot_be_sent_back(new_client: New) -> None:
    with pytest.raises(ValueError, match="'tiered'"):
        await new_client().update_event("WCC1", configuration=CoinConfiguration("TIERED"))


async def test_an_update_of_nothing_is_refused(new_client: New, vendor: aioresponses) -> None:
    with pytest.raises(ValueError, match="expected a change, got none"):
        await new_client().update_event("WCC1")
    assert not vendor.requests


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"coins_base_url": "coins.example"}, "coins_base_url"),
        ({"coins_base_url": "https://user:pw@coins.example"}, "coins_base_url"),
        ({"coins_base_url": "http://coins.example"}, "coins_base_url: expected https"),
        ({"auth_base_url": "http://auth.example"}, "auth_base_url: expected https"),
        ({"auth_base_url": None}, "auth_base_url"),
        ({"company_id": "a b"}, "company_id"),
        ({"credentials": PasswordCredentials("a b", "s", "u", "p")}, "client_id"),
        ({"token_lifetime": 0}, "token_lifetime"),
        ({"token_lifetime": -1.0}, "token_lifetime"),
        ({"token_lifetime": float("inf")}, "token_lifetime"),
        ({"token_lifetime": True}, "token_lifetime"),
        ({"token_lifetime": "300"}, "token_lifetime"),
        ({"extra_headers": {"Authorization": "Bearer evil"}}, "extra_headers.*'Authorization'"),
        ({"extra_headers": {"authorization": "Bearer evil"}}, "extra_headers.*'authorization'"),
        ({"extra_headers": {"Content-Type": "text/plain"}}, "extra_headers"),
        ({"extra_headers": {"Cookie": "a\r\nHost: evil"}}, "extra_headers.*'Cookie'"),
        ({"extra_headers": {"Coo kie": "a"}}, "extra_headers"),
        ({"extra_headers": {"Cookie": ""}}, "extra_headers"),
        ({"extra_headers": {"Cookie": 5}}, "extra_headers"),
        ({"credentials": StaticToken("t"), "encryption": True}, "encryption: expected a BodyCipher"),
    ],
)
def test_a_client_that_could_not_work_is_not_made(arguments: dict[str, Any], words: str) -> None:
    settings: dict[str, Any] = {"coins_base_url": COINS, "auth_base_url": AUTH, "credentials": credentials()}

    with pytest.raises((TypeError, ValueError), match=words):
        EnkashClient(**{**settings, **arguments})


def test_plain_http_can_be_allowed_and_is_on_loopback() -> None:
    EnkashClient(
        coins_base_url="http://coins.example", auth_base_url="http://auth.example", credentials=credentials(), allow_insecure=True
    )
    EnkashClient(coins_base_url="http://127.0.0.1:9500", auth_base_url="http://localhost:9500", credentials=credentials())


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
    with pytest.raises((TypeError, ValueError), match="expected"):
        PasswordCredentials(*parts)


@pytest.mark.parametrize("token", ["", "two words", "line\n", None, 5])
def test_a_static_token_that_no_header_can_carry_is_refused(token: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="access_token: expected"):
        StaticToken(token)


def test_encryption_may_have_its_own_cipher() -> None:
    EnkashClient(coins_base_url=COINS, credentials=StaticToken("t"), encryption=BodyCipher("secret"))
