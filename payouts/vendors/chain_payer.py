"""What payers of tokens and of assets have in common: Original accepts a row now, the chain finishes it later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, Self, TypeVar

from attrs import evolve, frozen

from original_async import Allocation, Asset
from payouts.payer import NOT_PAID, Held
from payouts.vendors.clients import OriginalCalls
from rewards_core.errors import OutcomeUnknown

if TYPE_CHECKING:
    from payouts.states import Entry
    from rewards_core.operations import KeyedRequest, Operation, OperationRef

C = TypeVar("C", bound=OriginalCalls)
T = TypeVar("T", Allocation, Asset)


@frozen
class ChainPayer(ABC, Generic[C, T]):
    """A payer of rows that the chain finishes; what differs between tokens and assets is left to its subclasses."""

    client: C
    balances: ClassVar[None] = None

    @property
    def lookups(self) -> Self:
        """Itself."""
        return self

    async def look_up(self, entry: Entry) -> Operation | None:
        """Return what is held under the row's key, of the row's item if there are several."""
        found = await self._find(entry)
        if found is None or self._held(found, entry.recipient).item == entry.item:
            return found
        return await self._find(entry, entry.item) or found

    async def find(
        self, entries: Sequence[Entry], before_page: Callable[[], Awaitable[object]] | None = None
    ) -> Mapping[int, Operation]:
        """Return what is held under the rows' keys; of several the one with the right content, if any."""
        requests = [(entry, self._request(entry)) for entry in entries]
        found: dict[tuple[str, str, str], list[T]] = {}
        for each in await self.client.find_operations([request for _, request in requests], before_page=before_page):
            held = self._held(each, entries[0].recipient)
            found.setdefault((held.key, held.item, held.recipient), []).append(each)
        return {
            entry.number: max(under, key=request.is_met_by)
            for entry, request in requests  # another item's, or another user's, proves nothing about the row
            if (under := found.get((entry.key, entry.item, entry.recipient)))
        }

    async def list_held(self, recipient: str, before_page: Callable[[], Awaitable[object]] | None = None) -> list[Held]:
        """Return what the vendor lists for a user, also what names another one: an audit compares that with the row."""
        return [self._held(each, recipient) for each in await self._list(recipient, before_page)]

    async def held_under(self, entry: Entry, keys: Collection[str]) -> Operation | None:
        """Return what the row asks for under one of the keys, if it is listed and has not failed."""
        for each in await self._list(entry.recipient):
            held = self._held(each, entry.recipient)
            if held.key in keys and held.item == entry.item and held.status not in NOT_PAID:
                return evolve(each, recovered=True)
        return None

    def unknown(self, entry: Entry) -> OutcomeUnknown:
        """Return an error that carries the row's request."""
        return OutcomeUnknown(entry.problem or "", request=self._request(entry), idempotency_key=entry.key)

    def ref(self, entry: Entry) -> OperationRef:
        """Return the ref of what the vendor named."""
        return self.client.ref_of(self._asked(entry))

    def held_before(self, operation: Operation) -> bool:
        """Return whether the client found it by its key."""
        return operation.recovered

    def conclude(self, entry: Entry, final: Operation) -> None:
        """Compare uid, key, item, user and amount."""
        found_under = final.key if entry.settled_by in {"audit", "lookup"} else None  # they look under keys of other tries too
        self.client.conclude(self._asked(entry, found_under), final)

    @abstractmethod
    async def _find(self, entry: Entry, item: str | None = None) -> T | None:
        """Return what the vendor shows under the row's key, of any item or of that one."""

    @abstractmethod
    async def _list(self, recipient: str, before_page: Callable[[], Awaitable[object]] | None = None) -> Sequence[T]:
        """Return what the vendor lists for a user, also what was granted to another."""

    @abstractmethod
    def _held(self, each: T, recipient: str) -> Held:
        """Return it as an audit compares it; what names no user counts as granted to `recipient`."""

    @abstractmethod
    def _request(self, entry: Entry) -> KeyedRequest:
        """Return the request of a row."""

    @abstractmethod
    def _asked(self, entry: Entry, key: str | None = None) -> T:
        """Return what the row asked for, under its key or another that it had, as the vendor would have accepted it."""
