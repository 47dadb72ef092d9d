"""How waiting and keeping can end other than well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rewards_core.errors import RewardsError

if TYPE_CHECKING:
    from rewards_core.operations import KeyedRequest, Operation, OperationRef


class NotTaken(RewardsError):
    """A handler could not hand an event on for now; its text says all, so that no traceback is logged."""


class CompletionTimeout(RewardsError, TimeoutError):
    """The time of a wait ran out; the operation may still settle.

    Attributes:
        ref: The operation waited for; None where nothing was found under the key of a request.
        request: The request whose operation was waited for, None where its uid was known.
        timeout: Seconds the wait was given.
        last_seen: What the last poll that answered saw, None if none did.
        last_error: What the last poll that failed met, None if none did.
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
    """`Completions` was closed with this wait inside, or used after its end."""


class CompletionsFailed(RewardsError):
    """The background work of `Completions` kept dying, so that no wait could be kept honestly.

    Attributes:
        cause: What the last attempt died of.
    """

    def __init__(self, message: str, *, cause: BaseException | None = None) -> None:
        super().__init__(message)
        self.cause = cause


def time_is_over(
    ref: OperationRef,
    timeout: float,
    last_seen: Operation | None,
    last_error: Exception | None,
    request: KeyedRequest | None = None,
) -> CompletionTimeout:
    """Return the error of a wait whose time ran out, with what is known of its operation."""
    if last_error is not None:
        known = f"the last poll met {type(last_error).__name__}"
    elif last_seen is not None:
        known = f"the last poll saw {last_seen.status}"
    else:
        known = "no poll has answered"
    return CompletionTimeout(
        f"{ref} did not settle within {timeout:g} s: {known}. It may still settle: wait again, do not send it again.",
        ref=ref,
        timeout=timeout,
        request=request,
        last_seen=last_seen,
        last_error=last_error,
    )


def nothing_found(request: KeyedRequest, timeout: float, last_error: Exception | None, *, answered: bool) -> CompletionTimeout:
    """Return the error of a wait whose time ran out before its operation was found by the key."""
    if last_error is not None:
        known = f"the last look-up met {type(last_error).__name__}"
    elif answered:
        known = "the last look-up did not list it"
    else:
        known = "no look-up was answered"
    return CompletionTimeout(
        f"Nothing was found under the key {request.key!r} within {timeout:g} s: {known}. It may still have been carried out: "
        "wait again, or repeat the call with the same key and repeated=True; never use another key for it.",
        ref=None,
        timeout=timeout,
        request=request,
        last_error=last_error,
    )
