"""What payers need of a vendor's client: all that a run may call, also after a crash."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from original_async import Allocation, Asset, AssetData
    from rewards_core.operations import KeyedRequest, Operation, OperationRef


class OriginalCalls(Protocol):
    """What tokens and assets of Original need of a client alike; see `OriginalClient`."""

    @property
    def scope(self) -> str:
        """See `OriginalClient.scope`."""
        ...

    async def find_operations(
        self, requests: Sequence[KeyedRequest], *, before_page: Callable[[], Awaitable[object]] | None = None
    ) -> Sequence[Any]:
        """See `OriginalClient.find_operations`."""
        ...

    def ref_of(self, operation: Operation | OperationRef | str) -> OperationRef:
        """See `OriginalClient.ref_of`."""
        ...

    def conclude(self, asked: Operation | KeyedRequest | None, final: Operation) -> Operation:
        """See `OriginalClient.conclude`."""
        ...


class TokenClient(OriginalCalls, Protocol):
    """An `OriginalClient`, or an object with the same methods."""

    async def create_allocation(
        self, *, reward_uid: str, to_user_uid: str, amount: str, nonce: str, repeated: bool = False
    ) -> Allocation:
        """See `OriginalClient.create_allocation`."""
        ...

    async def get_allocation(self, uid: str) -> Allocation:
        """See `OriginalClient.get_allocation`."""
        ...

    async def find_allocation(self, to_user_uid: str, *, nonce: str, reward_uid: str | None = None) -> Allocation | None:
        """See `OriginalClient.find_allocation`."""
        ...

    async def get_allocations_by_user_uid(
        self, user_uid: str, *, before_page: Callable[[], Awaitable[object]] | None = None
    ) -> list[Allocation]:
        """See `OriginalClient.get_allocations_by_user_uid`."""
        ...


class MintClient(OriginalCalls, Protocol):
    """An `OriginalClient`, or an object with the same methods."""

    async def create_asset(
        self,
        *,
        user_uid: str,
        collection_uid: str,
        asset_external_id: str,
        data: AssetData,
        sale_price_in_usd: str | None = None,
    ) -> Asset:
        """See `OriginalClient.create_asset`."""
        ...

    async def get_asset(self, uid: str) -> Asset:
        """See `OriginalClient.get_asset`."""
        ...

    async def find_asset(self, user_uid: str, *, asset_external_id: str, collection_uid: str | None = None) -> Asset | None:
        """See `OriginalClient.find_asset`."""
        ...

    async def get_assets_by_user_uid(
        self, user_uid: str, *, before_page: Callable[[], Awaitable[object]] | None = None
    ) -> list[Asset]:
        """See `OriginalClient.get_assets_by_user_uid`."""
        ...


class CoinClient(Protocol):
    """An `EnkashClient`, or an object with the same methods."""

    async def allocate_coins(self, *, event: str, user_id: str, request_id: str) -> object:
        """See `EnkashClient.allocate_coins`."""
        ...

    async def get_balance(self, user_id: str) -> int:
        """See `EnkashClient.get_balance`."""
        ...
