"""The errors of the library.

`OutcomeUnknown` covers every case in which a request may have been carried out without a confirmation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from rewards_core.text import one_line

if TYPE_CHECKING:
    from rewards_core.operations import KeyedRequest, Operation


MAX_TEXT = 1000
"""Characters of the longest error text."""


@frozen(kw_only=True)
class FieldError:
    """A vendor's error about one field of a request, or about the request as a whole.

    Attributes:
        field: The name of the field, empty for the request as a whole.
        message: The vendor's text.
        code: The vendor's code of this error, None if it gave none.
    """

    field: str
    message: str
    code: str | None = None


def _rebuild(cls: type[Exception], args: tuple[Any, ...], state: dict[str, Any]) -> Exception:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class RewardsError(Exception):
    """Base of every error of this library: one line of text; picklable and copyable with all attributes."""

    def __init__(self, message: str) -> None:
        super().__init__(message if message.isprintable() and len(message) <= MAX_TEXT else one_line(message, MAX_TEXT))

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else type(self).__name__

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


class ConfigurationError(RewardsError, ValueError):
    """A local mistake, found before anything was sent, such as a borrowed session with its own credentials."""


class StoreError(RewardsError):
    """A store failed; nothing was acknowledged."""


class StoreFull(StoreError):
    """A store or its disk is full, and nothing may be evicted."""


class StoreClosed(StoreError):
    """A store was used after `aclose()`."""


class VendorError(RewardsError):
    """A call to a vendor failed.

    Attributes:
        status: HTTP status of the last answer, None without an answer.
        code: The vendor's error code.
        details: The vendor's errors, about single fields and about the request as a whole.
        request_id: The vendor's id of the request, if it gave one.
        attempts: Number of attempts, those that were never sent included.
        elapsed: Seconds from the call to this error.
        idempotency_key: The nonce or request id of the call, if it had one.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        details: Sequence[FieldError] = (),
        request_id: str | None = None,
        attempts: int = 0,
        elapsed: float = 0.0,
        idempotency_key: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.details = tuple(details)
        self.request_id = request_id
        self.attempts = attempts
        self.elapsed = elapsed
        self.idempotency_key = idempotency_key

    @property
    def field_errors(self) -> tuple[FieldError, ...]:
        """The vendor's errors about single fields."""
        return tuple(each for each in self.details if each.field)


class RequestRejected(VendorError):
    """The vendor refused this call, and this call did nothing.

    This says nothing about an earlier call with the same key: if there may have been one, pass `repeated=True`.
    """


class ValidationFailed(RequestRejected):
    """The vendor refused the content of the request; see `field_errors`."""


class Unauthorized(RequestRejected):
    """The vendor rejected the credentials (401)."""


class Forbidden(RequestRejected):
    """The credentials do not permit this call (403)."""


class NotFound(RequestRejected):
    """The vendor has no such object (404)."""


class RateLimited(RequestRejected):
    """The vendor asked for fewer requests (429), and the call had no time or attempt left to wait.

    Attributes:
        retry_after: Seconds that the vendor asked to wait, or None.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after


class Conflict(VendorError):
    """The vendor holds something else under this key.

    Attributes:
        existing: What it holds: an operation, or a user.
    """

    def __init__(self, message: str, *, existing: Any = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.existing = existing


class ConnectFailed(VendorError):
    """The request was never sent, or got a 401 and no new credentials could be fetched: this call did nothing."""


class OutcomeUnknown(VendorError):
    """The request may have been carried out; there is no confirmation.

    Pass the error to `Completions.wait`, which finds the operation by its key, or follow the text. Never send the same request
    under another key before the first one is known to have failed.

    Attributes:
        request: The request, frozen and picklable; None for a call that has no model of its request.
        advice: What to do; the last part of the text.
    """

    def __init__(self, message: str, *, request: object | None = None, advice: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.request = request
        self.advice = advice

    def __str__(self) -> str:
        return f"{super().__str__()}: {self.advice}" if self.advice else super().__str__()


class ServerFailed(VendorError):
    """Every attempt of a read failed with 408, 5xx or a lost connection."""


class DeadlineExceeded(VendorError, TimeoutError):
    """The time of the call ran out."""


class UnexpectedResponse(VendorError):
    """The vendor's answer contradicts its documentation.

    Attributes:
        path: The place in the answer, such as `data.amount`; empty for the whole answer.
    """

    def __init__(self, message: str, *, path: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.path = path


class ClientClosed(VendorError):
    """The client was closed, or is used in another event loop or process."""


class OperationFailed(VendorError):
    """The operation failed on the blockchain.

    Attributes:
        operation: The operation in its terminal status.
    """

    def __init__(self, message: str, *, operation: Operation, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.operation = operation


class OperationCancelled(VendorError):
    """The operation was cancelled and will never be done.

    Attributes:
        operation: The operation in its terminal status.
    """

    def __init__(self, message: str, *, operation: Operation, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.operation = operation


class OperationMismatch(VendorError):
    """The operation that settled is not the one that was asked for.

    Attributes:
        operation: The operation that settled.
        asked: The operation as it was created, or the request.
        differences: Field name to the pair (asked, settled).
    """

    def __init__(
        self,
        message: str,
        *,
        operation: Operation,
        asked: Operation | KeyedRequest,
        differences: Mapping[str, tuple[object, object]],
        **facts: Any,
    ) -> None:
        super().__init__(message, **facts)
        self.operation = operation
        self.asked = asked
        self.differences = dict(differences)


class SignatureError(RewardsError):
    """A delivery is not signed by a configured key; nothing in it can be trusted.

    Attributes:
        reason: `"missing"`, `"malformed"`, `"unknown_key"` or `"mismatch"`.
        key_ids: The key ids that the delivery claims, as far as they can be read.
    """

    def __init__(self, message: str, *, reason: str, key_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.key_ids = tuple(key_ids)
