"""After an attempt that may have arrived, no later one makes it undone, for a read, a keyed write and a bare write."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest

from rewards_core.backoff import RetryPolicy
from rewards_core.errors import (
    ClientClosed,
    ConnectFailed,
    DeadlineExceeded,
    OutcomeUnknown,
    RateLimited,
    RequestRejected,
    ServerFailed,
    Unauthorized,
    UnexpectedResponse,
    VendorError,
)
from rewards_core.http.calls import MAX_INLINE_PARSE, MAX_REFUSAL
from rewards_core.http.messages import Answer, Effect, Headers
from tests.rewards_core.answer_kit import (
    ALREADY_USED,
    BARE,
    EVERY,
    KEYED,
    LOST,
    MISTAKE,
    OK,
    OVERSIZE,
    READ,
    REFUSED_TO_CONNECT,
    TOO_LATE,
    NoOther,
    Script,
    Step,
    about_the_nonce,
    answer,
    outcome,
)
from tests.rewards_core.call_kit import Credentials
from tests.stepped_time import SteppedTime
from tests.texts import said

# --- 408, 5xx, lost, timed out ----------------------------------------------------------------------------------------


UNANSWERED = [answer(408), answer(500), answer(503), answer(599), answer(600), LOST]


@pytest.fixture(autouse=True)
def _time(stepped_time: SteppedTime) -> None:
    Script.time = stepped_time


@pytest.mark.parametrize("effect", [READ, KEYED])
@pytest.mark.parametrize("step", UNANSWERED)
async def test_unanswered_is_repeated_where_that_is_safe(effect: Effect, step: Step) -> None:
    script = Script([step, OK])
    assert await outcome(script, effect) == {"ok": True}
    assert len(script.sent) == 2


@pytest.mark.parametrize("status", [408, 500, 503])
async def test_unanswered_waits_as_long_as_it_is_asked_to(status: int) -> None:
    script = Script([answer(status, Retry_After="7"), OK])
    assert await outcome(script, READ) == {"ok": True}
    assert script.time.slept == [7.0]
    script = Script([answer(status, Retry_After="100"), OK])
    assert type(await outcome(script, KEYED, total=600)) is OutcomeUnknown
    assert len(script.sent) == 1


async def test_an_overloaded_vendor_says_when_to_come_again() -> None:
    error = await outcome(Script([answer(503, Retry_After="100")]), READ, total=600)
    assert type(error) is ServerFailed
    assert "100.0 s" in str(error)


@pytest.mark.parametrize("step", UNANSWERED)
async def test_unanswered_read_to_the_end_is_server_failed(step: Step) -> None:
    error = await outcome(Script([step]), READ)
    assert type(error) is ServerFailed
    assert error.attempts == 5


async def test_unanswered_read_out_of_time_is_deadline_exceeded() -> None:
    error = await outcome(Script([LOST], took=2.0), READ, total=3.0)
    assert type(error) is DeadlineExceeded
    assert isinstance(error, TimeoutError)


@pytest.mark.parametrize("step", UNANSWERED)
async def test_unanswered_keyed_write_to_the_end_is_outcome_unknown(step: Step) -> None:
    script = Script([step])
    error = await outcome(script, KEYED)
    assert type(error) is OutcomeUnknown
    assert (error.attempts, error.idempotency_key) == (5, "key-1")


@pytest.mark.parametrize("step", UNANSWERED)
async def test_unanswered_bare_write_is_outcome_unknown_at_once(step: Step) -> None:
    script = Script([step, OK])
    assert type(await outcome(script, BARE)) is OutcomeUnknown
    assert len(script.sent) == 1


# --- 2xx that cannot be read ------------------------------------------------------------------------------------------


UNREADABLE = [answer(200, b"<html>"), answer(201, b'{"other":1}'), answer(204, b""), OVERSIZE, answer(101), answer(99)]


@pytest.mark.parametrize("step", UNREADABLE)
async def test_unreadable_2xx_of_a_read_is_unexpected_response(step: Step) -> None:
    script = Script([step])
    assert type(await outcome(script, READ)) is UnexpectedResponse
    assert len(script.sent) == 1


@pytest.mark.parametrize("step", UNREADABLE)
async def test_unreadable_2xx_of_a_keyed_write_is_repeated(step: Step) -> None:
    assert await outcome(Script([step, OK]), KEYED) == {"ok": True}
    assert type(await outcome(Script([step]), KEYED)) is OutcomeUnknown


@pytest.mark.parametrize("step", UNREADABLE)
async def test_unreadable_2xx_of_a_bare_write_is_outcome_unknown(step: Step) -> None:
    script = Script([step, OK])
    assert type(await outcome(script, BARE)) is OutcomeUnknown
    assert len(script.sent) == 1


# --- replies large enough to be parsed off the loop ---------------------------------------------------------------------


@pytest.mark.parametrize(("size", "on_the_loop"), [(MAX_INLINE_PARSE, True), (MAX_INLINE_PARSE + 1, False)])
async def test_a_large_reply_is_parsed_off_the_loop(size: int, on_the_loop: bool) -> None:
    read_in: list[threading.Thread] = []

    def read(reply: Answer) -> int:
        read_in.append(threading.current_thread())
        return len(reply.body)

    assert await outcome(Script([answer(200, b" " * size)]), READ, read=read) == size
    assert (read_in == [threading.main_thread()]) is on_the_loop


@pytest.mark.parametrize(
    ("problem", "kinds"),
    [
        (UnexpectedResponse("too long", path="data"), (UnexpectedResponse, OutcomeUnknown, OutcomeUnknown)),
        (RequestRejected("no"), (RequestRejected, RequestRejected, RequestRejected)),
    ],
)
async def test_what_a_large_reply_is_refused_for_comes_through(problem: VendorError, kinds: tuple[type, ...]) -> None:
    def read(reply: Answer) -> None:
        raise copy.deepcopy(problem)

    for effect, kind in zip(EVERY, kinds, strict=True):
        error = await outcome(Script([answer(200, b" " * (MAX_INLINE_PARSE + 1))]), effect, read=read)
        assert type(error) is kind
        assert str(problem) in str(error)


# --- 3xx --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", EVERY)
@pytest.mark.parametrize("status", [301, 302, 304, 307, 308])
async def test_3xx_is_unexpected_and_not_followed(effect: Effect, status: int) -> None:
    script = Script([answer(status, b"", Location="https://elsewhere.example/")])
    error = await outcome(script, effect)
    assert type(error) is UnexpectedResponse
    assert len(script.sent) == 1


# --- ambiguity is sticky ----------------------------------------------------------------------------------------------


DEFINITE = [
    REFUSED_TO_CONNECT,
    MISTAKE,
    answer(407),
    answer(429, Retry_After="1"),
    answer(429, Retry_After="1000"),
    answer(400, b"{}"),
    answer(401),
    answer(403),
    answer(404),
    answer(409),
    answer(422, b'{"invalid":true}'),
    answer(301),
    answer(200, b'{"ok":false}'),
]


@pytest.mark.parametrize("first", [LOST, answer(503), answer(408), answer(200, b"<html>"), OVERSIZE, answer(101)])
@pytest.mark.parametrize("later", DEFINITE)
async def test_after_an_ambiguous_attempt_nothing_becomes_nothing_happened(first: Step, later: Step) -> None:
    error = await outcome(Script([first, later]), KEYED, asked="what was asked for")
    assert type(error) is OutcomeUnknown
    assert (error.idempotency_key, error.request) == ("key-1", "what was asked for")


async def test_a_readable_2xx_ends_the_ambiguity() -> None:
    assert await outcome(Script([LOST, answer(503), OK]), KEYED) == {"ok": True}


async def test_ambiguous_then_closed_is_outcome_unknown() -> None:
    assert type(await outcome(Script([LOST], closed_after=1), KEYED)) is OutcomeUnknown


async def test_ambiguous_then_out_of_time_is_outcome_unknown() -> None:
    assert type(await outcome(Script([LOST], took=2.0), KEYED, total=3.0)) is OutcomeUnknown


async def test_ambiguous_then_no_credentials_is_outcome_unknown() -> None:
    class RunningDry(Credentials):
        async def headers(self, timeout: float) -> Headers:
            if self.renewals:
                raise Unauthorized("no token")
            self.renewals = 1
            return self.current

    assert type(await outcome(Script([LOST], authorizer=RunningDry()), KEYED)) is OutcomeUnknown


async def test_read_then_closed_is_client_closed() -> None:
    assert type(await outcome(Script([LOST], closed_after=1), READ)) is ClientClosed


@pytest.mark.parametrize("effect", EVERY)
async def test_a_refusal_longer_than_any_error_says_nothing(effect: Effect) -> None:
    error = await outcome(Script([answer(400, b'{"message":"nothing left","padding":"%s"}' % (b"x" * MAX_REFUSAL))]), effect)
    assert type(error) is RequestRejected
    assert "nothing left" not in str(error)


# --- credentials that are not to be had -------------------------------------------------------------------------------


async def test_error_while_getting_credentials_is_the_error_of_the_call() -> None:
    class Locked(Credentials):
        async def headers(self, timeout: float) -> Headers:
            raise Unauthorized("the account would lock", status=401)

    script = Script([OK], authorizer=Locked())
    error = await outcome(script, BARE)
    assert type(error) is Unauthorized
    assert not script.sent


async def test_credentials_that_take_too_long_mean_nothing_was_sent() -> None:
    class Slow(Credentials):
        async def headers(self, timeout: float) -> Headers:
            raise TimeoutError

    assert type(await outcome(Script([OK], authorizer=Slow()), BARE)) is ConnectFailed


# --- pauses -----------------------------------------------------------------------------------------------------------


async def test_pauses_double_up_to_the_longest_and_stay_inside_the_deadline() -> None:
    script = Script([LOST], retry=RetryPolicy(attempts=8, max_delay=2.0))
    await outcome(script, READ)
    assert script.time.slept == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0]


async def test_no_pause_where_none_is_asked() -> None:
    script = Script([LOST, OK], retry=RetryPolicy(first_delay=0.0))
    assert await outcome(script, READ) == {"ok": True}
    assert not script.time.slept


# --- errors as texts and objects ------------------------------------------------------------------------------------------------


async def test_each_error_says_what_happened_and_what_to_do() -> None:
    steps: dict[str, Step] = {
        "no connection": REFUSED_TO_CONNECT,
        "proxy": answer(407),
        "local mistake": MISTAKE,
        "429": answer(429),
        "429 with Retry-After": answer(429, Retry_After="100"),
        "401": answer(401),
        "400": answer(400, b'{"message":"Reward is closed.","code":"closed"}'),
        "400 without a reason": answer(400, b'{"message":"no","padding":"%s"}' % (b"x" * MAX_REFUSAL)),
        "key is known": answer(409, ALREADY_USED),
        "503": answer(503),
        "503 with Retry-After": answer(503, Retry_After="100"),
        "connection lost": LOST,
        "redirect": answer(302),
        "not JSON": answer(200, b"<html>"),
        "another shape": answer(200, b"{}"),
        "too long": OVERSIZE,
    }
    lines = []
    for name, step in steps.items():
        for effect in EVERY:
            error = await outcome(Script([step]), effect, says_known=about_the_nonce if effect is not READ else None)
            lines.append(f"{name}, {effect.value}: {type(error).__name__}\n    {error}")
    late = await outcome(Script([LOST], took=2.0), READ, total=3.0)
    lines.append(f"out of time, read: {type(late).__name__}\n    {late}")
    for failure in (ConnectFailed("the token endpoint is down"), TimeoutError()):
        renewal = await outcome(Script([answer(401)], authorizer=NoOther(failure)), READ)
        lines.append(f"401 and no renewal, read: {type(renewal).__name__}\n    {renewal}")
    closed = await outcome(Script([LOST], closed_after=0), READ)
    lines.append(f"closed, read: {type(closed).__name__}\n    {closed}")
    for key, advice in [("key-1", "ask the vendor"), (None, "ask the vendor"), (None, "")]:
        unknown = await outcome(Script([LOST]), BARE, key=key, advice=advice)
        lines.append(f"connection lost, key {key}, advice {advice!r}: {type(unknown).__name__}\n    {unknown}")
    said("calls: what each answer means", "\n".join(lines))


@pytest.mark.parametrize(
    "step", [LOST, answer(400, b'{"message":"no"}'), answer(429), REFUSED_TO_CONNECT, MISTAKE, answer(200, b"<")]
)
@pytest.mark.parametrize("effect", EVERY)
async def test_errors_survive_pickle_and_deepcopy_whole(effect: Effect, step: Step) -> None:
    error = await outcome(Script([step]), effect)
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error), copy.copy(error)):
        assert type(twin) is type(error)
        assert str(twin) == str(error)
        assert twin.__dict__ == error.__dict__
    assert "\n" not in str(error)
    assert str(error).startswith("Acme do_it: ")


@pytest.mark.parametrize(
    ("effect", "first", "kind", "status"),
    [
        (READ, LOST, DeadlineExceeded, None),
        (READ, answer(503), DeadlineExceeded, 503),
        (READ, answer(429), RateLimited, 429),
        (READ, REFUSED_TO_CONNECT, ConnectFailed, None),
        (KEYED, LOST, OutcomeUnknown, None),
        (BARE, answer(429), RateLimited, 429),
        (BARE, REFUSED_TO_CONNECT, ConnectFailed, None),
    ],
)
async def test_an_attempt_that_is_not_made_for_want_of_time_hides_no_attempt_before_it(
    effect: Effect, first: Any, kind: type[VendorError], status: int | None
) -> None:
    error = await outcome(Script([first, TOO_LATE]), effect)
    assert (type(error), error.attempts, error.status) == (kind, 1, status)
    assert "no time for another attempt" in str(error)
    assert "no time left" not in str(error)


@pytest.mark.parametrize("effect", EVERY)
async def test_a_first_attempt_that_is_not_made_for_want_of_time_sends_nothing(effect: Effect) -> None:
    error = await outcome(script := Script([TOO_LATE]), effect)
    assert (type(error), error.attempts, len(script.sent)) == (ConnectFailed, 1, 1)
    said("calls: no time for the first attempt", error)
