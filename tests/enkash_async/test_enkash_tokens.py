"""How many token requests are sent, which tasks wait for them, and how their answers are treated."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rewards_core.errors import ConnectFailed
from tests.enkash_async.enkash_kit import TokenEndpoint, settle, token
from tests.enkash_async.token_kit import New
from tests.stepped_time import SteppedTime


async def test_a_thousand_concurrent_callers_make_one_request(new_tokens: New, endpoint: TokenEndpoint) -> None:
    tokens = new_tokens()

    found = await asyncio.gather(*(tokens.token() for _ in range(1000)))

    assert set(found) == {"token-1"}
    assert endpoint.calls == 1


async def test_a_valid_token_is_used_without_another_request(new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime) -> None:
    tokens = new_tokens()
    await tokens.token()

    time.at += 180

    assert await tokens.token() == "token-1"
    assert endpoint.calls == 1


@pytest.mark.parametrize(
    ("expires_in", "usable"),
    [(86399.0, 255.0), (299.0, 254.0), (None, 255.0), (100.0, 55.0), (60.0, 30.0), (10.0, 5.0)],
)
async def test_a_token_is_used_until_45_seconds_before_five_minutes_or_its_own_end(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime, expires_in: float | None, usable: float
) -> None:
    tokens = new_tokens()
    endpoint.script.append(token("first", expires_in))
    await tokens.token()
    endpoint.open.clear()

    time.at += usable - 0.001
    assert tokens.ready() == "first"
    time.at += 0.001
    assert tokens.ready() is None


async def test_a_lifetime_that_was_told_counts_alone(new_tokens: New, time: SteppedTime, endpoint: TokenEndpoint) -> None:
    tokens = new_tokens(lifetime=3600.0)
    endpoint.script.append(token("first", 60.0))
    await tokens.token()
    endpoint.open.clear()

    time.at += 3599
    assert tokens.ready() == "first"
    time.at += 1
    assert tokens.ready() is None


async def test_the_life_of_a_token_begins_when_it_was_asked_for(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime
) -> None:
    tokens = new_tokens()
    endpoint.open.clear()
    waiting = asyncio.create_task(tokens.token())
    await endpoint.asked.wait()
    time.at += 20
    endpoint.open.set()
    assert await waiting == "token-1"
    endpoint.open.clear()

    time.at += 255 - 20

    assert tokens.ready() is None


async def test_a_token_without_life_still_serves_those_who_waited_for_it(new_tokens: New, endpoint: TokenEndpoint) -> None:
    tokens = new_tokens()
    endpoint.script.append(token("short", 0.0))

    found = await asyncio.gather(*(tokens.token() for _ in range(10)))

    assert set(found) == {"short"}
    assert endpoint.calls == 1
    assert await tokens.token() == "token-2"


async def test_nobody_waits_for_a_refresh_while_the_old_token_is_valid(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime
) -> None:
    tokens = new_tokens()
    await tokens.token()
    endpoint.open.clear()
    time.at += 250

    for _ in range(5):  # the token endpoint hangs for five seconds
        assert tokens.ready() == "token-1"
        await settle()
        time.at += 0.999

    assert endpoint.calls == 2
    endpoint.open.set()
    await settle()
    assert tokens.ready() == "token-2"
    assert endpoint.calls == 2


async def test_who_comes_after_the_old_token_ended_joins_the_refresh_under_way(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime
) -> None:
    tokens = new_tokens()
    await tokens.token()
    endpoint.open.clear()
    endpoint.asked.clear()
    time.at += 250
    tokens.ready()
    await endpoint.asked.wait()
    time.at += 10

    late = [asyncio.create_task(tokens.token()) for _ in range(3)]
    await settle()
    endpoint.open.set()

    assert await asyncio.gather(*late) == ["token-2"] * 3
    assert endpoint.calls == 2


async def test_a_refresh_that_brings_the_same_token_is_not_repeated_at_once(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime
) -> None:
    tokens = new_tokens()
    endpoint.script.extend([token("same", 20.0), token("same", 8.0)])
    await tokens.token()
    time.at += 8
    tokens.ready()
    await settle()
    assert endpoint.calls == 2

    time.at += 3.9
    assert tokens.ready() == "same"
    await settle()

    assert endpoint.calls == 2


async def test_a_failed_refresh_is_tried_again_five_seconds_later_and_fails_nobody(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = new_tokens()
    await tokens.token()
    endpoint.script.append(ConnectFailed("EnKash token: expected a connection, got none"))
    time.at += 200
    assert tokens.ready() == "token-1"
    await settle()

    time.at += 4.9
    assert tokens.ready() == "token-1"
    await settle()
    assert endpoint.calls == 2

    time.at += 0.1
    assert tokens.ready() == "token-1"
    await settle()
    assert endpoint.calls == 3
    assert tokens.ready() == "token-3"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_a_401_fetches_another_token_once_for_all_who_met_it(new_tokens: New, endpoint: TokenEndpoint) -> None:
    tokens = new_tokens()
    old = await tokens.token()

    found = await asyncio.gather(*(tokens.renew(old) for _ in range(1000)))

    assert set(found) == {"token-2"}
    assert endpoint.calls == 2


async def test_a_late_401_of_a_replaced_token_costs_no_request(new_tokens: New, endpoint: TokenEndpoint) -> None:
    tokens = new_tokens()
    old = await tokens.token()
    await tokens.renew(old)

    assert await tokens.renew(old) == "token-2"
    assert endpoint.calls == 2


async def test_a_401_during_a_refresh_waits_for_that_refresh(new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime) -> None:
    tokens = new_tokens()
    old = await tokens.token()
    endpoint.open.clear()
    endpoint.asked.clear()
    time.at += 200
    tokens.ready()
    await endpoint.asked.wait()

    renewing = asyncio.create_task(tokens.renew(old))
    await settle()
    endpoint.open.set()

    assert await renewing == "token-2"
    assert endpoint.calls == 2


async def test_cancelling_one_who_waits_leaves_the_fetch_to_the_others(new_tokens: New, endpoint: TokenEndpoint) -> None:
    tokens = new_tokens()
    endpoint.open.clear()
    first = asyncio.create_task(tokens.token())
    await endpoint.asked.wait()
    second = asyncio.create_task(tokens.token())
    await settle()

    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    endpoint.open.set()

    assert await second == "token-1"
    assert endpoint.calls == 1


async def test_one_who_is_cancelled_while_the_token_lands_is_left_alone(new_tokens: New, endpoint: TokenEndpoint) -> None:
    async def ask() -> Any:
        asyncio.get_running_loop().call_soon(caller.cancel)
        return await endpoint()

    tokens = new_tokens(ask=ask)
    caller = asyncio.create_task(tokens.token())

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert tokens.ready() == "token-1"


async def test_a_fetch_whose_only_caller_left_still_serves_the_next(new_tokens: New, endpoint: TokenEndpoint) -> None:
    tokens = new_tokens()
    endpoint.open.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await tokens.token()
    endpoint.open.set()
    await settle()

    assert tokens.ready() == "token-1"
    assert endpoint.calls == 1
