"""The words all floors share about work that a vendor finishes later."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol, Self, runtime_checkable

from attrs import field, frozen

DEFAULT_SCOPE = "default"


MaySend = Callable[[], Awaitable[bool]]
"""Whether a request that is about to leave may be sent."""


class OpenEnum(StrEnum):
    """An enumeration that folds case and keeps words it does not know, equal only to themselves."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        folded = value.lower()
        for member in cls:
            if member.value == folded:
                return member
        stranger = str.__new__(cls, folded)
        stranger._name_ = "UNKNOWN"
        stranger._value_ = folded
        return stranger


class OperationStatus(OpenEnum):
    """How far the chain has come; a word not listed here is kept and is not terminal."""

    PENDING = "pending"
    DONE = "done"
    FAILED = "failed"

    @property
    def terminal(self) -> bool:
        """Whether this status never changes again."""
        return self is OperationStatus.DONE or self is OperationStatus.FAILED


TERMINAL = {status.value: status for status in OperationStatus if status.terminal}
"""The statuses that never change again, by the vendor's words in small letters."""


@frozen
class OperationRef:
    """Name one operation: two operations of different kind or scope may bear the same uid.

    It is made for every delivery and poll, so its parts are not checked here; a client checks them in `ref_of`.

    Args:
        scope: One app of one vendor, `"default"` where there is only one.
        kind: What sort of operation, in the vendor's word, such as `"allocation"`.
        uid: The vendor's id of it.
    """

    scope: str
    kind: str
    uid: str

    def __str__(self) -> str:
        return f"{self.scope}/{self.kind}/{self.uid}"


@runtime_checkable
class Operation(Protocol):
    """What every vendor's model of an operation has."""

    @property
    def ref(self) -> OperationRef:
        """The name under which outcomes, waiters and pending lists know it."""
        ...

    @property
    def status(self) -> OperationStatus:
        """How far it has come."""
        ...

    @property
    def key(self) -> str | None:
        """The caller's idempotency key it was made with, None for a kind that has none."""
        ...

    @property
    def recovered(self) -> bool:
        """Whether it was found at the vendor instead of created by this call, so that its event may already have come."""
        ...

    @property
    def raw(self) -> Mapping[str, Any]:
        """The vendor's own JSON object, unknown keys included."""
        ...


@runtime_checkable
class KeyedRequest(Protocol):
    """What a call asked for under an idempotency key: enough to find the operation without knowing its uid. Picklable."""

    @property
    def scope(self) -> str:
        """The scope of the client that sent it."""
        ...

    @property
    def kind(self) -> str:
        """The kind of operation it asked for."""
        ...

    @property
    def key(self) -> str:
        """The caller's idempotency key."""
        ...

    @property
    def owner(self) -> str:
        """Whose operations are listed to find it, such as the user's uid: one listing serves all requests of one owner."""
        ...

    def is_met_by(self, operation: Operation) -> bool:
        """Return whether an operation is what was asked for: its key and its whole content."""
        ...


class OperationReader(Protocol):
    """What waiting needs of a vendor's client: to read an operation, to find one by its key, and to say how it ended."""

    @property
    def scope(self) -> str:
        """The scope of every operation this client makes."""
        ...

    def ref_of(self, operation: Operation | OperationRef | str) -> OperationRef:
        """Return the ref of an operation, of a ref (itself) or of a bare uid.

        Raises:
            ValueError: the uid cannot be one, or the operation belongs to another scope.
        """
        ...

    async def read_operation(self, ref: OperationRef, *, may_send: MaySend | None = None) -> Operation:
        """Ask the vendor how the operation stands.

        Args:
            ref: The operation.
            may_send: For callers that keep to a budget of requests: awaited when a request is about to leave; if it
                returns False, nothing is sent. One request is then made, and none while the vendor wants all to pause; another
                one only if it may be sent too.

        Raises:
            VendorError: as the client's reads do; `NotFound` where the vendor knows no such operation, `ConnectFailed` if it was
                not sent.
        """
        ...

    async def find_operations(
        self,
        requests: Sequence[KeyedRequest],
        *,
        before_page: Callable[[], Awaitable[object]] | None = None,
        may_send: MaySend | None = None,
    ) -> Sequence[Operation]:
        """Ask the vendor once, with one listing, which operations it holds under the keys of some requests.

        Args:
            requests: Of one kind and one owner.
            before_page: Awaited before each further page of the listing, so that pages keep to a budget of requests.
            may_send: As for `read_operation`, for each page.

        Returns:
            Every listed operation that bears one of the keys, whatever its content; compare it by `KeyedRequest.is_met_by`. That
            one is missing proves nothing.

        Raises:
            VendorError: as the client's reads do.
            ValueError: a request is of another scope or of a kind this client cannot list.
        """
        ...

    def parse_operation(self, ref: OperationRef, resource: Mapping[str, Any]) -> Operation:
        """Build the model from the vendor's JSON object, as kept in a store or found in an event.

        Raises:
            UnexpectedResponse: the object is not a complete resource of that kind and uid.
        """
        ...

    def conclude(self, asked: Operation | KeyedRequest | None, final: Operation) -> Operation:
        """Return the terminal operation if it is done and is what was asked for.

        Args:
            asked: The operation as it was created here, or the request whose operation was found by its key, or None if only its
                ref is known.
            final: The operation in a terminal status.

        Returns:
            The final operation; `recovered` where it was found instead of created.

        Raises:
            OperationFailed: the chain said failed.
            OperationMismatch: it settled, but as another operation than was asked for.
        """
        ...


@frozen(kw_only=True)
class Event:
    """One thing a vendor said in a signed body, after parsing.

    `problem` is None for an event that can be used. Otherwise it says in a few words why the body is kept as a dead letter and
    settles nothing: it could not be read, or it names another app.

    Attributes:
        scope: The scope of the source that received it.
        name: The vendor's event name, empty if unreadable.
        identity: 16 bytes which are equal for two deliveries of one event and for nothing else.
        body: The signed bytes as they arrived.
        ref: The operation it speaks of, if one was found.
        also: Further operations it speaks of; the vendor is asked about each.
        key: The caller's idempotency key of the operation, if the body carries it.
        resource: The operation's JSON object, only if it carries every mandatory field and a terminal status.
        occurred_at: The vendor's own time of the event, as text.
        correlation_id: Unsigned hint from the headers, shown only.
        attempt: Unsigned hint from the headers, shown only.
        problem: Why it cannot be used, or None.
        signature: The signature header as it arrived, so that the body can be handed on with it.
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
    """One vendor's webhooks: how they are signed and what they say. It knows no store and does no IO.

    A source may also have `event_names`, a collection of the event names that the vendor documents: a receiver then warns of a
    handler for another name. And it may have `admits(headers) -> bool`: False refuses a delivery before its body is read, because
    its headers show that `verify` would refuse it whatever the body is.
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
            SignatureError: for whatever else arrives, and nothing but that.
        """
        ...

    def parse(self, body: bytes, headers: Mapping[str, str] | None = None) -> Event:
        """Read a verified body; total: what cannot be used comes back with its `problem`.

        Args:
            body: The verified bytes.
            headers: Where unsigned hints (correlation id, attempt) are taken from.

        Raises:
            TypeError: the body is not bytes.
        """
        ...
