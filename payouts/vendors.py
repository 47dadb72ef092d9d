"""What a payout asks of a vendor, and what each answer means for a row: the only place that knows both clients."""

from __future__ import annotations

import copy
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from attrs import evolve, frozen

from original_async import Allocation, AllocationRequest
from rewards_core.errors import (
    ClientClosed,
    ConfigurationError,
    Conflict,
    ConnectFailed,
    OperationFailed,
    OutcomeUnknown,
    RateLimited,
    RequestRejected,
    RewardsError,
    Unauthorized,
    UnexpectedResponse,
)
from rewards_core.operations import Operation, OperationRef, OperationStatus
from rewards_core.validation import check_methods

if TYPE_CHECKING:
    from enkash_async import EnkashClient
    from original_async import OriginalClient
    from payouts.states import Entry


_CLIENTS = "OriginalClient(...) or EnkashClient(...)"
_call_name = re.compile(r"^(Original|EnKash) [a-z_]+: ")


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


def as_told(problem: RewardsError, *, looked_up: bool) -> RewardsError:
    """Return an error in the words of those who run a command and know nothing of calls.

    Args:
        problem: How a call that pays ended.
        looked_up: Whether the next run looks the row up.
    """
    told = copy.copy(problem)
    if isinstance(problem, OperationFailed):
        told.args = ("it failed on the blockchain, and nothing was paid",)
    else:
        told.args = (_call_name.sub(r"\1: ", str(problem.args[0])),)
    if looked_up and isinstance(told, OutcomeUnknown):
        told.advice = "run the same command again, which looks it up and repeats it under the same key"
    return told


@frozen(kw_only=True)
class Held:
    """A payment as the vendor holds it.

    Attributes:
        uid: The vendor's name of it.
        key: The idempotency key it was made with.
        recipient: Who was paid.
        item: The reward contract.
        amount: How much.
        status: How far it has come.
    """

    uid: str
    key: str
    recipient: str
    item: str
    amount: Decimal
    status: OperationStatus


class Balances(Protocol):
    """What a vendor can be asked about that keeps a balance for each recipient."""

    async def balance_of(self, recipient: str) -> int:
        """Return how much a recipient has now.

        Raises:
            VendorError: the vendor could not be asked.
        """
        ...


class Later(Protocol):
    """What a vendor can be asked about that finishes rows later."""

    async def look_up(self, entry: Entry) -> Operation | None:
        """Return what the vendor holds under a row's key, None if a complete list shows nothing.

        Raises:
            VendorError: the vendor could not be asked, or its list is incomplete; nothing changed.
        """
        ...

    async def find(
        self, entries: Sequence[Entry], before_page: Callable[[], Awaitable[object]] | None = None
    ) -> Mapping[int, Operation]:
        """Ask once what the vendor holds under the keys of rows of one recipient; return it by the rows' numbers.

        That a row is missing proves nothing. `before_page` is awaited before each further page of the vendor's list.

        Raises:
            VendorError: the vendor could not be asked; nothing changed.
        """
        ...

    async def held_under(self, entry: Entry, keys: Collection[str]) -> Operation | None:
        """Return what the vendor holds for a row under one of some keys and has not failed, None if a complete list shows none.

        Raises:
            VendorError: the vendor could not be asked, or its list is incomplete; nothing changed.
        """
        ...

    async def list_held(self, recipient: str, before_page: Callable[[], Awaitable[object]] | None = None) -> Sequence[Held]:
        """Return every payment that the vendor holds for a recipient; `before_page` is awaited before each further page.

        Raises:
            VendorError: the vendor could not be asked, or its list is incomplete.
        """
        ...

    async def read_held(self, uid: str) -> Held:
        """Return the payment of that uid.

        Raises:
            NotFound: the vendor has none.
            VendorError: the vendor could not be asked.
        """
        ...

    def unknown(self, entry: Entry) -> OutcomeUnknown:
        """Return the error of a call that sent a row and ended without an answer, to wait for."""
        ...

    async def read(self, entry: Entry) -> Operation:
        """Return how the operation stands that the vendor named for a row.

        Raises:
            VendorError: the vendor could not be asked; nothing changed.
        """
        ...

    def ref(self, entry: Entry) -> OperationRef:
        """Return the name of what the vendor accepted for a row."""
        ...

    def held_before(self, operation: Operation) -> bool:
        """Return whether the vendor held it before it was asked for, so that its news may have come already."""
        ...

    def conclude(self, entry: Entry, final: Operation) -> None:
        """Compare what settled with what the row asked for.

        Raises:
            OperationFailed: the chain said failed.
            OperationMismatch: it settled as something else.
        """
        ...


class Vendor(Protocol):
    """One vendor as the runner sees it."""

    @property
    def name(self) -> str:
        """`"original"` or `"enkash"`."""
        ...

    @property
    def may_repeat(self) -> bool:
        """Whether a request whose answer is not known may be sent again under the same key."""
        ...

    @property
    def later(self) -> Later | None:
        """What can be asked afterwards; None where the answer to the request is all there ever is."""
        ...

    @property
    def balances(self) -> Balances | None:
        """What can be asked about balances; None where the vendor keeps none."""
        ...

    async def pay(self, entry: Entry, *, repeated: bool = False) -> Operation | None:
        """Send a row under its key.

        Args:
            entry: The row.
            repeated: Whether it may have been sent before.

        Returns:
            What the vendor will finish later, None if it is paid with this answer.

        Raises:
            VendorError: see `meaning_of`.
        """
        ...


@frozen
class OriginalVendor:
    """Original tokens: accepted now, finished by the chain later; the nonce makes every repetition safe."""

    client: OriginalClient
    name = "original"
    may_repeat = True
    balances = None

    @property
    def later(self) -> Later:
        """Itself."""
        return self

    async def pay(self, entry: Entry, *, repeated: bool = False) -> Operation:
        """Create the allocation; the client looks the nonce up where an answer leaves that open."""
        return await self.client.create_allocation(
            reward_uid=entry.item,
            to_user_uid=entry.recipient,
            amount=entry.amount or "",
            nonce=entry.key,
            repeated=repeated,
        )

    async def look_up(self, entry: Entry) -> Operation | None:
        """Return the allocation under the row's nonce, of the row's reward if there are several."""
        found = await self.client.find_allocation(entry.recipient, entry.key)
        if found is None or found.reward_uid == entry.item:
            return found
        return await self.client.find_allocation(entry.recipient, entry.key, entry.item) or found

    async def find(
        self, entries: Sequence[Entry], before_page: Callable[[], Awaitable[object]] | None = None
    ) -> Mapping[int, Operation]:
        """Return the allocations of the rows' rewards under their nonces; of several the one with the right amount, if any."""
        requests = {entry.number: self._request(entry) for entry in entries}
        held = await self.client.find_operations(list(requests.values()), before_page=before_page)
        found: dict[int, Operation] = {}
        for number, request in requests.items():
            asked = (request.key, request.reward_uid, request.to_user_uid)  # another reward's proves nothing about this row
            under = [each for each in held if (each.key, each.reward_uid, each.to_user_uid) == asked]
            if under:
                found[number] = max(under, key=request.is_met_by)
        return found

    async def list_held(self, recipient: str, before_page: Callable[[], Awaitable[object]] | None = None) -> list[Held]:
        """Return the allocations of a user."""
        return [_held(each) for each in await self.client.get_allocations_by_user_uid(recipient, before_page=before_page)]

    async def read_held(self, uid: str) -> Held:
        """Return the allocation of that uid."""
        return _held(await self.client.get_allocation(uid))

    def unknown(self, entry: Entry) -> OutcomeUnknown:
        """Return an error that carries the row's request."""
        return OutcomeUnknown(entry.problem or "", request=self._request(entry), idempotency_key=entry.key)

    async def read(self, entry: Entry) -> Operation:
        """Return the allocation the vendor named."""
        return await self.client.get_allocation(entry.uid or "")

    def ref(self, entry: Entry) -> OperationRef:
        """Return the ref of an allocation."""
        return self.client.ref_of(entry.uid or "")

    def held_before(self, operation: Operation) -> bool:
        """Return whether the client found it by its nonce."""
        return operation.recovered

    def _request(self, entry: Entry) -> AllocationRequest:
        return AllocationRequest(
            reward_uid=entry.item,
            to_user_uid=entry.recipient,
            amount=Decimal(entry.amount or 0),
            nonce=entry.key,
            scope=self.client.scope,
        )

    async def held_under(self, entry: Entry, keys: Collection[str]) -> Operation | None:
        """Return the allocation of the row's reward under one of the nonces, if one is listed that has not failed."""
        listed = await self.client.get_allocations_by_user_uid(entry.recipient)
        for each in listed:
            if each.nonce in keys and each.reward_uid == entry.item and each.status is not OperationStatus.FAILED:
                return evolve(each, recovered=True)
        return None

    def conclude(self, entry: Entry, final: Operation) -> None:
        """Compare uid, nonce, reward, user and amount."""
        found_under = final.key if entry.settled_by in {"audit", "lookup"} else None  # they look under keys of other tries too
        asked = Allocation(
            uid=entry.uid or "",
            status=OperationStatus.PENDING,
            reward_uid=entry.item,
            to_user_uid=entry.recipient,
            amount=Decimal(entry.amount or 0),
            nonce=found_under or entry.key,
            scope=self.client.scope,
        )
        self.client.conclude(asked, final)


@frozen
class EnkashVendor:
    """EnKash coins: paid or refused with the answer, and no way to ask later.

    Args:
        client: The client.
        may_repeat: Whether EnKash is known to pay a repeated request id once only.
    """

    client: EnkashClient
    may_repeat: bool = False
    name = "enkash"
    later = None

    @property
    def balances(self) -> Balances:
        """Itself."""
        return self

    async def balance_of(self, recipient: str) -> int:
        """Return a user's coins."""
        return await self.client.get_balance(recipient)

    async def pay(self, entry: Entry, *, repeated: bool = False) -> None:  # noqa: ARG002 - EnKash has no look-up to tell
        """Allocate the coins of the event."""
        await self.client.allocate_coins(event=entry.item, user_id=entry.recipient, request_id=entry.key)


def _held(allocation: Allocation) -> Held:
    return Held(
        uid=allocation.uid,
        key=allocation.nonce,
        recipient=allocation.to_user_uid,
        item=allocation.reward_uid,
        amount=allocation.amount,
        status=allocation.status,
    )


def vendor_of(client: Any, *, may_repeat: bool = False) -> Vendor:
    """Return the vendor behind a client; what answers to `create_allocation` is taken for Original's.

    Raises:
        TypeError: it is no client.
    """
    if hasattr(client, "create_allocation"):
        return OriginalVendor(check_methods(client, "client", _CLIENTS, ("create_allocation",)))
    return EnkashVendor(check_methods(client, "client", _CLIENTS, ("allocate_coins",)), may_repeat)
