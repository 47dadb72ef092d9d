"""What one answer means, cell by cell, for a read, a keyed write and a bare write."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from typing import Any, ClassVar

import pytest
from attrs import define, field

from rewards_core.backoff import RetryPolicy
from rewards_core.errors import (
    ClientClosed,
    ConfigurationError,
    ConnectFailed,
    DeadlineExceeded,
    FieldError,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    RateLimited,
    RequestRejected,
    ServerFailed,
    Unauthorized,
    UnexpectedResponse,
    ValidationFailed,
    VendorError,
)
from rewards_core.http.calls import MAX_INLINE_PARSE, MAX_REFUSAL, Call, Failure, FailureKind
from rewards_core.http.messages import Answer, Effect, Headers, Refusal, Request
from rewards_core.http.refusals import affirms_existence
from rewards_core.json import loads
from rewards_core.observe import Observers
from rewards_core.rate import Limiter, Limits
from tests.rewards_core.call_kit import Credentials, refusal
from tests.stepped_time import SteppedTime
from tests.texts import said

READ, KEYED, BARE = Effect.READ, Effect.KEYED, Effect.BARE
WRITES = (KEYED, BARE)
EVERY = (READ, KEYED, BARE)

Step = Answer | Failure


def answer(status: int, body: bytes = b'{"ok":true}', **headers: str) -> Answer:
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


OK = answer(200)
LOST = Failure(FailureKind.UNANSWERED, "the connection was lost")
REFUSED_TO_CONNECT = Failure(FailureKind.NOT_SENT, "no connection")
MISTAKE = Failure(FailureKind.MISCONFIGURED, "the borrowed session does not accept the client's headers")
OVERSIZE = Failure(FailureKind.UNREADABLE, "the answer is longer than 10485760 bytes", 200)


@define
class Script:
    """A transport that answers attempt by attempt, the last answer for ever."""

    time: ClassVar[SteppedTime]

    steps: list[Step]
    authorizer: Any = field(factory=Credentials)
    retry: RetryPolicy = field(factory=RetryPolicy)
    observers: Observers = field(factory=lambda: Observers(()))
    vendor: str = "Acme"
    closed_after: int | None = None
    took: float = 0.0
    sent: list[Headers] = field(factory=list)
    limiter: Limiter = field(factory=lambda: Limiter(Limits(), random=lambda: 0.0))

    def random(self) -> float:
        return 0.0

    def refusal(self, answer: Answer) -> Refusal:
        return refusal(answer)

    def unusable(self) -> str | None:
        return None

    async def exchange(self, request: Request[Any], headers: Headers, timeout: float) -> Answer | Failure:
        if self.closed_after is not None and len(self.sent) >= self.closed_after:
            return Failure(FailureKind.UNUSABLE, "the client was closed")
        self.sent.append(headers)
        self.time.at += self.took
        return self.steps[min(len(self.sent), len(self.steps)) - 1]


@pytest.fixture(autouse=True)
def _time(stepped_time: SteppedTime) -> None:
    Script.time = stepped_time


def read(answer: Answer) -> Any:
    body = loads(answer.body)
    if "ok" not in body:
        raise UnexpectedResponse("ok is missing", path="ok")
    if body["ok"] is False:
        raise RequestRejected("the vendor says no", code="1")
    return body


async def outcome(script: Script, effect: Effect, *, total: float = 30.0, key: str | None = "key-1", **options: Any) -> Any:
    """Return what the call returned or raised."""
    deadline = asyncio.get_running_loop().time() + total
    options.setdefault("read", read)
    request: Request[Any] = Request(
        operation="do_it", method="POST", url=None, effect=effect, deadline=deadline, key=key, **options
    )
    try:
        return await Call(script, request).run()  # type: ignore[arg-type]
    except (VendorError, ConfigurationError) as error:
        return error


# --- a readable 2xx ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", EVERY)
@pytest.mark.parametrize("status", [200, 201, 299])
async def test_readable_2xx_is_the_result(effect: Effect, status: int) -> None:
    script = Script([answer(status)])
    assert await outcome(script, effect) == {"ok": True}
    assert len(script.sent) == 1


# --- never left -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", EVERY)
async def test_never_left_is_repeated(effect: Effect) -> None:
    script = Script([REFUSED_TO_CONNECT, REFUSED_TO_CONNECT, OK])
    assert await outcome(script, effect) == {"ok": True}
    assert len(script.sent) == 3


@pytest.mark.parametrize("effect", EVERY)
async def test_never_left_to_the_end_is_connect_failed(effect: Effect) -> None:
    error = await outcome(Script([REFUSED_TO_CONNECT]), effect)
    assert type(error) is ConnectFailed
    assert (error.attempts, error.status, error.idempotency_key) == (5, None, "key-1")


@pytest.mark.parametrize("effect", EVERY)
async def test_407_is_the_proxys_and_never_left(effect: Effect) -> None:
    script = Script([answer(407), OK])
    assert await outcome(script, effect) == {"ok": True}
    script = Script([answer(407)])
    error = await outcome(script, effect)
    assert type(error) is ConnectFailed
    assert (error.attempts, error.status, len(script.sent)) == (5, 407, 5)


# --- a local mistake --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", EVERY)
async def test_a_local_mistake_is_a_configuration_error_at_once(effect: Effect) -> None:
    script = Script([MISTAKE, OK])
    error = await outcome(script, effect)
    assert type(error) is ConfigurationError
    assert len(script.sent) == 1
    assert not script.time.slept


# --- 429 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", EVERY)
async def test_429_waits_as_asked_and_repeats(effect: Effect) -> None:
    script = Script([answer(429, Retry_After="7"), OK])
    assert await outcome(script, effect) == {"ok": True}
    assert sum(script.time.slept) >= 7


@pytest.mark.parametrize("effect", EVERY)
async def test_429_waits_until_the_date_it_names_by_the_vendors_clock(effect: Effect) -> None:
    names = answer(429, Date="Fri, 02 Jan 2026 03:04:05 GMT", Retry_After="Fri, 02 Jan 2026 03:04:12 GMT")
    script = Script([names, OK])
    assert await outcome(script, effect) == {"ok": True}
    assert script.time.slept == [7.0]


@pytest.mark.parametrize("effect", EVERY)
async def test_429_to_the_end_is_rate_limited(effect: Effect) -> None:
    error = await outcome(Script([answer(429, Retry_After="2")]), effect)
    assert type(error) is RateLimited
    assert (error.status, error.retry_after) == (429, 2.0)


@pytest.mark.parametrize("effect", EVERY)
async def test_429_asking_for_more_than_the_time_left_ends_now(effect: Effect) -> None:
    script = Script([answer(429, Retry_After="31")])
    error = await outcome(script, effect)
    assert type(error) is RateLimited
    assert error.retry_after == 31.0
    assert not script.time.slept


async def test_429_asking_for_more_than_the_policy_allows_ends_now() -> None:
    script = Script([answer(429, Retry_After="61")])
    assert type(await outcome(script, READ, total=600)) is RateLimited
    assert len(script.sent) == 1


async def test_429_pauses_the_other_calls_of_the_client() -> None:
    script = Script([answer(429, Retry_After="20"), OK])
    assert await outcome(script, READ) == {"ok": True}
    script = Script([answer(429, Retry_After="40")])
    await outcome(script, READ)
    script.steps = [OK]
    late = await outcome(script, READ, total=5)
    assert type(late) is RateLimited
    assert len(script.sent) == 1
    assert late.retry_after is not None
    assert 30 < late.retry_after <= 40


# --- 401 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", EVERY)
async def test_401_renews_and_repeats_once(effect: Effect) -> None:
    script = Script([answer(401), OK], authorizer=Credentials(renewable=True))
    assert await outcome(script, effect) == {"ok": True}
    assert script.sent[0] != script.sent[1]


async def test_attempts_count_the_one_whose_credentials_were_renewed() -> None:
    error = await outcome(
        Script([answer(401), LOST], authorizer=Credentials(renewable=True), retry=RetryPolicy(attempts=2)), BARE
    )
    assert (type(error), error.attempts) == (OutcomeUnknown, 2)


@pytest.mark.parametrize("effect", EVERY)
async def test_401_twice_is_unauthorized(effect: Effect) -> None:
    script = Script([answer(401)], authorizer=Credentials(renewable=True))
    assert type(await outcome(script, effect)) is Unauthorized
    assert len(script.sent) == 2


@pytest.mark.parametrize("effect", EVERY)
async def test_401_without_other_credentials_is_unauthorized_at_once(effect: Effect) -> None:
    script = Script([answer(401)])
    assert type(await outcome(script, effect)) is Unauthorized
    assert len(script.sent) == 1


class NoOther(Credentials):
    """An authorizer that fails when it is asked for other credentials."""

    def __init__(self, failure: Exception) -> None:
        super().__init__()
        self.failure = failure

    async def renew(self, refused: Headers, timeout: float) -> bool:
        raise self.failure


@pytest.mark.parametrize("effect", EVERY)
@pytest.mark.parametrize(
    ("failure", "kind", "status"),
    [
        (ConnectFailed("the token endpoint is down"), ConnectFailed, 401),
        (Unauthorized("wrong password", status=400), Unauthorized, 400),
        (TimeoutError(), ConnectFailed, 401),
    ],
)
async def test_401_without_a_way_to_renew_ends_with_the_reason(
    effect: Effect, failure: Exception, kind: type[VendorError], status: int
) -> None:
    script = Script([answer(401)], authorizer=NoOther(failure))
    error = await outcome(script, effect)
    assert type(error) is kind
    assert (error.status, error.attempts, error.idempotency_key) == (status, 1, "key-1")
    assert str(failure) in str(error)
    assert len(script.sent) == 1


@pytest.mark.parametrize("failure", [TimeoutError(), ConnectFailed("no token"), Unauthorized("wrong password")])
async def test_401_without_a_way_to_renew_after_an_ambiguous_attempt_is_outcome_unknown(failure: Exception) -> None:
    error = await outcome(Script([LOST, answer(401)], authorizer=NoOther(failure)), KEYED)
    assert type(error) is OutcomeUnknown
    assert "HTTP 401" in str(error)


# --- other 4xx --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", EVERY)
@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b'{"message":"no","code":"bad_request"}', RequestRejected),
        (400, b'{"message":"no","invalid":true}', ValidationFailed),
        (403, b"{}", Forbidden),
        (404, b"<html>", NotFound),
        (409, b"{}", RequestRejected),
        (422, b'{"invalid":true}', ValidationFailed),
    ],
)
async def test_other_4xx_is_a_rejection(effect: Effect, status: int, body: bytes, kind: type[VendorError]) -> None:
    script = Script([answer(status, body)])
    error = await outcome(script, effect)
    assert type(error) is kind
    assert isinstance(error, VendorError)
    assert error.status == status
    assert len(script.sent) == 1


async def test_rejection_carries_the_vendors_words_and_code_in_one_line() -> None:
    error = await outcome(Script([answer(400, b'{"message":"no\\nway","code":"bad_request"}')]), BARE)
    assert "no way" in str(error)
    assert error.code == "bad_request"


async def test_vendor_that_echoes_the_secret_does_not_get_it_into_the_error() -> None:
    secret = Credentials().secrets()[0]
    error = await outcome(Script([answer(400, b'{"message":"bad key ' + secret.encode() + b'"}')]), BARE)
    assert secret not in str(error)
    assert "[hidden]" in str(error)


DETAILS = b'{"details":[{"field":"nonce","message":"too long","code":"max_length"},{"field":"","message":"no","code":null}]}'


@pytest.mark.parametrize("effect", EVERY)
async def test_rejection_carries_what_is_wrong_with_fields_and_with_the_whole(effect: Effect) -> None:
    error = await outcome(Script([answer(400, DETAILS)]), effect)
    nonce = FieldError(field="nonce", message="too long", code="max_length")
    for twin in (error, pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert twin.details == (nonce, FieldError(field="", message="no"))
        assert twin.field_errors == (nonce,)


# --- 4xx that says the key is known -----------------------------------------------------------------------------------


def about_the_nonce(error: RequestRejected) -> bool:
    return affirms_existence(error, about={"nonce", "allocat"})


ALREADY_USED = b'{"message":"no","details":[{"field":"","message":"Nonce already used."}]}'


@pytest.mark.parametrize("effect", WRITES)
@pytest.mark.parametrize(("status", "body"), [(409, b"{}"), (400, ALREADY_USED), (404, ALREADY_USED), (422, ALREADY_USED)])
async def test_a_refusal_because_the_key_is_known_is_outcome_unknown(effect: Effect, status: int, body: bytes) -> None:
    script = Script([answer(status, body), OK])
    error = await outcome(script, effect, says_known=about_the_nonce, asked=("what", "was asked for"))
    assert type(error) is OutcomeUnknown
    assert (error.request, error.status, error.idempotency_key) == (("what", "was asked for"), status, "key-1")
    assert len(script.sent) == 1
    assert bool(error.details) is (body is ALREADY_USED)
    for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert twin.__dict__ == error.__dict__


@pytest.mark.parametrize("effect", WRITES)
@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_refusal_for_another_reason_stands(effect: Effect, status: int) -> None:
    error = await outcome(Script([answer(status, DETAILS)]), effect, says_known=about_the_nonce)
    assert isinstance(error, RequestRejected)


@pytest.mark.parametrize("effect", WRITES)
@pytest.mark.parametrize(("status", "kind"), [(401, Unauthorized), (403, Forbidden), (429, RateLimited)])
async def test_refusals_that_say_nothing_of_the_request_are_never_asked(
    effect: Effect, status: int, kind: type[VendorError]
) -> None:
    error = await outcome(Script([answer(status, ALREADY_USED)]), effect, says_known=lambda _: True)
    assert type(error) is kind


@pytest.mark.parametrize("effect", WRITES)
async def test_2xx_that_says_the_key_is_known_is_outcome_unknown(effect: Effect) -> None:
    error = await outcome(Script([answer(200, b'{"ok":false}')]), effect, says_known=lambda error: error.code == "1")
    assert type(error) is OutcomeUnknown


async def test_credentials_that_cannot_be_configured_are_a_mistake_unless_something_may_have_arrived() -> None:
    class Misconfigured(Credentials):
        healthy = 0

        async def headers(self, timeout: float) -> Headers:
            if not self.healthy:
                raise ConfigurationError("no such file")
            self.healthy -= 1
            return await super().headers(timeout)

    authorizer = Misconfigured()
    assert type(await outcome(Script([LOST, OK], authorizer=authorizer), Effect.KEYED)) is ConfigurationError
    authorizer.healthy = 1
    assert type(await outcome(Script([LOST, OK], authorizer=authorizer), Effect.KEYED)) is OutcomeUnknown


async def test_a_refusal_of_the_credentials_says_nothing_of_the_key() -> None:
    class Refused(Credentials):
        async def headers(self, timeout: float) -> Headers:
            raise RequestRejected("a log-in is in progress already", status=409)

    script = Script([OK], authorizer=Refused())
    assert type(await outcome(script, BARE, says_known=about_the_nonce)) is RequestRejected
    assert not script.sent
    renewing = Script([answer(401)], authorizer=NoOther(RequestRejected("in progress already", status=409)))
    assert type(await outcome(renewing, BARE, says_known=about_the_nonce)) is RequestRejected


@pytest.mark.parametrize("effect", EVERY)
async def test_2xx_that_says_no_is_a_rejection(effect: Effect) -> None:
    error = await outcome(Script([answer(200, b'{"ok":false}')]), effect)
    assert type(error) is RequestRejected
    assert (error.code, error.status, error.attempts) == ("1", 200, 1)


# --- 408, 5xx, lost, timed out ----------------------------------------------------------------------------------------

UNANSWERED = [answer(408), answer(500), answer(503), answer(599), answer(600), LOST]


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
    error = await outcome(Script([answer(400, b'{"message":"no","padding":"%s"}' % (b"x" * MAX_REFUSAL))]), effect)
    assert type(error) is RequestRejected
    assert not error.details


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
