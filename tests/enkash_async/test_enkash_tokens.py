"""How many token requests are sent, which tasks wait for them, and how their answers are treated."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from enkash_async import (
    BreakerState,
    BreakerStore,
    CredentialsRejected,
    FileBreakerStore,
    MemoryBreakerStore,
    TokenUnavailable,
)
from enkash_async.tokens import PasswordTokens
from rewards_core.clock import UNKNOWN_BOOT
from rewards_core.errors import (
    ClientClosed,
    ConfigurationError,
    ConnectFailed,
    DeadlineExceeded,
    OutcomeUnknown,
    RateLimited,
    RequestRejected,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
    VendorError,
)
from tests.enkash_async.enkash_kit import TokenEndpoint, Tokens, outcome, settle, token
from tests.stepped_time import DAY, SteppedTime, each_jump

New = Callable[..., Tokens]


def refused(text: str = "EnKash token: HTTP 400: Bad credentials") -> Unauthorized:
    return Unauthorized(text, status=400)


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


@pytest.mark.parametrize(
    "refusal",
    [
        refused(),
        ValidationFailed("EnKash token: HTTP 422: unsupported", status=422),
        RequestRejected("EnKash token: HTTP 200: invalid response", status=200),
    ],
    ids=["4xx", "422", "200"],
)
async def test_one_refusal_fails_a_thousand_callers_and_everybody_after_them(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime, refusal: VendorError
) -> None:
    tokens = new_tokens()
    endpoint.script.append(refusal)

    problems = await asyncio.gather(*(outcome(tokens.token()) for _ in range(1000)))

    assert {type(problem) for problem in problems} == {CredentialsRejected}
    assert len({id(problem) for problem in problems}) == 1000
    assert {problem.status for problem in problems} == {refusal.status}
    assert str(refusal) in str(problems[0])
    time.at += 1e6
    with pytest.raises(CredentialsRejected):
        await tokens.token()
    assert endpoint.calls == 1


async def test_after_a_refused_refresh_the_old_token_is_used_to_its_end_and_no_other_asked_for(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime
) -> None:
    tokens = new_tokens()
    await tokens.token()
    endpoint.script.append(refused())
    time.at += 200
    for _ in range(50):
        assert tokens.ready() == "token-1"
        await settle()
        time.at += 1

    time.at += 10
    with pytest.raises(CredentialsRejected):
        await tokens.token()
    assert endpoint.calls == 2


async def test_a_refusal_holds_for_every_client_on_the_same_store(new_tokens: New, endpoint: TokenEndpoint) -> None:
    store = MemoryBreakerStore()
    endpoint.script.append(refused())
    await outcome(new_tokens(store).token())

    with pytest.raises(CredentialsRejected, match="Bad credentials") as caught:
        await new_tokens(store).token()

    assert caught.value.status == 400
    assert endpoint.calls == 1


async def test_other_credentials_on_the_same_store_are_tried(new_tokens: New, endpoint: TokenEndpoint) -> None:
    store = MemoryBreakerStore()
    endpoint.script.append(refused())
    await outcome(new_tokens(store).token())

    assert await new_tokens(store, account=lambda: "account-2").token() == "token-2"


async def test_what_the_vendor_says_is_kept_without_secrets(new_tokens: New, endpoint: TokenEndpoint) -> None:
    store = MemoryBreakerStore()
    endpoint.script.append(refused("EnKash token: HTTP 400: no user 9000000000 with pass-word-1"))

    problem = await outcome(new_tokens(store, secrets=lambda: ("pass-word-1", "9000000000")).token())

    kept = await store.load("account-1")
    assert kept.message == "EnKash token: HTTP 400: no user [hidden] with [hidden]"
    assert "pass-word-1" not in str(problem)
    assert problem.__cause__ is None


def unanswered() -> OutcomeUnknown:
    return OutcomeUnknown("EnKash token: expected an answer, got a broken connection")


async def test_an_unanswered_request_is_repeated_once(new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime) -> None:
    tokens = new_tokens()
    endpoint.script.append(unanswered())

    assert await tokens.token() == "token-2"
    assert time.slept == [1.0]


async def proven(tokens: Tokens, endpoint: TokenEndpoint, time: SteppedTime) -> Tokens:
    """Return a manager whose credentials brought a token that has expired since."""
    await tokens.token()
    time.at += 300
    endpoint.calls = 0
    return tokens


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


async def silence(new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime, store: BreakerStore) -> None:
    """Leave a pause of sixty seconds in a store."""
    tokens = await proven(new_tokens(store), endpoint, time)
    endpoint.script.extend([unanswered(), unanswered()])
    await outcome(tokens.token())
    assert endpoint.calls == 2


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


@pytest.mark.parametrize(
    "problem",
    [
        ConnectFailed("EnKash token: never left"),
        RateLimited("EnKash token: 429", retry_after=90.0),
        DeadlineExceeded("EnKash token: no slot"),
        ClientClosed("EnKash token: closed"),
        ConfigurationError("EnKash token: the borrowed session has an auth of its own. Nothing was sent."),
    ],
    ids=lambda problem: type(problem).__name__,
)
async def test_what_cannot_have_counted_fails_those_who_wait_and_leaves_no_mark(
    new_tokens: New, endpoint: TokenEndpoint, problem: Exception
) -> None:
    store = MemoryBreakerStore()
    tokens = new_tokens(store)
    endpoint.script.append(problem)

    problems = await asyncio.gather(*(outcome(tokens.token()) for _ in range(3)))

    assert [(type(one), str(one)) for one in problems] == [(type(problem), str(problem))] * 3
    assert await store.load("account-1") == BreakerState()
    assert await tokens.token() == "token-2"


class BrokenStore(MemoryBreakerStore):
    """Fails after a number of saves."""

    def __init__(self, saves: int) -> None:
        super().__init__()
        self.saves = saves

    async def save(self, account: str, state: BreakerState) -> None:
        self.saves -= 1
        if self.saves < 0:
            raise OSError(30, "Read-only file system")
        await super().save(account, state)


async def test_without_a_working_store_no_token_is_asked_for(new_tokens: New, endpoint: TokenEndpoint) -> None:
    with pytest.raises(TokenUnavailable, match=r"MemoryBreakerStore\(\).*Read-only file system"):
        await new_tokens(BrokenStore(0)).token()

    assert endpoint.calls == 0


async def test_a_token_counts_even_if_its_note_cannot_be_kept(
    new_tokens: New, endpoint: TokenEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    store = BrokenStore(1)

    assert await new_tokens(store).token() == "token-1"

    assert (await store.load("account-1")).unanswered == 1
    assert "BrokenStore" in caplog.text or "MemoryBreakerStore" in caplog.text


async def test_a_store_nobody_can_enter_fails_the_callers_only(new_tokens: New, endpoint: TokenEndpoint) -> None:
    class Taken(MemoryBreakerStore):
        @asynccontextmanager
        async def exclusive(self) -> Any:
            raise TimeoutError("another process holds it")
            yield

    with pytest.raises(TokenUnavailable, match="another process holds it"):
        await new_tokens(Taken()).token()


async def test_a_fetch_of_another_loop_is_not_waited_for(new_tokens: New, endpoint: TokenEndpoint) -> None:
    tokens = new_tokens()
    endpoint.open.clear()
    here = asyncio.ensure_future(tokens.token())
    await endpoint.asked.wait()

    async def elsewhere() -> object:
        async with asyncio.timeout(120):
            return await outcome(tokens.token())

    error = await asyncio.to_thread(asyncio.run, elsewhere())
    assert type(error) is ClientClosed
    endpoint.open.set()
    assert await here == "token-1"


async def test_closing_ends_those_who_wait(new_tokens: New, endpoint: TokenEndpoint) -> None:
    tokens = new_tokens()
    endpoint.open.clear()
    waiting = [asyncio.create_task(outcome(tokens.token())) for _ in range(3)]
    await endpoint.asked.wait()

    await tokens.aclose()
    await tokens.aclose()

    assert {type(problem) for problem in await asyncio.gather(*waiting)} == {ClientClosed}
    with pytest.raises(ClientClosed):
        await tokens.token()


async def test_closing_before_the_fetch_took_its_first_step_ends_those_who_wait(new_tokens: New, endpoint: TokenEndpoint) -> None:
    tokens = new_tokens()
    waiting = asyncio.create_task(outcome(tokens.token()))
    await asyncio.sleep(0)

    await tokens.aclose()

    assert isinstance(await waiting, ClientClosed)
    assert endpoint.calls == 0


def test_closing_in_another_loop_leaves_the_request_to_the_loop_it_belongs_to() -> None:
    async def start() -> tuple[Tokens, TokenEndpoint, asyncio.Task[str]]:
        endpoint = TokenEndpoint()
        endpoint.open.clear()
        tokens = Tokens(PasswordTokens(ask=endpoint, account=lambda: "account-1", store=MemoryBreakerStore()))
        waiting = asyncio.create_task(tokens.token())
        await endpoint.asked.wait()
        return tokens, endpoint, waiting

    async def finish(endpoint: TokenEndpoint, waiting: asyncio.Task[str]) -> str:
        endpoint.open.set()
        return await waiting

    with asyncio.Runner() as here, asyncio.Runner() as there:
        tokens, endpoint, waiting = here.run(start())
        there.run(tokens.aclose())

        assert here.run(finish(endpoint, waiting)) == "token-1"


async def test_closing_leaves_a_valid_token_alone_and_renews_it_no_more(
    new_tokens: New, endpoint: TokenEndpoint, time: SteppedTime
) -> None:
    tokens = new_tokens()
    await tokens.token()
    await tokens.aclose()
    time.at += 200

    assert tokens.ready() == "token-1"
    await settle()
    assert endpoint.calls == 1


async def test_a_failed_fetch_is_logged_on_one_line(
    new_tokens: New, endpoint: TokenEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.script.append(refused("EnKash token: HTTP 400: Bad\ncredentials"))
    with caplog.at_level(logging.WARNING):
        await outcome(new_tokens().token())

    assert len(caplog.records) == 1
    assert "\n" not in caplog.records[0].getMessage()
