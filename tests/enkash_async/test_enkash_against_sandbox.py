"""The client against the sandboxed vendor over loopback."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from enkash_async import CoinConfiguration, EnkashClient, MemoryBreakerStore, PasswordCredentials, StaticToken, TokenUnavailable
from rewards_core.errors import ConfigurationError, NotFound, OutcomeUnknown, RequestRejected
from rewards_core.rate import Limits
from tests.enkash_async.enkash_kit import outcome, settle
from tests.stepped_time import SteppedTime
from vendor_sandboxes import EnkashSandbox

TOKEN_PATH = "/oauth/token"
Pair = tuple[EnkashSandbox, EnkashClient]


@asynccontextmanager
async def client_of(sandbox: EnkashSandbox, time: SteppedTime, **arguments: Any) -> AsyncIterator[EnkashClient]:
    settings: dict[str, Any] = {
        "coins_base_url": sandbox.url,
        "auth_base_url": sandbox.url,
        "credentials": PasswordCredentials(sandbox.client_id, sandbox.client_secret, sandbox.username, sandbox.password),
        "clock": time.now,
    }
    async with EnkashClient(**{**settings, **arguments}) as client:
        yield client


@pytest_asyncio.fixture
async def sandbox(time: SteppedTime) -> AsyncIterator[EnkashSandbox]:
    async with EnkashSandbox(clock=time.now) as sandbox:
        yield sandbox


@pytest_asyncio.fixture
async def client(sandbox: EnkashSandbox, time: SteppedTime) -> AsyncIterator[EnkashClient]:
    async with client_of(sandbox, time) as client:
        yield client


VARIANTS: list[dict[str, Any]] = [
    {},
    {"envelope": "code"},
    {"code_as": "string"},
    {"token_keys": "camel"},
    {"expires_in": 86399},
]


@pytest.mark.parametrize("switches", VARIANTS, ids=str)
async def test_coins_go_from_event_to_balance(time: SteppedTime, switches: dict[str, Any]) -> None:
    async with EnkashSandbox(clock=time.now, **switches) as sandbox, client_of(sandbox, time) as client:
        await walk(client)


async def test_coins_go_from_event_to_balance_encrypted(time: SteppedTime) -> None:
    async with (
        EnkashSandbox(clock=time.now, encrypted=True) as sandbox,
        client_of(sandbox, time, encryption=True) as client,
    ):
        await walk(client)

        assert b"REFERRAL_EVENT" not in b"".join(request.body for request in sandbox.requests)


async def walk(client: EnkashClient) -> None:
    event = await client.create_event(event="REFERRAL_EVENT", amount=6)
    assert await client.get_event(event.coin_config_id) == event
    assert await client.get_balance("EKQZVMQK") == 0
    receipt = await client.allocate_coins(event="REFERRAL_EVENT", user_id="EKQZVMQK", request_id="R1")
    assert receipt.message == "Successfully allocated enkash Coins"
    changed = await client.update_event(event.coin_config_id, amount=10, configuration="CUSTOM")
    assert (changed.amount, changed.configuration, changed.company_id) == (10, CoinConfiguration.CUSTOM, None)
    await client.allocate_coins(event="REFERRAL_EVENT", user_id="EKQZVMQK", request_id="R2")
    assert await client.get_balance("EKQZVMQK") == 16
    with pytest.raises(NotFound):
        await client.get_event("WCC1")


async def test_the_vendors_no_moves_no_coins(sandbox: EnkashSandbox, client: EnkashClient) -> None:
    await client.create_event(event="REFERRAL_EVENT", amount=6)
    sandbox.funds = 5

    with pytest.raises(RequestRejected) as caught:
        await client.allocate_coins(event="REFERRAL_EVENT", user_id="EKQZVMQK", request_id="R1")

    assert (caught.value.status, caught.value.code) == (200, "1")
    assert await client.get_balance("EKQZVMQK") == 0


async def test_a_lost_reply_is_unknown_and_the_coins_are_given_once(sandbox: EnkashSandbox, client: EnkashClient) -> None:
    await client.create_event(event="REFERRAL_EVENT", amount=6)
    sandbox.script("drop_after_commit", path="allocate-coin")

    with pytest.raises(OutcomeUnknown):
        await client.allocate_coins(event="REFERRAL_EVENT", user_id="EKQZVMQK", request_id="R1")

    assert await client.get_balance("EKQZVMQK") == 6


async def test_where_the_vendor_replays_a_request_id_a_lost_reply_is_made_good(sandbox: EnkashSandbox, time: SteppedTime) -> None:
    async with client_of(sandbox, time, repeat_allocations=True) as client:
        await client.create_event(event="REFERRAL_EVENT", amount=6)
        sandbox.script("drop_after_commit", "p503", path="allocate-coin")

        await client.allocate_coins(event="REFERRAL_EVENT", user_id="EKQZVMQK", request_id="R1")

        assert await client.get_balance("EKQZVMQK") == 6


@pytest.mark.parametrize("duplicates", ["reject", "conflict"])
async def test_where_the_vendor_knows_a_request_id_a_second_call_is_unknown_and_gives_nothing(
    time: SteppedTime, duplicates: str
) -> None:
    async with (
        EnkashSandbox(clock=time.now, duplicate_request=duplicates) as sandbox,
        client_of(sandbox, time) as client,
    ):
        await client.create_event(event="REFERRAL_EVENT", amount=6)
        await client.allocate_coins(event="REFERRAL_EVENT", user_id="EKQZVMQK", request_id="R1")

        with pytest.raises(OutcomeUnknown):
            await client.allocate_coins(event="REFERRAL_EVENT", user_id="EKQZVMQK", request_id="R1")

        assert await client.get_balance("EKQZVMQK") == 6


async def test_a_borrowed_session_with_credentials_of_its_own_is_found_out_before_anything_is_sent(
    sandbox: EnkashSandbox, time: SteppedTime
) -> None:
    store = MemoryBreakerStore()
    owner = PasswordCredentials(sandbox.client_id, sandbox.client_secret, sandbox.username, sandbox.password)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # newer releases of aiohttp deprecate auth=
        session = aiohttp.ClientSession(auth=aiohttp.BasicAuth("user", "pass-word"))
    async with session:
        for credentials in (owner, StaticToken("own-1")):
            async with client_of(sandbox, time, session=session, credentials=credentials, breaker_store=store) as client:
                with pytest.raises(ConfigurationError, match="auth=") as caught:
                    await client.allocate_coins(event="E", user_id="EK1", request_id="R1", company_id="C")
            assert "pass-word" not in str(caught.value)

    assert not sandbox.requests
    async with client_of(sandbox, time, breaker_store=store) as client:
        sandbox.script("p503", path=TOKEN_PATH)  # if the mistake had left a mark, this would be the second unanswered request
        assert await client.get_balance("EK1") == 0


async def test_where_the_vendor_rejects_a_request_id_a_lost_reply_stays_unknown(time: SteppedTime) -> None:
    async with (
        EnkashSandbox(clock=time.now, duplicate_request="reject") as sandbox,
        client_of(sandbox, time, repeat_allocations=True) as client,
    ):
        await client.create_event(event="REFERRAL_EVENT", amount=6)
        sandbox.script("drop_after_commit", path="allocate-coin")

        with pytest.raises(OutcomeUnknown):
            await client.allocate_coins(event="REFERRAL_EVENT", user_id="EKQZVMQK", request_id="R1")

        assert await client.get_balance("EKQZVMQK") == 6


@pytest.mark.slow
@pytest.mark.repeats_itself
async def test_a_thousand_concurrent_callers_make_one_token_request(sandbox: EnkashSandbox, client: EnkashClient) -> None:
    balances = await asyncio.gather(*(client.get_balance("EK1") for _ in range(1000)))

    assert balances == [0] * 1000
    assert sandbox.token_requests == 1


@pytest.mark.slow
async def test_a_hanging_token_endpoint_keeps_nobody_waiting_while_the_old_token_is_valid(
    sandbox: EnkashSandbox, client: EnkashClient, time: SteppedTime
) -> None:
    await client.get_balance("EK1")
    sandbox.options.token_hang = 60.0  # longer than this test may take
    time.at += 200

    for _ in range(5):
        assert await asyncio.gather(*(client.get_balance("EK1") for _ in range(20))) == [0] * 20
        time.at += 1

    await sandbox.until(lambda: sandbox.token_requests == 2)
    assert sandbox.token_requests == 2


@pytest.mark.repeats_itself
@pytest.mark.slow
async def test_a_token_that_ends_in_the_middle_fails_none_of_thousands_of_calls(time: SteppedTime, soak: bool) -> None:
    count, done = (10_000 if soak else 2_000), 0
    async with (
        EnkashSandbox(clock=time.now) as sandbox,
        client_of(sandbox, time, limits=Limits(connections=40)) as client,
    ):
        await client.create_event(event="REFERRAL_EVENT", amount=6)
        numbers = iter(range(count))

        async def work() -> None:
            nonlocal done
            for number in numbers:
                await client.allocate_coins(event="REFERRAL_EVENT", user_id=f"EK{number % 7}", request_id=f"R{number}")
                done += 1
                time.at += 500 / count  # five hundred seconds in total, so that tokens expire as well
                if done in {count * 3 // 10, count * 3 // 10 + 1, count * 7 // 10}:
                    sandbox.expire_tokens()

        async with asyncio.TaskGroup() as group:
            for _ in range(40):
                group.create_task(work())

        assert done == count
        assert sum(sandbox.coins.balances.values()) == 6 * count
        assert sandbox.tokens.rejections == 0
        assert 3 <= sandbox.token_requests <= 10


async def test_a_token_endpoint_that_is_down_for_a_moment_fails_no_call(sandbox: EnkashSandbox, client: EnkashClient) -> None:
    sandbox.script("drop_before_commit", path=TOKEN_PATH)

    assert await client.get_balance("EK1") == 0


async def test_a_token_endpoint_that_is_down_is_left_alone_for_a_minute(
    sandbox: EnkashSandbox, client: EnkashClient, time: SteppedTime
) -> None:
    await client.get_balance("EK1")
    time.at += 300
    sandbox.requests.clear()
    sandbox.script("p503", "drop_after_commit", path=TOKEN_PATH)
    arrived: Callable[[], int] = lambda: sum(request.path == TOKEN_PATH for request in sandbox.requests)  # noqa: E731

    problems = await asyncio.gather(*(outcome(client.get_balance("EK1")) for _ in range(100)))

    assert {type(problem) for problem in problems} == {TokenUnavailable}
    assert arrived() == 2
    time.at += 60
    assert await client.get_balance("EK1") == 0


async def test_closing_while_the_token_endpoint_hangs_leaves_nothing_behind(sandbox: EnkashSandbox, time: SteppedTime) -> None:
    sandbox.options.token_hang = 60.0
    async with client_of(sandbox, time) as client:
        waiting = asyncio.create_task(outcome(client.get_balance("EK1")))
        await sandbox.until(lambda: sandbox.token_requests == 1)
        await settle()
    assert type(await waiting).__name__ == "ClientClosed"
