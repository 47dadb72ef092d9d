"""Token requests without an answer are repeated once, and then paused for everybody who shares the store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from enkash_async import BreakerState, BreakerStore, FileBreakerStore, MemoryBreakerStore, TokenUnavailable
from rewards_core.clock import UNKNOWN_BOOT
from rewards_core.errors import OutcomeUnknown, UnexpectedResponse
from tests.enkash_async.enkash_kit import TokenEndpoint, outcome
from tests.enkash_async.token_kit import New, proven, refused, silence, unanswered
from tests.stepped_time import DAY, SteppedTime, each_jump


async def test_an_unanswered_request_is_repeated_once(new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime) -> None:
    tokens = new_tokens()
    endpoint.script.append(unanswered())

    assert await tokens.token() == "token-2"
    assert time.slept == [1.0]


async def test_two_unanswered_requests_fail_every_caller_for_sixty_seconds(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime
) -> None:
    tokens = await proven(new_tokens(), endpoint, time)
    endpoint.script.extend([unanswered(), unanswered()])

    problems = await asyncio.gather(*(outcome(tokens.token()) for _ in range(1000)))

    assert {type(problem) for problem in problems} == {TokenUnavailable}
    assert problems[0].retry_after == 60.0
    time.at += 59.9
    with pytest.raises(TokenUnavailable) as caught:
        await tokens.token()
    assert caught.value.retry_after == pytest.approx(0.1)
    assert endpoint.calls == 2
    time.at += 0.1
    assert await tokens.token() == "token-3"


async def test_after_the_pause_only_one_more_request_is_risked(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime
) -> None:
    tokens = await proven(new_tokens(), endpoint, time)
    endpoint.script.extend([unanswered(), unanswered(), unanswered()])
    await outcome(tokens.token())
    time.at += 60

    with pytest.raises(TokenUnavailable):
        await tokens.token()

    assert endpoint.calls == 3
    time.at += 60
    assert await tokens.token() == "token-4"


async def test_the_pause_holds_for_every_client_on_the_same_store(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime
) -> None:
    store = MemoryBreakerStore()
    tokens = await proven(new_tokens(store), endpoint, time)
    endpoint.script.extend([unanswered(), unanswered()])
    await outcome(tokens.token())
    time.at += 20

    with pytest.raises(TokenUnavailable) as caught:
        await new_tokens(store).token()

    assert caught.value.retry_after == 40.0
    assert endpoint.calls == 2


async def test_credentials_that_never_brought_a_token_are_tried_every_ten_minutes(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime
) -> None:
    store = MemoryBreakerStore()
    tokens = new_tokens(store)
    endpoint.script.extend([unanswered(), unanswered(), unanswered()])

    for _ in range(10):
        for each in (tokens, new_tokens(store)):
            with pytest.raises(TokenUnavailable):
                await each.token()
        time.at += 59
    assert endpoint.calls == 2

    time.at += 60
    with pytest.raises(TokenUnavailable) as caught:
        await tokens.token()
    assert caught.value.retry_after == 600.0
    assert endpoint.calls == 3
    time.at += 600
    assert await tokens.token() == "token-4"


async def test_a_new_client_knows_that_the_credentials_have_brought_a_token(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime
) -> None:
    store = MemoryBreakerStore()
    await proven(new_tokens(store), endpoint, time)
    tokens = new_tokens(store)
    endpoint.script.extend([unanswered(), unanswered()])

    with pytest.raises(TokenUnavailable) as caught:
        await tokens.token()
    assert caught.value.retry_after == 60.0
    time.at += 60

    assert await tokens.token() == "token-3"


async def test_credentials_that_were_refused_count_as_unproven(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime
) -> None:
    store = MemoryBreakerStore()
    tokens = await proven(new_tokens(store), endpoint, time)
    endpoint.script.append(refused())
    await outcome(tokens.token())

    assert (await store.load("account-1")).accepted_at is None


async def test_a_token_makes_earlier_silence_forgotten(new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime) -> None:
    store = MemoryBreakerStore()
    endpoint.script.append(unanswered())
    await new_tokens(store).token()

    assert await store.load("account-1") == BreakerState(accepted_at=time.now())


async def test_what_came_instead_of_an_answer_is_told_to_every_client_on_the_same_store(
    new_tokens: New, endpoint: TokenEndpoint
) -> None:
    store = MemoryBreakerStore()
    endpoint.script.extend([unanswered(), OutcomeUnknown("EnKash token: no answer", status=302)])
    await outcome(new_tokens(store).token())

    with pytest.raises(TokenUnavailable, match="HTTP 302"):
        await new_tokens(store).token()

    kept = await store.load("account-1")
    assert (kept.rejected_at, kept.unanswered, kept.status) == (None, 2, 302)
    assert endpoint.calls == 2


async def test_a_lost_reply_after_a_redirect_is_told_as_a_lost_reply(new_tokens: New, endpoint: TokenEndpoint) -> None:
    endpoint.script.extend([OutcomeUnknown("EnKash token: no answer", status=302), unanswered()])

    with pytest.raises(TokenUnavailable) as caught:
        await new_tokens().token()
    assert "302" not in str(caught.value)


async def test_a_process_that_died_after_a_redirect_is_told_as_one_without_an_answer(
    new_tokens: New, endpoint: TokenEndpoint
) -> None:
    store = MemoryBreakerStore()
    await store.save("account-1", BreakerState(unanswered=1, status=302))
    endpoint.open.clear()
    dying = new_tokens(store)
    waiting = asyncio.create_task(outcome(dying.token()))
    await endpoint.asked.wait()
    await dying.aclose()
    await waiting

    with pytest.raises(TokenUnavailable) as caught:
        await new_tokens(store).token()
    assert "302" not in str(caught.value)


async def test_what_is_neither_a_refusal_nor_silence_leaves_the_mark_and_forbids_nothing(
    new_tokens: New, endpoint: TokenEndpoint
) -> None:
    store = MemoryBreakerStore()
    endpoint.script.append(UnexpectedResponse("EnKash token: nobody knows"))

    with pytest.raises(UnexpectedResponse):
        await new_tokens(store).token()

    kept = await store.load("account-1")
    assert (kept.rejected_at, kept.unanswered) == (None, 1)


@pytest.fixture(params=["memory", "file"])
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], BreakerStore]:
    """Return another object with the same states, as of another process."""
    memory = MemoryBreakerStore()
    return lambda: memory if request.param == "memory" else FileBreakerStore(tmp_path / "breaker.json")


@each_jump
async def test_a_clock_that_jumps_neither_stretches_nor_ends_the_pause_of_another_client(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime, new_store: Callable[[], BreakerStore], jumps: list[float]
) -> None:
    time.ahead += sum(jumps[:-1])
    tokens = await proven(new_tokens(new_store()), endpoint, time)
    endpoint.script.extend([unanswered(), unanswered()])
    await outcome(tokens.token())
    time.ahead += jumps[-1]

    for passed in (20.0, 39.0):
        time.at += passed
        for each in (tokens, new_tokens(new_store())):
            with pytest.raises(TokenUnavailable):
                await each.token()
    assert endpoint.calls == 2

    time.at += 1.0
    assert await new_tokens(new_store()).token() == "token-3"


@each_jump
async def test_a_clock_that_jumps_neither_puts_off_nor_hastens_renewal(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime, jumps: list[float]
) -> None:
    tokens = new_tokens()
    assert await tokens.token() == "token-1"
    for jump in jumps:
        time.ahead += jump
        assert await tokens.token() == "token-1"
    assert endpoint.calls == 1

    time.at += 255.0
    assert await tokens.token() == "token-2"


@pytest.mark.parametrize("boots", [["boot-1", "boot-2"], [UNKNOWN_BOOT, UNKNOWN_BOOT]])
async def test_after_a_boot_the_pause_lasts_its_own_length_once(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime, monkeypatch: pytest.MonkeyPatch, boots: list[str]
) -> None:
    store = MemoryBreakerStore()
    monkeypatch.setattr("enkash_async.tokens.boot_id", lambda: boots[0])
    await silence(new_tokens, endpoint, time, store)
    monkeypatch.setattr("enkash_async.tokens.boot_id", lambda: boots[1])
    time.at = 30.0  # the host has just booted

    for passed, left in ((0.0, 60.0), (20.0, 40.0), (39.0, 1.0)):
        time.at += passed
        with pytest.raises(TokenUnavailable) as caught:
            await new_tokens(store).token()
        assert caught.value.retry_after == left
    assert endpoint.calls == 2
    time.at += 1.0
    assert await new_tokens(store).token() == "token-3"


@pytest.mark.parametrize(("first", "left"), [("host-1", 1.0), ("host-2", 11.0)])
async def test_two_hosts_that_share_a_store_do_not_stretch_each_others_pause(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime, monkeypatch: pytest.MonkeyPatch, first: str, left: float
) -> None:
    store = MemoryBreakerStore()
    monkeypatch.setattr("enkash_async.tokens.boot_id", lambda: "host-1")
    await silence(new_tokens, endpoint, time, store)

    for passed in (10.0, 20.0, 29.0):
        time.at += passed
        for host in ("host-1", "host-2"):
            monkeypatch.setattr("enkash_async.tokens.boot_id", lambda host=host: host)
            with pytest.raises(TokenUnavailable):
                await new_tokens(store).token()
    assert endpoint.calls == 2
    time.at += left
    monkeypatch.setattr("enkash_async.tokens.boot_id", lambda: first)
    assert await new_tokens(store).token() == "token-3"


async def test_a_mark_of_an_older_version_is_waited_out_once(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime, tmp_path: Path
) -> None:
    kept = {"accepted_at": 1.0, "rejected_at": None, "status": None, "message": "", "unanswered": 2}
    accounts = {"account-1": {**kept, "unanswered_at": time.now() + 10 * DAY}}
    (tmp_path / "breaker.json").write_text(json.dumps({"version": 1, "accounts": accounts}))

    with pytest.raises(TokenUnavailable) as caught:
        await new_tokens(FileBreakerStore(tmp_path / "breaker.json")).token()
    assert caught.value.retry_after == 60.0
    time.at += 60.0
    assert await new_tokens(FileBreakerStore(tmp_path / "breaker.json")).token() == "token-1"


async def test_a_process_that_died_during_a_request_has_left_its_mark(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime
) -> None:
    store = MemoryBreakerStore()
    for _ in range(2):
        endpoint.open.clear()
        endpoint.asked.clear()
        dying = new_tokens(store)
        waiting = asyncio.create_task(outcome(dying.token()))
        await endpoint.asked.wait()
        await dying.aclose()
        await waiting

    endpoint.open.set()
    with pytest.raises(TokenUnavailable):
        await new_tokens(store).token()
    assert endpoint.calls == 2
