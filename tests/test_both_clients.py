"""What both clients do alike, each scenario told once."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aioresponses import aioresponses
from attrs import frozen

from enkash_async import EnkashClient
from original_async import OriginalClient
from rewards_core.backoff import RetryPolicy
from rewards_core.errors import ClientClosed, RateLimited, ServerFailed, UnexpectedResponse
from rewards_core.http.timeouts import Timeouts
from rewards_core.version import USER_AGENT
from tests.enkash_async import enkash_kit as enkash
from tests.original_async import conftest as original
from tests.original_async.family_kit import CALLS, UID
from tests.stepped_time import SteppedTime
from vendor_sandboxes.original import API_KEY, API_SECRET

Call = Callable[..., Awaitable[Any]]


@frozen(kw_only=True)
class Door:
    """One client and its calls, of which the first is a read and the second a write without a key."""

    wire: aioresponses
    make: Callable[..., Any]
    address: str
    address_option: str
    from_env: Callable[[], Any]
    variables: Mapping[str, str]
    calls: Sequence[Call]
    read_url: str
    read_answer: Any
    write_url: str
    write_answer: Any

    async def read(self, client: Any) -> None:
        await self.calls[0](client)

    async def write(self, client: Any) -> None:
        await self.calls[1](client)


def original_door(wire: aioresponses, time: SteppedTime) -> Door:
    ids: dict[str, Any] = {"reward_uid": original.REWARD, "from_user_uid": original.USER, "to_address": original.WALLET}
    return Door(
        wire=wire,
        make=lambda **options: OriginalClient(API_KEY, API_SECRET, **{"clock": time.wall, "random": lambda: 0.0, **options}),
        address=original.BASE,
        address_option="base_url",
        from_env=OriginalClient.from_env,
        variables={"ORIGINAL_API_KEY": API_KEY, "ORIGINAL_API_SECRET": API_SECRET},
        calls=[CALLS["get_claim"], CALLS["create_claim"], *CALLS.values()],
        read_url=f"{original.BASE}/reward/claim/{UID}",
        read_answer={"success": True, "data": {"uid": UID, "status": "pending", **ids}},
        write_url=f"{original.BASE}/reward/claim",
        write_answer={"success": True, "data": {"uid": "1"}},
    )


def enkash_door(wire: aioresponses, time: SteppedTime) -> Door:
    wire.post(enkash.TOKEN_URL, payload=enkash.TOKEN_REPLY, repeat=True)
    settings: dict[str, Any] = {"coins_base_url": enkash.COINS, "auth_base_url": enkash.AUTH, "credentials": enkash.credentials()}
    settings |= {"clock": time.wall, "random": lambda: 0.0}
    return Door(
        wire=wire,
        make=lambda **options: EnkashClient(**{**settings, **options}),
        address=enkash.COINS,
        address_option="coins_base_url",
        from_env=EnkashClient.from_env,
        variables=enkash.ENVIRONMENT,
        calls=[
            lambda client, **options: client.get_balance("EK1", **options),
            lambda client, **options: client.allocate_coins(event="E", user_id="EK1", request_id="R1", **options),
            lambda client, **options: client.create_event(event="E", amount=1, **options),
            lambda client, **options: client.get_event("WCC1", **options),
            lambda client, **options: client.update_event("WCC1", amount=1, **options),
        ],
        read_url=f"{enkash.BALANCE_URL}?userId=EK1",
        read_answer=enkash.BALANCE,
        write_url=enkash.ALLOCATE_URL,
        write_answer=enkash.ALLOCATED,
    )


@pytest_asyncio.fixture(params=[original_door, enkash_door], ids=["original", "enkash"])
async def door(request: pytest.FixtureRequest, stepped_time: SteppedTime) -> AsyncIterator[Door]:
    with aioresponses() as wire:
        yield request.param(wire, stepped_time)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("address", "example.com"),
        ("address", "http://example.com/v1"),
        ("address", "https://user:canary@example.com"),
        ("address", "https://example.com/v1?api_key=canary"),
        ("allow_insecure", "false"),
        ("allow_insecure", 1),
        ("clock", 5),
        ("random", "text"),
    ],
)
async def test_a_client_that_could_not_work_is_not_made(door: Door, option: str, value: Any) -> None:
    name = door.address_option if option == "address" else option
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: ") as caught:
        door.make(**{name: value})
    assert "canary" not in str(caught.value)


async def test_plain_http_may_be_asked_for_and_is_on_loopback(door: Door) -> None:
    assert "http://example.com" in repr(door.make(**{door.address_option: "http://example.com", "allow_insecure": True}))
    assert "http://127.0.0.1:9400" in repr(door.make(**{door.address_option: "http://127.0.0.1:9400"}))


@pytest.mark.parametrize("value", [None, ""])
async def test_each_missing_variable_is_named(door: Door, value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*door.variables, "ENKASH_ACCESS_TOKEN", "ORIGINAL_ENVIRONMENT", "ORIGINAL_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for missing in door.variables:
        for name, given in door.variables.items():
            monkeypatch.setenv(name, given)
        if value is None:
            monkeypatch.delenv(missing)
        else:
            monkeypatch.setenv(missing, value)
        with pytest.raises(ValueError, match=rf"^Set {missing}\b"):
            door.from_env()


async def test_a_closed_client_says_so(door: Door) -> None:
    async with door.make() as client:
        pass
    await client.aclose()
    with pytest.raises(ClientClosed):
        await door.read(client)
    assert not [url for _, url in door.wire.requests if str(url) == door.read_url]


async def test_a_borrowed_session_is_used_and_left_open(door: Door) -> None:
    door.wire.get(door.read_url, payload=door.read_answer)
    async with aiohttp.ClientSession() as session:
        async with door.make(session=session) as client:
            await door.read(client)
        assert not session.closed


async def test_every_request_says_which_version_sends_it(door: Door) -> None:
    door.wire.get(door.read_url, payload=door.read_answer)
    door.wire.post(door.write_url, payload=door.write_answer)
    async with door.make() as client:
        await door.read(client)
        await door.write(client)
    agents = [call.kwargs["headers"].getall("User-Agent") for calls in door.wire.requests.values() for call in calls]
    assert len(agents) >= 2
    assert all(each == [USER_AGENT] for each in agents)


async def test_a_client_is_neither_copied_nor_pickled_and_shows_its_address(door: Door) -> None:
    async with door.make() as client:
        for copier in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match=type(client).__name__):
                copier(client)
        assert door.address in repr(client)


@pytest.mark.parametrize("timeout", [0, 0.0, -1, float("nan"), float("inf"), 10**400, True, "1", Decimal(1), [1]])
async def test_a_timeout_that_cannot_be_one_is_refused_before_any_request(door: Door, timeout: Any) -> None:
    async with door.make() as client:
        for call in door.calls:
            with pytest.raises((TypeError, ValueError), match=r"^timeout: "):
                await call(client, timeout=timeout)
    assert not door.wire.requests


async def test_a_redirect_is_never_followed(door: Door) -> None:
    door.wire.post(door.write_url, status=307, headers={"Location": "https://evil.example/"})
    async with door.make() as client:
        with pytest.raises(UnexpectedResponse) as caught:
            await door.write(client)
    assert caught.value.status == 307
    assert not [url for _, url in door.wire.requests if url.host == "evil.example"]


async def test_a_429_is_waited_out_even_by_a_write_without_a_key(door: Door, stepped_time: SteppedTime) -> None:
    door.wire.post(door.write_url, status=429, headers={"Retry-After": "7"})
    door.wire.post(door.write_url, payload=door.write_answer)
    async with door.make() as client:
        await door.write(client)
    assert sum(stepped_time.slept) >= 7


async def test_a_429_for_too_long_ends_the_call(door: Door) -> None:
    door.wire.post(door.write_url, status=429, headers={"Retry-After": "3600"})
    async with door.make() as client:
        with pytest.raises(RateLimited) as caught:
            await door.write(client)
    assert caught.value.retry_after == 3600


async def test_a_read_is_retried_and_then_fails_as_a_read(door: Door, stepped_time: SteppedTime) -> None:
    door.wire.get(door.read_url, status=503)
    door.wire.get(door.read_url, exception=aiohttp.ServerDisconnectedError())
    door.wire.get(door.read_url, payload=door.read_answer)
    door.wire.get(door.read_url, status=503, repeat=True)
    async with door.make(retry=RetryPolicy(attempts=3)) as client:
        await door.read(client)
        assert stepped_time.slept == [0.25, 0.5]
        with pytest.raises(ServerFailed) as caught:
            await door.read(client)
    assert caught.value.attempts == 3


@pytest.mark.slow
async def test_a_timeout_ends_that_call_and_no_other(door: Door, stepped_time: SteppedTime) -> None:
    for method in ("GET", "POST", "PATCH", "PUT"):
        door.wire.add(re.compile(""), method, status=429, headers={"Retry-After": "10"}, repeat=True)
    async with door.make(timeouts=Timeouts(total=100.0), retry=RetryPolicy(attempts=3)) as client:
        for call in door.calls:
            for seconds, attempts in ((9.9, 1), (15.0, 2), (None, 3)):
                stepped_time.at += 60
                began = stepped_time.now()
                with pytest.raises(RateLimited) as caught:
                    await call(client, timeout=seconds)
                assert caught.value.attempts == attempts
                assert stepped_time.now() - began <= (seconds or 100)
