"""Errors of waiting for operations, of handlers and of queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rewards_core.errors import RewardsError, StoreClosed

if TYPE_CHECKING:
    from rewards_core.operations import KeyedRequest, Operation, OperationRef


class RetryLater(RewardsError):
    """Raised by a handler that cannot process an event for now. It is logged without a traceback."""


class QueueError(RewardsError):
    """A queue could not be read or changed. Nothing was lost: what was not deleted is delivered again.

    Attributes:
        code: The queue's own word for it, such as `"AccessDenied"`, None if the queue did not answer.
    """

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class CompletionTimeout(RewardsError, TimeoutError):
    """A wait timed out; the operation may still settle.

    Attributes:
        ref: The operation, None if none was found by the key of the request.
        request: The request whose operation was waited for, None if its uid was known.
        timeout: Seconds.
        last_seen: The operation as the last answered poll returned it, None if no poll was answered.
        last_error: The error of the last poll, None if it was answered.
    """

    def __init__(
        self,
        message: str,
        *,
        ref: OperationRef | None,
        timeout: float,
        request: KeyedRequest | None = None,
        last_seen: Operation | None = None,
        last_error: Exception | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.ref = ref
        self.request = request
        self.timeout = timeout
        self.last_seen = last_seen
        self.last_error = last_error


class CompletionsClosed(RewardsError):
    """`Completions` was closed during this wait, or used after it was closed."""


class CompletionsFailed(RewardsError):
    """The background tasks of `Completions` kept crashing or lost their store, so that no wait could be completed.

    Attributes:
        cause: The error of the last crash; a `StoreClosed` if the store was closed.
    """

    def __init__(self, message: str, *, cause: BaseException | None = None) -> None:
        super().__init__(message)
        self.cause = cause


def tasks_ended(cause: Exception, name: str, crashes: int | None) -> CompletionsFailed:
    """Return the error of waits that end because the background task `name` ended."""
    if isinstance(cause, StoreClosed):
        return CompletionsFailed(
            "The store was closed while Completions used it, which ended all waits. The operations may still settle. Close a "
            "store after whatever uses it.",
            cause=cause,
        )
    return CompletionsFailed(
        f"{name} crashed {crashes} times in a row, last with {type(cause).__name__}. The operations may still settle: make a new "
        "Completions and wait again.",
        cause=cause,
    )


def timed_out(
    ref: OperationRef,
    timeout: float,
    last_seen: Operation | None,
    last_error: Exception | None,
    request: KeyedRequest | None = None,
) -> CompletionTimeout:
    """Return the error of a wait that timed out."""
    if last_error is not None:
        known = f"the last poll failed with {type(last_error).__name__}"
    elif last_seen is not None:
        known = f"at the last poll its status was {last_seen.status}"
    else:
        known = "no poll was answered"
    return CompletionTimeout(
        f"{ref} did not settle within {timeout:g} s: {known}. It may still settle: wait again, do not send it again.",
        ref=ref,
        timeout=timeout,
        request=request,
        last_seen=last_seen,
        last_error=last_error,
    )


def not_found_by_key(request: KeyedRequest, timeout: float, last_error: Exception | None, *, answered: bool) -> CompletionTimeout:
    """Return the error of a wait that timed out before its operation was found by the key."""
    if last_error is not None:
        known = f"the last lookup failed with {type(last_error).__name__}"
    elif answered:
        known = "the last lookup did not list it"
    else:
        known = "no lookup was answered"
    return CompletionTimeout(
        f"No operation with the key {request.key!r} was found within {timeout:g} s: {known}. The call may still have been "
        "carried out: wait again, or repeat the call with the same key and repeated=True. Never use another key for it.",
        ref=None,
        timeout=timeout,
        request=request,
        last_error=last_error,
    )
