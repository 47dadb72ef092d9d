"""One logical call: several attempts under one deadline, and what each kind of answer means for it.

Ambiguity is sticky: once an attempt of a write may have arrived, nothing that comes later turns the call back into "nothing
happened"; only a readable 2xx does, or a look-up by key, which is the caller's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar, cast

from rewards_core.backoff import Again, RetryPolicy, parse_retry_after, repeating
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
from rewards_core.http.messages import Answer, Authorizer, Effect, Headers, Refusal, Request
from rewards_core.observe import CallEnded, CallRetried, CallStarted, Observers
from rewards_core.secrets import without_frames
from rewards_core.text import hide

if TYPE_CHECKING:
    from rewards_core.rate import Limiter

T = TypeVar("T")

logger = logging.getLogger(__name__)

OFF_LOOP = 1024 * 1024
"""Bytes from which on a reply is parsed in a thread: the loop has other work."""
MAX_REFUSAL = 64 * 1024
"""Bytes up to which a refusal is read; a longer one says nothing, and would hold up the loop."""
MAX_NAME = 100
"""The longest name of a field, code or request id that an error keeps of a refusal, in characters."""


class Met(Enum):
    """What one attempt met."""

    CLOSED = "a client that cannot be used any more, or not here"
    NEVER_LEFT = "never left"
    MISTAKE = "a local mistake, found before connecting"
    THROTTLED = "429"
    REFUSED = "refused"
    UNANSWERED = "no answer that says what happened"
    UNREADABLE = "an answer that cannot be read"
    REDIRECTED = "a redirect"


REPEATED: Mapping[Effect, frozenset[Met]] = {
    Effect.READ: frozenset({Met.NEVER_LEFT, Met.THROTTLED, Met.UNANSWERED}),
    Effect.KEYED: frozenset({Met.NEVER_LEFT, Met.THROTTLED, Met.UNANSWERED, Met.UNREADABLE}),
    Effect.BARE: frozenset({Met.NEVER_LEFT, Met.THROTTLED}),
}
"""What is worth another attempt."""

AMBIGUOUS = frozenset({Met.UNANSWERED, Met.UNREADABLE})
"""After what a write may have been carried out."""


class Trouble(NamedTuple):
    """An attempt without a usable answer: what it met, in words for the error, and the facts."""

    met: Met
    what: str
    status: int | None = None
    asked: float | None = None
    error: VendorError | None = None


class Line(Protocol):
    """What a call needs of the transport that carries it."""

    vendor: str
    authorizer: Authorizer
    limiter: Limiter
    retry: RetryPolicy
    observers: Observers
    random: Callable[[], float]

    def refusal(self, answer: Answer) -> Refusal:
        """Return what the vendor's error body says."""
        ...

    def unusable(self) -> str | None:
        """Return why no request can be sent, None if one can."""
        ...

    async def exchange(self, request: Request[Any], headers: Headers, timeout: float) -> Answer | Trouble:
        """Send one attempt and read its answer."""
        ...


class Call(Generic[T]):
    """The life of one logical call over a line."""

    attempts = 0
    ambiguous = known = renewed = False
    status: int | None = None
    _delay = 0.0

    def __init__(self, line: Line, request: Request[T]) -> None:
        self._line = line
        self._request = request
        self._time = asyncio.get_running_loop().time
        self._started = self._time()

    async def run(self) -> T:
        """Attempt until it ends, and tell those who watch."""
        watched, again = self._line.observers.any, False
        if watched:
            self._tell_start()
        try:
            try:
                result = await self.attempt()  # outside the repeating loop, which a call that succeeds would pay for
            except Again:
                again = True
            if again:
                await self.pause()
                result = cast("T", await _repeat(self))
        except BaseException as error:
            unknown = isinstance(error, OutcomeUnknown)
            cancelled = isinstance(error, asyncio.CancelledError) and self._request.effect is not Effect.READ
            if cancelled and (self.ambiguous or self._request.left):
                unknown = True
                if self._request.key is not None or self._request.asked is not None:  # a token was asked for by nobody
                    warn_of_cancellation(self._where(), self._request.key, self._request.advice)
            if watched:
                self._tell_end(error, unknown=unknown)
            raise
        if watched:
            self._tell_end(None)
        return result

    async def attempt(self) -> T:
        """Send once; raise `Again` if another attempt is worth it, else the error that the call ends with."""
        self.attempts += 1
        outcome: Any = await self._exchange()
        if isinstance(outcome, Answer):  # it may echo credentials, so it is gone before an error is raised from here
            self.status = outcome.status
            if outcome.status < 300 and len(outcome.body) > OFF_LOOP:
                self._request.left = True  # a call that is cancelled while its answer is parsed was carried out
                outcome = await self._read_aside(outcome)
            else:
                outcome = self._read(outcome)
        if not isinstance(outcome, Trouble):
            return cast("T", outcome)
        raise self._after(outcome)

    async def _read_aside(self, answer: Answer) -> T | Trouble:
        """Read a large answer in a thread; here if none is to be had, as where the loop ends."""
        try:
            reading = asyncio.get_running_loop().run_in_executor(None, self._read, answer)
        except RuntimeError:
            return self._read(answer)
        return await reading

    def _read(self, answer: Answer) -> T | Trouble:
        try:
            if 200 <= answer.status < 300:
                return self._request.read(answer)
            trouble = self._refused(answer)
        except UnexpectedResponse as problem:
            trouble = Trouble(Met.UNREADABLE, str(problem), answer.status, error=without_frames(problem))
        except RequestRejected as problem:
            trouble = Trouble(Met.REFUSED, str(problem), answer.status, error=without_frames(problem))
        self.known = self._is_known(trouble)
        return trouble

    async def pause(self) -> None:
        """Wait what the last failed attempt calls for."""
        if self._delay > 0:
            await asyncio.sleep(self._delay)

    async def _exchange(self) -> Answer | Trouble:
        line, request, time = self._line, self._request, self._time
        try:
            headers = await line.authorizer.headers(request.deadline - time())
        except TimeoutError:
            return Trouble(Met.NEVER_LEFT, "time ran out while waiting for credentials")
        except ConfigurationError as problem:
            return Trouble(Met.MISTAKE, str(problem))
        except VendorError as problem:
            return Trouble(Met.REFUSED, str(problem), problem.status, error=problem)
        if not line.limiter.take():
            if (reason := line.unusable()) is not None:  # else this would wait among the calls of another loop or process
                return Trouble(Met.CLOSED, reason)
            if request.may_send is not None and line.limiter.paused_for() > 0:
                return self._no_slot()
            if not await line.limiter.wait(request.deadline - time()):
                return self._no_slot()
        try:
            if request.may_send is not None and not await request.may_send():
                line.limiter.give_back()
                return Trouble(Met.NEVER_LEFT, "the caller's may_send refused it")
            outcome = await line.exchange(request, headers, request.deadline - time())
        finally:
            line.limiter.release()
        if not isinstance(outcome, Answer) or outcome.status != 401 or self.renewed:
            return outcome
        self.renewed = True
        outcome = self._refused(outcome)  # the answer may echo credentials, and what is raised from here on would hold it
        try:
            if not await line.authorizer.renew(headers, request.deadline - time()):
                return outcome
        except TimeoutError:
            what = "HTTP 401, and time ran out while waiting for other credentials; nothing happened: call again"
            return Trouble(Met.REFUSED, what, 401, error=ConnectFailed(what))
        except VendorError as problem:  # the vendor did nothing; why there are no others is what the caller must know
            what = f"HTTP 401, and no other credentials: {problem}"
            return Trouble(Met.REFUSED, what, problem.status or 401, error=problem)
        self.attempts += 1
        return await self._exchange()

    def _no_slot(self) -> Trouble:
        paused = self._line.limiter.paused_for()
        if paused > 0:
            return Trouble(Met.THROTTLED, f"the vendor asked all calls to pause, for {paused:.1f} s more", asked=paused)
        return Trouble(Met.NEVER_LEFT, "time ran out while waiting for a free slot")

    def _refused(self, answer: Answer) -> Trouble:
        status = answer.status
        if status in {408, 429} or status >= 500:
            asked = parse_retry_after(answer.headers.get("Retry-After"), answer.headers.get("Date"))
            return Trouble(Met.THROTTLED if status == 429 else Met.UNANSWERED, f"HTTP {status}", status, asked)
        if status == 407:  # only a proxy asks for that: the vendor heard nothing
            return Trouble(Met.NEVER_LEFT, "HTTP 407: the proxy wants other credentials", status)
        if status < 200:  # an interim answer where the final one should be: it says nothing of what happened
            return Trouble(Met.UNREADABLE, f"HTTP {status}", status)
        if status < 400:
            return Trouble(Met.REDIRECTED, f"HTTP {status}, which is not followed", status)
        refusal = self._line.refusal(answer) if len(answer.body) <= MAX_REFUSAL else Refusal()
        secrets = self._line.authorizer.secrets()
        details = [
            FieldError(
                field=hide(each.field, secrets, MAX_NAME),
                message=hide(each.message, secrets),
                code=each.code and hide(each.code, secrets, MAX_NAME),
            )
            for each in refusal.details
        ]
        words = hide(refusal.message, secrets) or "no reason given"
        facts: dict[str, Any] = {
            "code": refusal.code and hide(refusal.code, secrets, MAX_NAME),
            "details": details,
            "request_id": refusal.request_id and hide(refusal.request_id, secrets, MAX_NAME),
            "status": status,
        }
        special = {401: Unauthorized, 403: Forbidden, 404: NotFound}.get(status)
        kind = special or (ValidationFailed if refusal.invalid else RequestRejected)
        return Trouble(Met.REFUSED, f"HTTP {status}: {words}", status, error=kind(words, **facts))

    def _after(self, trouble: Trouble) -> Exception:
        effect, policy, line = self._request.effect, self._line.retry, self._line
        self.status = trouble.status
        if self.known or (effect is not Effect.READ and trouble.met in AMBIGUOUS):
            self.ambiguous = True
        repeated = trouble.met in REPEATED[effect] and self.attempts < policy.attempts and self._request.may_send is None
        if not repeated and trouble.status != 429:
            return self._final(trouble, "")
        asked = trouble.asked
        delay = policy.pause(self.attempts, line.random(), asked)
        if trouble.met is Met.THROTTLED and trouble.status == 429:
            line.limiter.pause(min(max(delay, asked or 0.0), policy.max_retry_after))
        if not repeated or (asked or 0.0) > policy.max_retry_after:
            return self._final(trouble, "")
        if delay >= self._request.deadline - self._time():
            return self._final(trouble, "; no time is left for another attempt", late=True)
        self._delay = delay
        if line.observers.any:
            record = CallRetried(
                operation=self._request.operation, attempt=self.attempts, status=trouble.status, reason=trouble.what, delay=delay
            )
            line.observers.retry(record)
        return Again()

    def _is_known(self, trouble: Trouble) -> bool:
        """Return whether the vendor refuses because it already knows the key: an earlier call may have been carried out."""
        says_known, error = self._request.says_known, trouble.error
        if says_known is None or trouble.met is not Met.REFUSED or not isinstance(error, RequestRejected):
            return False
        return not isinstance(error, (Unauthorized, Forbidden)) and says_known(error)

    def _final(self, trouble: Trouble, addition: str, *, late: bool = False) -> VendorError | ConfigurationError:
        error, met = trouble.error, trouble.met
        what = f"{trouble.what}{addition}"
        facts = self._facts(error)
        if self.ambiguous:
            return self._unknown(what, facts)
        if met is Met.CLOSED:
            return ClientClosed(f"{self._where()}: nothing was sent: {what}.", **facts)
        if met is Met.MISTAKE:
            return ConfigurationError(f"{self._where()}: {what}. Nothing was sent.")
        if error is not None:
            error.args = (f"{self._where()}: {what}",)
            error.__dict__.update({name: value for name, value in facts.items() if value is not None})
            return error
        if met is Met.NEVER_LEFT:
            return ConnectFailed(
                self._text("a connection", what, "nothing was sent: check the address and the network, then call again"), **facts
            )
        asked = f"; asked to wait {trouble.asked:.1f} s" if trouble.asked else ""
        if met is Met.THROTTLED:
            advice = f"call again later, or lower the limits{asked}"
            return RateLimited(self._text("an answer", what, advice), retry_after=trouble.asked, **facts)
        if met is Met.REDIRECTED:
            return UnexpectedResponse(self._text("2xx", what, "check the base URL"), **facts)
        if met is Met.UNREADABLE:
            return UnexpectedResponse(self._text("a readable answer", what, "tell the vendor"), **facts)
        if late:
            return DeadlineExceeded(
                self._text("an answer in time", what, "call again; raise the total timeout if this is common"), **facts
            )
        return ServerFailed(self._text("an answer", what, f"call again later{asked}"), **facts)

    def _unknown(self, what: str, facts: dict[str, Any]) -> OutcomeUnknown:
        key = self._request.key
        advice = self._request.advice or (f"look up {key!r} before anything else" if key else "")
        came = "the vendor says that it already exists" if self.known else "no answer says what happened"
        text = f"{self._where()}: {came} ({what}; {self._tries()}); it may have been carried out"
        return OutcomeUnknown(text, request=self._request.asked, advice=advice, **facts)

    def _facts(self, error: VendorError | None) -> dict[str, Any]:
        return {
            "status": self.status,
            "code": error.code if error else None,
            "details": error.details if error else (),
            "request_id": error.request_id if error else None,
            "attempts": self.attempts,
            "elapsed": self._time() - self._started,
            "idempotency_key": self._request.key,
        }

    def _where(self) -> str:
        return f"{self._line.vendor} {self._request.operation}"

    def _text(self, expected: str, came: str, advice: str) -> str:
        return f"{self._where()}: expected {expected}, got {came} ({self._tries()}); {advice}"

    def _tries(self) -> str:
        return f"attempt {self.attempts}, after {self._time() - self._started:.1f} s"

    def _tell_start(self) -> None:
        request = self._request
        self._line.observers.start(
            CallStarted(
                operation=request.operation,
                method=request.method,
                path=getattr(request.url, "path", ""),
                idempotency_key=request.key,
            )
        )

    def _tell_end(self, error: BaseException | None, *, unknown: bool = False) -> None:
        self._line.observers.end(
            CallEnded(
                operation=self._request.operation,
                idempotency_key=self._request.key,
                attempts=self.attempts,
                elapsed=self._time() - self._started,
                status=self.status,
                error=None if error is None else type(error).__name__,
                outcome_unknown=unknown,
            )
        )


@repeating(Call.pause)
async def _repeat(call: Call[T]) -> T:
    return await call.attempt()


def warn_of_cancellation(call: str, key: str | None, advice: str) -> None:
    """Log that a write was cancelled which may have been carried out: the caller gets no error that could say so."""
    logger.warning(
        "%s was cancelled after its request may have left, so it may have been carried out%s: %s. To bound a call, use its "
        "timeout= instead of cancelling it: it then ends with OutcomeUnknown",
        call,
        f" (key {key!r})" if key else "",
        advice or "look for what it may have made before you call again",
    )
