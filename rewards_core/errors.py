"""How a call to a vendor can end other than well.

Whoever catches `OutcomeUnknown` has caught every case in which something may have happened without an answer that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from rewards_core.text import one_line

if TYPE_CHECKING:
    from rewards_core.operations import KeyedRequest, Operation


MAX_TEXT = 1000
"""The longest text of an error, in characters."""


@frozen(kw_only=True)
class FieldError:
    """What the vendor found wrong with one field of a request, or, where `field` is empty, with the request as a whole."""

    field: str
    message: str
    code: str | None = None


def _rebuild(cls: type[Exception], args: tuple[Any, ...], state: dict[str, Any]) -> Exception:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class RewardsError(Exception):
    """Base of every error of this library: one line of text, picklable and copyable with all its attributes."""

    def __init__(self, message: str) -> None:
        super().__init__(message if message.isprintable() and len(message) <= MAX_TEXT else one_line(message, MAX_TEXT))

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else type(self).__name__

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, dict(self.__dict__))


class ConfigurationError(RewardsError, ValueError):
    """A local mistake, found before anything was sent, such as a borrowed session with credentials of its own."""


class StoreError(RewardsError):
    """A store could not do what was asked; nothing was acknowledged."""


class StoreFull(StoreError):
    """A store, or the disk beneath it, holds as much as it may, and nothing in it may leave."""


class StoreClosed(StoreError):
    """A store was used after `aclose()`."""


class VendorError(RewardsError):
    """A call to a vendor did not end well.

    Attributes:
        status: HTTP status of the last answer, None if there was none.
        code: The vendor's own code of the refusal.
        details: Everything the vendor's error body says, about single fields and about the request as a whole.
        request_id: The vendor's id of the request, if it gave one.
        attempts: How many times a request was made or tried to be made.
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
        """What the vendor found wrong field by field."""
        return tuple(each for each in self.details if each.field)


class RequestRejected(VendorError):
    """The vendor refused this call, and this call did nothing.

    It says nothing about an earlier call with the same key: where there may have been one, say so with `repeated=True`.
    """


class ValidationFailed(RequestRejected):
    """The vendor found the request's fields wrong; `field_errors` says which."""


class Unauthorized(RequestRejected):
    """The credentials were not accepted (401)."""


class Forbidden(RequestRejected):
    """The credentials are known but may not do this (403)."""


class NotFound(RequestRejected):
    """The vendor knows no such thing (404)."""


class RateLimited(RequestRejected):
    """The vendor asked for fewer requests (429), and for longer than the call had time.

    Attributes:
        retry_after: Seconds the vendor asked to wait, None if it did not say.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after


class Conflict(VendorError):
    """The key exists with other content.

    Attributes:
        existing: What the vendor holds under the key.
    """

    def __init__(self, message: str, *, existing: Operation | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.existing = existing


class ConnectFailed(VendorError):
    """The request never left, or met a 401 while no other credentials could be fetched: this call did nothing."""


class OutcomeUnknown(VendorError):
    """The request may have been carried out, and no answer says whether it was.

    Pass the error to `Completions.wait`, which finds the operation by its key; or do what the text says. Never send the same
    thing under another key before it is known that the first one was not carried out.

    Attributes:
        request: What was asked for, frozen and picklable; None for a call that has no model of its request.
        advice: What to do, the last part of the text.
    """

    def __init__(self, message: str, *, request: object | None = None, advice: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.request = request
        self.advice = advice

    def __str__(self) -> str:
        return f"{super().__str__()}: {self.advice}" if self.advice else super().__str__()


class ServerFailed(VendorError):
    """The vendor could not answer a read (408, 5xx or a broken connection) in all attempts."""


class DeadlineExceeded(VendorError, TimeoutError):
    """The time of the call ran out."""


class UnexpectedResponse(VendorError):
    """The vendor answered in a way that its documents do not allow.

    Attributes:
        path: Where in the answer, such as `data.amount`; empty for the answer as a whole.
    """

    def __init__(self, message: str, *, path: str = "", **facts: Any) -> None:
        super().__init__(message, **facts)
        self.path = path


class ClientClosed(VendorError):
    """The client was closed, or is used from another loop or process than the one it lives in."""


class OperationFailed(VendorError):
    """The chain said failed.

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
    """The operation settled, but not as what was asked for.

    Attributes:
        operation: What settled.
        asked: What was asked for: the operation as it was created, or the request.
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
    """A delivery is not signed by a configured key; nothing in it may be believed.

    Attributes:
        reason: `"missing"`, `"malformed"`, `"unknown_key"` or `"mismatch"`.
        key_ids: The ids of the keys that the delivery claims to be signed with, as far as they can be read.
    """

    def __init__(self, message: str, *, reason: str, key_ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.key_ids = tuple(key_ids)
