"""Both vendors' clients as payers of rows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, TypeAlias, cast

from attrs import evolve, frozen

from original_async import Allocation, AllocationRequest
from payouts.payer import NOT_PAID, Held, Payer
from payouts.vendors.clients import CoinClient, MintClient, TokenClient
from payouts.vendors.mint_payer import MintPayer
from rewards_core.errors import OutcomeUnknown
from rewards_core.operations import Operation, OperationRef, OperationStatus
from rewards_core.validation import check_methods

if TYPE_CHECKING:
    from payouts.payer import Balances, Lookups
    from payouts.states import Entry


Client: TypeAlias = TokenClient | MintClient | CoinClient | Payer
"""What `run_payouts` pays with: an `OriginalClient`, an `EnkashClient`, an object with the same methods, or a `Payer`."""


_LIKE_ORIGINAL = "OriginalClient(...) or an object with the same methods"
_LIKE_ENKASH = "EnkashClient(...) or an object with the same methods"


def payer_of(client: Client, vendor: str | None = None, *, may_repeat: bool | None = None) -> Payer:
    """Return the payer that a client is to a run; a payer is returned as it is.

    Args:
        client: A vendor's client, or a payer.
        vendor: The vendor's name as in `Ledger(vendor=...)`, which tells what an `OriginalClient` grants; tokens if not given.
        may_repeat: Whether EnKash is known to pay a repeated request id only once; by default the client's `repeat_allocations`.

    Raises:
        TypeError: it is neither, or lacks a method that a run may need later.
    """
    if vendor == MintPayer.name and hasattr(client, "create_asset"):
        return MintPayer(cast("MintClient", check_methods(client, "client", _LIKE_ORIGINAL, MintClient)))
    if hasattr(client, "create_allocation"):
        return OriginalPayer(cast("TokenClient", check_methods(client, "client", _LIKE_ORIGINAL, TokenClient)))
    if hasattr(client, "allocate_coins"):
        if may_repeat is None:
            may_repeat = getattr(client, "repeat_allocations", False) is True  # only the word itself may pay twice
        return EnkashPayer(cast("CoinClient", check_methods(client, "client", _LIKE_ENKASH, CoinClient)), may_repeat)
    return check_methods(cast("Payer", client), "client", "OriginalClient(...), EnkashClient(...) or a Payer", Payer)


@frozen
class OriginalPayer:
    """Original tokens: accepted now, finished by the chain later; the nonce makes every repetition safe."""

    client: TokenClient
    name = "original"
    may_repeat = True
    balances = None

    @property
    def lookups(self) -> Lookups:
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
        found = await self.client.find_allocation(entry.recipient, nonce=entry.key)
        if found is None or found.reward_uid == entry.item:
            return found
        return await self.client.find_allocation(entry.recipient, nonce=entry.key, reward_uid=entry.item) or found

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
            if each.nonce in keys and each.reward_uid == entry.item and each.status not in NOT_PAID:
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
class EnkashPayer:
    """EnKash coins: paid or refused with the answer, and no way to ask later.

    Args:
        client: The client.
        may_repeat: Whether EnKash is known to pay a repeated request id once only.
    """

    client: CoinClient
    may_repeat: bool = False
    name = "enkash"
    lookups = None

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
