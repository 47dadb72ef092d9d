"""One logical call: its attempts under one deadline, and what each kind of answer means.

Ambiguity is sticky: once an attempt of a write may have been carried out, only a readable 2xx settles the call. Anything else
ends it with `OutcomeUnknown`, and the caller looks the operation up by its key.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

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
from rewards_core.http.failures import AMBIGUOUS, REPEATED, Failure, FailureKind
from rewards_core.http.messages import Answer, Authorizer, Effect, Headers, Refusal, Request
from rewards_core.observe import CallEnded, CallRetried, CallStarted, Observers
from rewards_core.secrets import without_frames
from rewards_core.text import counted, hide

if TYPE_CHECKING:
    from rewards_core.rate import Limiter

T = TypeVar("T")

logger = logging.getLogger(__name__)

MAX_INLINE_PARSE = 1024 * 1024
"""Bytes of the largest answer that is parsed on the event loop; a larger one is parsed in a thread."""
MAX_REFUSAL = 64 * 1024
"""Bytes of the largest error body that is parsed; a larger one would block the event loop."""
MAX_NAME = 100
"""Characters of a field name, code or request id that an error keeps."""


class CallTransport(Protocol):
    """What a call needs of its transport."""

    vendor: str
    authorizer: Authorizer
    limiter: Limiter
    retry: RetryPolicy
    observers: Observers
    random: Callable[[], float]

    def refusal(self, answer: Answer) -> Refusal:
        """Read the vendor's error body."""
        ...

    def unusable(self) -> str | None:
        """Return why no request can be sent, or None."""
        ...

    async def exchange(self, request: Request[Any], headers: Headers, timeout: float) -> Answer | Failure:
        """Send one attempt and read its answer."""
        ...


class Call(Generic[T]):
    """One logical call."""

    attempts = 0
    ambiguous = known = renewed = False
    status: int | None = None
    _delay = 0.0
    _last: Failure | None = None

    def __init__(self, transport: CallTransport, request: Request[T]) -> None:
        self._transport = transport
        self._request = request
        self._time = asyncio.get_running_loop().time
        self._started = self._time()

    async def run(self) -> T:
        """Make attempts until the call ends, and notify the observers."""
        observed, again = self._transport.observers.any, False
        if observed:
            self._notify_start()
        try:
            try:
                result = await self.attempt()  # outside `backoff`, whose cost a call that succeeds would pay
            except Again:
                again = True
            if again:
                await self.pause()
                result = cast("T", await _repeat(self))
        except BaseException as error:
            unknown = isinstance(error, OutcomeUnknown)
            cancelled = isinstance(error, asyncio.CancelledError) and self._request.effect is not Effect.READ
            if cancelled and (self.ambiguous or self._request.maybe_sent):
                unknown = True
                if self._request.key is not None or self._request.asked is not None:  # no caller asked for a token call
                    warn_of_cancellation(self._where(), self._request.key, self._request.advice)
            if observed:
                self._notify_end(error, unknown=unknown)
            raise
        if observed:
            self._notify_end(None)
        return result

    async def attempt(self) -> T:
        """Send once; raise `Again` if another attempt is worth it, else the error that the call ends with."""
        self.attempts += 1
        outcome: Any = await self._exchange()
        if isinstance(outcome, Answer):  # it may echo credentials: no frame of a raised error may hold it
            self.status = outcome.status
            if outcome.status < 300 and len(outcome.body) > MAX_INLINE_PARSE:
                self._request.maybe_sent = True  # a call cancelled while its answer is parsed was carried out
                outcome = await self._read_in_thread(outcome)
            else:
                outcome = self._read(outcome)
        if not isinstance(outcome, Failure):
            return cast("T", outcome)
        raise self._after(outcome)

    async def _read_in_thread(self, answer: Answer) -> T | Failure:
        try:
            reading = asyncio.get_running_loop().run_in_executor(None, self._read, answer)
        except RuntimeError:  # the loop is shutting down and starts no thread
            return self._read(answer)
        return await reading

    def _read(self, answer: Answer) -> T | Failure:
        try:
            if 200 <= answer.status < 300:
                return self._request.read(answer)
            failure = self._refused(answer)
        except UnexpectedResponse as problem:
            failure = Failure(FailureKind.UNREADABLE, str(problem), answer.status, error=without_frames(problem))
        except RequestRejected as problem:
            failure = Failure(FailureKind.REJECTED, str(problem), answer.status, error=without_frames(problem))
        self.known = self._is_known(failure)
        return failure

    async def pause(self) -> None:
        """Wait before the next attempt."""
        if self._delay > 0:
            await asyncio.sleep(self._delay)

    async def _exchange(self) -> Answer | Failure:
        transport, request, time = self._transport, self._request, self._time
        try:
            headers = await transport.authorizer.headers(request.deadline - time())
        except TimeoutError:
            return Failure(FailureKind.TOO_LATE, "no credentials in time")
        except ConfigurationError as problem:
            return Failure(FailureKind.MISCONFIGURED, str(problem))
        except VendorError as problem:
            return Failure(FailureKind.REJECTED, str(problem), problem.status, error=problem)
        if not transport.limiter.take():
            if (reason := transport.unusable()) is not None:  # never queue among the calls of another loop or process
                return Failure(FailureKind.UNUSABLE, reason)
            if request.may_send is not None and transport.limiter.paused_for() > 0:
                return self._no_slot()
            if not await transport.limiter.wait(request.deadline - time()):
                return self._no_slot()
        try:
            if request.may_send is not None and not await request.may_send():
                transport.limiter.give_back()
                return Failure(FailureKind.NOT_SENT, "may_send returned False")
            outcome = await transport.exchange(request, headers, request.deadline - time())
        finally:
            transport.limiter.release()
        if not isinstance(outcome, Answer) or outcome.status != 401 or self.renewed:
            return outcome
        self.renewed = True
        outcome = self._refused(outcome)  # the answer may echo credentials, which a raised error must not hold
        try:
            if not await transport.authorizer.renew(headers, request.deadline - time()):
                return outcome
        except TimeoutError:
            reason = "HTTP 401, and no new credentials in time. Nothing was carried out. Call again"
            return Failure(FailureKind.REJECTED, reason, 401, error=ConnectFailed(reason))
        except VendorError as problem:  # the vendor did nothing, and the caller must learn why the renewal failed
            reason = f"HTTP 401, and new credentials could not be fetched: {problem}"
            return Failure(FailureKind.REJECTED, reason, problem.status or 401, error=problem)
        self.attempts += 1
        return await self._exchange()

    def _no_slot(self) -> Failure:
        paused = self._transport.limiter.paused_for()
        if paused > 0:
            return Failure(
                FailureKind.THROTTLED, f"the vendor asked for a pause, which lasts {paused:.1f} s more", retry_after=paused
            )
        return Failure(FailureKind.TOO_LATE, "no free connection slot in time")

    def _refused(self, answer: Answer) -> Failure:
        status = answer.status
        if status in {408, 429} or status >= 500:
            asked = parse_retry_after(answer.headers.get("Retry-After"), answer.headers.get("Date"))
            return Failure(FailureKind.THROTTLED if status == 429 else FailureKind.UNANSWERED, f"HTTP {status}", status, asked)
        if status == 407:  # only a proxy answers 407: the vendor received nothing
            return Failure(FailureKind.NOT_SENT, "the proxy rejected its credentials (HTTP 407)", status)
        if status < 200:
            return Failure(FailureKind.UNREADABLE, f"HTTP {status}, which is not a final answer", status)
        if status < 400:
            return Failure(FailureKind.REDIRECTED, f"HTTP {status}, a redirect, which is not followed", status)
        refusal = self._transport.refusal(answer) if len(answer.body) <= MAX_REFUSAL else Refusal()
        secrets = self._transport.authorizer.secrets()
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
        return Failure(FailureKind.REJECTED, f"HTTP {status}: {words}", status, error=kind(words, **facts))

    def _after(self, failure: Failure) -> Exception:
        effect, policy, transport = self._request.effect, self._transport.retry, self._transport
        if failure.kind is FailureKind.TOO_LATE and self._last is not None:
            self.attempts -= 1
            return self._late(self._last)  # the attempt that was made tells why the call failed
        self.status = failure.status
        if self.known or (effect is not Effect.READ and failure.kind in AMBIGUOUS):
            self.ambiguous = True
        repeated = failure.kind in REPEATED[effect] and self.attempts < policy.attempts and self._request.may_send is None
        if not repeated and failure.status != 429:
            return self._final(failure)
        asked = failure.retry_after
        delay = policy.pause(self.attempts, transport.random(), asked)
        if failure.kind is FailureKind.THROTTLED and failure.status == 429:
            transport.limiter.pause(min(max(delay, asked or 0.0), policy.max_retry_after))
        if not repeated or (asked or 0.0) > policy.max_retry_after:
            return self._final(failure)
        if delay >= self._request.deadline - self._time():
            return self._late(failure)
        self._delay, self._last = delay, failure
        if transport.observers.any:
            record = CallRetried(
                operation=self._request.operation,
                idempotency_key=self._request.key,
                attempt=self.attempts,
                status=failure.status,
                reason=failure.reason,
                delay=delay,
            )
            transport.observers.retry(record)
        return Again()

    def _is_known(self, failure: Failure) -> bool:
        """Return whether the vendor refused because it already knows the key: an earlier call may have been carried out."""
        says_known, error = self._request.says_known, failure.error
        if says_known is None or failure.kind is not FailureKind.REJECTED or not isinstance(error, RequestRejected):
            return False
        return not isinstance(error, (Unauthorized, Forbidden)) and says_known(error)

    def _late(self, failure: Failure) -> VendorError | ConfigurationError:
        return self._final(failure._replace(reason=f"{failure.reason}, and no time for another attempt"), late=True)

    def _final(self, failure: Failure, *, late: bool = False) -> VendorError | ConfigurationError:
        error, kind, where = failure.error, failure.kind, self._where()
        facts = self._facts(error)
        reason = f"{failure.reason}, {self._tries()}"
        if self.ambiguous:
            return self._unknown(reason, facts)
        if kind is FailureKind.UNUSABLE:
            return ClientClosed(f"{where}: {failure.reason}. Nothing was sent.", **facts)
        if kind is FailureKind.MISCONFIGURED:
            return ConfigurationError(f"{where}: {failure.reason}. Nothing was sent.")
        if error is not None:
            error.args = (f"{where}: {failure.reason}",)
            error.__dict__.update({name: value for name, value in facts.items() if value is not None})
            return error
        if kind is FailureKind.TOO_LATE:
            advice = "Call again; if this is common, raise the total timeout, or the client's limits."
            return ConnectFailed(f"{where}: {reason}. Nothing was sent. {advice}", **facts)
        if kind is FailureKind.NOT_SENT:
            advice = "Check the address and the network, then call again."
            return ConnectFailed(f"{where}: {reason}. Nothing was sent. {advice}", **facts)
        asked = f" in {failure.retry_after:.1f} s, as the vendor asked" if failure.retry_after else " later"
        if kind is FailureKind.THROTTLED:
            advice = f"Call again{asked}, or lower the client's limits."
            return RateLimited(f"{where}: {reason}. Nothing was carried out. {advice}", retry_after=failure.retry_after, **facts)
        if kind is FailureKind.REDIRECTED:
            return UnexpectedResponse(f"{where}: {reason}. Check the base URL.", **facts)
        if kind is FailureKind.UNREADABLE:
            return UnexpectedResponse(f"{where}: {reason}. Report it to the vendor.", **facts)
        if late:
            return DeadlineExceeded(f"{where}: {reason}. Call again; if this is common, raise the total timeout.", **facts)
        return ServerFailed(f"{where}: {reason}. Call again{asked}.", **facts)

    def _unknown(self, reason: str, facts: dict[str, Any]) -> OutcomeUnknown:
        key = self._request.key
        advice = self._request.advice or (f"look up {key!r} before you send it again" if key else "")
        happened = "the vendor says that it already exists" if self.known else "no confirmation"
        text = f"{self._where()}: {happened}: {reason}. It may have been carried out"
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
        return f"{self._transport.vendor} {self._request.operation}"

    def _tries(self) -> str:
        return f"{counted(self.attempts, 'attempt')} in {self._time() - self._started:.1f} s"

    def _notify_start(self) -> None:
        request = self._request
        self._transport.observers.start(
            CallStarted(
                operation=request.operation,
                method=request.method,
                path=getattr(request.url, "path", ""),
                idempotency_key=request.key,
            )
        )

    def _notify_end(self, error: BaseException | None, *, unknown: bool = False) -> None:
        self._transport.observers.end(
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
    """Log that a write was cancelled which may have been carried out: the caller gets no error that says so."""
    logger.warning(
        "%s was cancelled after its request may have been sent, so it may have been carried out%s: %s. To limit the time of a "
        "call, pass timeout= instead of cancelling it: it then ends with OutcomeUnknown",
        call,
        f" (key {key!r})" if key else "",
        advice or "look for what it may have created before you call again",
    )
