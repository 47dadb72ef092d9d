"""Original's client as a payer of rows of tokens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import TYPE_CHECKING

from original_async import Allocation, AllocationRequest
from payouts.payer import Held
from payouts.vendors.chain_payer import ChainPayer
from payouts.vendors.clients import TokenClient
from payouts.vendors.original import OriginalRow
from rewards_core.operations import OperationStatus

if TYPE_CHECKING:
    from payouts.states import Entry
    from rewards_core.operations import Operation


class TokenPayer(ChainPayer[TokenClient, Allocation]):
    """Original tokens; the nonce makes every repetition safe."""

    name = OriginalRow.vendor
    may_repeat = True

    async def pay(self, entry: Entry, *, repeated: bool = False) -> Operation:
        """Create the allocation; the client looks the nonce up where an answer leaves that open."""
        return await self.client.create_allocation(
            reward_uid=entry.item,
            to_user_uid=entry.recipient,
            amount=entry.amount or "",
            nonce=entry.key,
            repeated=repeated,
        )

    async def read(self, entry: Entry) -> Operation:
        """Return the allocation the vendor named."""
        return await self.client.get_allocation(entry.uid or "")

    async def read_held(self, uid: str) -> Held:
        """Return the allocation of that uid."""
        found = await self.client.get_allocation(uid)
        return self._held(found, found.to_user_uid)

    async def _find(self, entry: Entry, item: str | None = None) -> Allocation | None:
        return await self.client.find_allocation(entry.recipient, nonce=entry.key, reward_uid=item)

    async def _list(self, recipient: str, before_page: Callable[[], Awaitable[object]] | None = None) -> list[Allocation]:
        return await self.client.get_allocations_by_user_uid(recipient, before_page=before_page)

    def _held(self, each: Allocation, recipient: str) -> Held:  # noqa: ARG002 - an allocation names its user
        return Held(
            uid=each.uid,
            key=each.nonce,
            recipient=each.to_user_uid,
            item=each.reward_uid,
            amount=each.amount,
            status=each.status,
        )

    def _request(self, entry: Entry) -> AllocationRequest:
        return AllocationRequest(
            reward_uid=entry.item,
            to_user_uid=entry.recipient,
            amount=Decimal(entry.amount or 0),
            nonce=entry.key,
            scope=self.client.scope,
        )

    def _asked(self, entry: Entry, key: str | None = None) -> Allocation:
        return Allocation(
            uid=entry.uid or "",
            status=OperationStatus.PENDING,
            reward_uid=entry.item,
            to_user_uid=entry.recipient,
            amount=Decimal(entry.amount or 0),
            nonce=key or entry.key,
            scope=self.client.scope,
        )
