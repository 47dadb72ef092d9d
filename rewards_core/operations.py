"""Operations that a vendor finishes later, events about them, and the protocols of clients and event sources."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol, Self, runtime_checkable

from attrs import field, frozen

DEFAULT_SCOPE = "default"


MaySend = Callable[[], Awaitable[bool]]
"""Returns whether a request that is ready to be sent may be sent."""


class OpenEnum(StrEnum):
    """An enumeration that folds case and keeps unknown words, which equal only themselves."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        folded = value.lower()
        for member in cls:
            if member.value == folded:
                return member
        unknown = str.__new__(cls, folded)
        unknown._name_ = "UNKNOWN"
        unknown._value_ = folded
        return unknown


class Status(OpenEnum):
    """A vendor's words for how far something is; an unknown word is kept and is not terminal."""

    @property
    def outcome(self) -> OperationStatus | None:
        """The terminal status that this word means, None while it may still change."""
        raise NotImplementedError

    @property
    def terminal(self) -> bool:
        """Whether this never changes again."""
        return self.outcome is not None


class OperationStatus(Status):
    """The progress of an operation; an unknown status is kept and is not terminal."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def outcome(self) -> OperationStatus | None:
        """This status itself if it is terminal, else None."""
        return TERMINAL.get(self.value)


TERMINAL = {status.value: status for status in (OperationStatus.DONE, OperationStatus.FAILED, OperationStatus.CANCELLED)}
"""The statuses that never change again, by the vendor's lower-case words."""


@frozen
class OperationRef:
    """The identity of one operation; operations of different kinds or scopes may have the same uid.

    Its parts are not checked here, on the hot path; a client checks them in `ref_of`.

    Args:
        scope: One app of one vendor, `"default"` if there is only one.
        kind: The vendor's word for the kind of operation, such as `"allocation"`.
        uid: The vendor's id of it.
        about: `KIND/UID` of something else in the scope whose events concern this operation, which they do not name: a transfer
            is looked up when its asset is mentioned. It is no part of the identity. In an event, a ref that is about itself is
            looked up only if it is pending.
    """

    scope: str
    kind: str
    uid: str
    about: str | None = field(default=None, eq=False, repr=False)

    def __str__(self) -> str:
        return f"{self.scope}/{self.kind}/{self.uid}"

    def as_dict(self) -> dict[str, str]:
        """Return scope, kind and uid, for output."""
        return {"scope": self.scope, "kind": self.kind, "uid": self.uid}


def subject_of(kind: str, uid: str) -> str:
    """Return what the refs of operations about this have as their `about`."""
    return f"{kind}/{uid}"


@runtime_checkable
class Operation(Protocol):
    """The attributes of every vendor's model of an operation."""

    @property
    def ref(self) -> OperationRef:
        """Its identity in outcomes, waiters and lists of pending operations."""
        ...

    @property
    def status(self) -> Status:
        """Its progress."""
        ...

    @property
    def key(self) -> str | None:
        """The caller's idempotency key, None for a kind without keys."""
        ...

    @property
    def recovered(self) -> bool:
        """Whether it was looked up instead of created by this call, so that its event may have arrived already."""
        ...

    @property
    def raw(self) -> Mapping[str, Any]:
        """The vendor's own JSON object, unknown keys included."""
        ...


@runtime_checkable
class KeyedRequest(Protocol):
    """A request with an idempotency key: enough to find its operation without a uid. Picklable."""

    @property
    def scope(self) -> str:
        """The scope of the client that sent it."""
        ...

    @property
    def kind(self) -> str:
        """The kind of operation."""
        ...

    @property
    def key(self) -> str:
        """The caller's idempotency key."""
        ...

    @property
    def owner(self) -> str:
        """The user whose operations are listed to find it: one list serves all requests of one owner."""
        ...

    def is_met_by(self, operation: Operation) -> bool:
        """Return whether an operation has this key and the whole content of this request."""
        ...


class OperationReader(Protocol):
    """A client that reads operations, finds them by key, and judges how they ended."""

    @property
    def scope(self) -> str:
        """The scope of every operation of this client."""
        ...

    def ref_of(self, operation: Operation | OperationRef | str) -> OperationRef:
        """Return the ref of an operation, of a ref (itself) or of a bare uid.

        Raises:
            ValueError: the uid is invalid, or the operation belongs to another scope.
        """
        ...

    async def read_operation(self, ref: OperationRef, *, may_send: MaySend | None = None) -> Operation:
        """Read an operation from the vendor.

        Args:
            ref: The operation.
            may_send: For a read that a budget of requests pays for: awaited just before the request is sent; False cancels it.

        Raises:
            VendorError: the read failed: `NotFound` if the vendor has no such operation, `ConnectFailed` if nothing was sent.
        """
        ...

    async def find_operations(
        self,
        requests: Sequence[KeyedRequest],
        *,
        before_page: Callable[[], Awaitable[object]] | None = None,
        may_send: MaySend | None = None,
    ) -> Sequence[Operation]:
        """Find the operations of some requests by their keys, with one list.

        Args:
            requests: Requests of one kind and one owner.
            before_page: Awaited before each further page of the list, which a budget of requests may pay for.
            may_send: As for `read_operation`, for each page.

        Returns:
            Every listed operation with one of the keys, whatever its content; compare it by `KeyedRequest.is_met_by`. A missing
            operation proves nothing.

        Raises:
            VendorError: the read failed.
            ValueError: a request is of another scope, or of a kind that this client cannot list.
        """
        ...

    def parse_operation(self, ref: OperationRef, resource: Mapping[str, Any]) -> Operation:
        """Build the model from the vendor's JSON object, as kept in a store or found in an event.

        Raises:
            UnexpectedResponse: the object is not a complete resource of that kind and uid.
        """
        ...

    def conclude(self, asked: Operation | KeyedRequest | None, final: Operation) -> Operation:
        """Return the terminal operation if it is done and is the one that was asked for.

        Args:
            asked: The operation as it was created, or the request whose operation was found by its key; None for a bare ref.
            final: The operation in a terminal status.

        Returns:
            The final operation; `recovered` if it was found instead of created.

        Raises:
            OperationFailed: it failed on the blockchain.
            OperationCancelled: it was cancelled.
            OperationMismatch: it is not the operation that was asked for.
        """
        ...


@frozen(kw_only=True)
class Event:
    """One parsed event of a vendor.

    `problem` is None for a usable event. Otherwise the body becomes a dead letter and settles nothing, because it cannot be read
    or names another app.

    Attributes:
        scope: The scope of the source that received it.
        name: The vendor's event name, empty if unreadable.
        identity: 16 bytes that are equal only for deliveries of the same event.
        body: The signed bytes as they arrived.
        ref: The operation in it, if one was found.
        also: Further operations in it; each is looked up at the vendor.
        key: The caller's idempotency key of the operation, if the body carries it.
        resource: The operation's JSON object, only if it has every mandatory field and a terminal status.
        occurred_at: The vendor's own time of the event, as text.
        correlation_id: An unsigned hint from the headers, for display.
        attempt: An unsigned hint from the headers, for display.
        problem: Why the event cannot be used, or None.
        signature: The signature header as it arrived, to forward the body with.
    """

    scope: str
    name: str
    identity: bytes
    body: bytes = field(repr=False)
    ref: OperationRef | None = None
    also: tuple[OperationRef, ...] = ()
    key: str | None = None
    resource: Mapping[str, Any] | None = field(default=None, repr=False)
    occurred_at: str | None = None
    correlation_id: str | None = None
    attempt: str | None = None
    problem: str | None = None
    signature: str | None = field(default=None, repr=False)


class EventSource(Protocol):
    """The signatures and events of one vendor's webhooks, without IO.

    A source may also have `event_names`, the event names that the vendor documents: a receiver warns about a handler for any
    other name. It may also have `admits(headers) -> bool`: False refuses a delivery before its body is read, because `verify`
    would refuse it with any body.
    """

    @property
    def scope(self) -> str:
        """The scope of every event of this source."""
        ...

    def verify(self, headers: Mapping[str, str], body: bytes) -> str:
        """Return the id of the key that signed these bytes.

        Args:
            headers: The delivery's headers; their names are compared without regard to case.
            body: The raw bytes, as they arrived.

        Raises:
            SignatureError: none of the source's keys signed them. No other error may be raised.
        """
        ...

    def parse(self, body: bytes, headers: Mapping[str, str] | None = None) -> Event:
        """Read a verified body; one that cannot be used is returned with its `problem`.

        Args:
            body: The verified bytes.
            headers: The source of the unsigned hints (correlation id, attempt).

        Raises:
            TypeError: the body is not bytes.
        """
        ...
