"""What a payout needs of the vendor that pays, and what each answer means for a row."""

from __future__ import annotations

import copy
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from attrs import frozen

from rewards_core.errors import (
    ClientClosed,
    ConfigurationError,
    Conflict,
    ConnectFailed,
    OperationCancelled,
    OperationFailed,
    OutcomeUnknown,
    RateLimited,
    RequestRejected,
    RewardsError,
    Unauthorized,
    UnexpectedResponse,
)
from rewards_core.operations import OperationStatus

if TYPE_CHECKING:
    from decimal import Decimal

    from payouts.states import Entry
    from rewards_core.operations import Operation, OperationRef

NOT_PAID = frozenset({OperationStatus.FAILED, OperationStatus.CANCELLED})
"""The statuses of operations that ended without paying anything."""
LOOKED_UP = (
    "run the same command again, which looks it up and never sends it again under the same key; if it stays unknown, check with "
    "the vendor, then use payouts resolve, and payouts retry for a new key"
)
"""What to do about a row that may have been carried out and must not be repeated."""
_LOOKED_UP_AND_REPEATED = "run the same command again, which looks it up and repeats it under the same key"

_call_name = re.compile(r"^(\w+) [a-z_]+: ")


class Meaning(Enum):
    """What an error of a call that pays means for the row."""

    REJECTED = "the vendor refused, and this call did nothing"
    MISMATCH = "the vendor holds something else under the key"
    UNKNOWN = "it may have been carried out"
    AGAIN = "nothing happened, and it may go better later"
    STOP = "nothing happened, and no other row would fare better"
    UNKNOWN_STOP = "it may have been carried out, and no other row would fare better"


def meaning_of(problem: RewardsError) -> Meaning:
    """Return what an error of a call that pays means for the row; what is not known to be harmless is `UNKNOWN`."""
    if isinstance(problem, OutcomeUnknown):
        return Meaning.UNKNOWN
    if isinstance(problem, Conflict):
        return Meaning.MISMATCH
    if isinstance(problem, (ConnectFailed, RateLimited)):
        return Meaning.AGAIN
    if isinstance(problem, UnexpectedResponse):  # a redirect: nothing says that the vendor did not carry it out first
        return Meaning.UNKNOWN_STOP
    if isinstance(problem, (Unauthorized, ClientClosed, ConfigurationError)):
        return Meaning.STOP
    return Meaning.REJECTED if isinstance(problem, RequestRejected) else Meaning.UNKNOWN


def restated(problem: RewardsError, *, looked_up: bool, repeated: bool = True) -> RewardsError:
    """Return an error in words for people who run a command and do not know the Python API.

    Args:
        problem: The error of a call that pays.
        looked_up: Whether the next run looks the row up.
        repeated: Whether it then repeats a row that is not found.
    """
    told = copy.copy(problem)
    if isinstance(problem, OperationFailed):
        told.args = ("it failed on the blockchain, and nothing was paid",)
    elif isinstance(problem, OperationCancelled):
        told.args = ("it was cancelled, and nothing was paid",)
    else:
        told.args = (_call_name.sub(r"\1: ", str(problem.args[0])),)
    if looked_up and isinstance(told, OutcomeUnknown):
        told.advice = _LOOKED_UP_AND_REPEATED if repeated else LOOKED_UP
    return told


@frozen(kw_only=True)
class Held:
    """A payment as the vendor holds it.

    Attributes:
        uid: The vendor's id of the payment.
        key: The idempotency key of the payment.
        recipient: The user who was paid.
        item: What was granted.
        amount: The amount granted; None of what has no amount, such as an asset.
        status: The status of the payment.
    """

    uid: str
    key: str
    recipient: str
    item: str
    amount: Decimal | None
    status: OperationStatus


class Balances(Protocol):
    """Reads the balances of a vendor that keeps a balance for each recipient."""

    async def balance_of(self, recipient: str) -> int:
        """Return how much a recipient has now.

        Raises:
            VendorError: the request to the vendor failed.
        """
        ...


class Lookups(Protocol):
    """Looks up the payments of a vendor that settles rows later."""

    async def look_up(self, entry: Entry) -> Operation | None:
        """Return what the vendor holds under a row's key, None if a complete list shows nothing.

        Raises:
            VendorError: the request to the vendor failed, or its list is incomplete; nothing changed.
        """
        ...

    async def find(
        self, entries: Sequence[Entry], before_page: Callable[[], Awaitable[object]] | None = None
    ) -> Mapping[int, Operation]:
        """Ask once what the vendor holds under the keys of rows of one recipient; return it by the rows' numbers.

        That a row is missing proves nothing. `before_page` is awaited before each further page of the vendor's list.

        Raises:
            VendorError: the request to the vendor failed; nothing changed.
        """
        ...

    async def held_under(self, entry: Entry, keys: Collection[str]) -> Operation | None:
        """Return the payment of a row under any of these keys, unless it ended unpaid; None if a complete list shows none.

        Raises:
            VendorError: the request to the vendor failed, or its list is incomplete; nothing changed.
        """
        ...

    async def list_held(self, recipient: str, before_page: Callable[[], Awaitable[object]] | None = None) -> Sequence[Held]:
        """Return every payment that the vendor holds for a recipient; `before_page` is awaited before each further page.

        Raises:
            VendorError: the request to the vendor failed, or its list is incomplete.
        """
        ...

    async def read_held(self, uid: str) -> Held:
        """Return the payment of that uid.

        Raises:
            NotFound: the vendor has no such payment.
            VendorError: the request to the vendor failed.
        """
        ...

    def unknown(self, entry: Entry) -> OutcomeUnknown:
        """Return the error of a call that sent a row and ended without an answer, to wait for."""
        ...

    async def read(self, entry: Entry) -> Operation:
        """Return the current state of the operation that the vendor accepted for a row.

        Raises:
            VendorError: the request to the vendor failed; nothing changed.
        """
        ...

    def ref(self, entry: Entry) -> OperationRef:
        """Return the ref of the operation that the vendor accepted for a row."""
        ...

    def held_before(self, operation: Operation) -> bool:
        """Return whether the vendor held the operation before this request, so that its webhook may have arrived already."""
        ...

    def conclude(self, entry: Entry, final: Operation) -> None:
        """Compare what settled with what the row asked for.

        Raises:
            OperationFailed: the operation failed on the blockchain.
            OperationCancelled: the operation was cancelled.
            OperationMismatch: the settled operation differs from what the row asked for.
        """
        ...


@runtime_checkable
class Payer(Protocol):
    """One vendor as a run sees it; `run_payouts` takes one in place of a client."""

    @property
    def name(self) -> str:
        """The vendor whose rows it pays, as in `Ledger(vendor=...)`."""
        ...

    @property
    def may_repeat(self) -> bool:
        """Whether a request whose answer is not known may be sent again under the same key."""
        ...

    @property
    def lookups(self) -> Lookups | None:
        """Looks up payments later; None if the vendor offers no look-up, so that only the answer to the request counts."""
        ...

    @property
    def balances(self) -> Balances | None:
        """Reads balances; None if the vendor keeps no balances."""
        ...

    async def pay(self, entry: Entry, *, repeated: bool = False) -> Operation | None:
        """Send a row under its key.

        Args:
            entry: The row.
            repeated: Whether the row may have been sent before.

        Returns:
            The operation that the vendor will finish later; None from a payer without `lookups`, if the answer means that the row
            is paid.

        Raises:
            RateLimited, ConnectFailed: nothing happened; it is tried again.
            Unauthorized, ClientClosed, ConfigurationError: nothing happened; the run ends.
            Conflict: the vendor holds something else under the key.
            RequestRejected: the vendor refused it, and this call did nothing.
            VendorError: any other, such as `OutcomeUnknown`: it may have been carried out.
        """
        ...
