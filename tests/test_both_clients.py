"""What both clients do alike, each scenario told once."""

from __future__ import annotations

import copy
import pickle
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
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
        make=lambda **options: OriginalClient(API_KEY, API_SECRET, clock=time.wall, random=lambda: 0.0, **options),
        address=original.BASE,
        calls=[CALLS["get_claim"], CALLS["create_claim"], *CALLS.values()],
        read_url=f"{original.BASE}/reward/claim/{UID}",
        read_answer={"success": True, "data": {"uid": UID, "status": "pending", **ids}},
        write_url=f"{original.BASE}/reward/claim",
        write_answer={"success": True, "data": {"uid": "1"}},
    )


def enkash_door(wire: aioresponses, time: SteppedTime) -> Door:
    wire.post(enkash.TOKEN_URL, payload=enkash.TOKEN_REPLY, repeat=True)
    settings: dict[str, Any] = {"coins_base_url": enkash.COINS, "auth_base_url": enkash.AUTH, "credentials": enkash.credentials()}
    return Door(
        wire=wire,
        make=lambda **options: EnkashClient(**settings, clock=time.wall, random=lambda: 0.0, **options),
        address=enkash.COINS,
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
