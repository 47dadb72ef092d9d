"""Original's client as a payer of rows of assets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from original_async import Asset, AssetAttribute, AssetData, AssetRequest
from payouts.details import read_details
from payouts.payer import Held
from payouts.vendors.chain_payer import ChainPayer
from payouts.vendors.clients import MintClient
from payouts.vendors.mint import MintRow, attributes_of

if TYPE_CHECKING:
    from payouts.states import Entry
    from rewards_core.operations import Operation


class MintPayer(ChainPayer[MintClient, Asset]):
    """Assets of Original; nothing says that a repeated external id mints only once."""

    name = MintRow.vendor
    may_repeat = False

    async def pay(self, entry: Entry, *, repeated: bool = False) -> Operation:  # noqa: ARG002 - it is never sent again
        """Create the asset; the client looks the external id up where an answer leaves that open."""
        kept: dict[str, object] = dict(read_details(entry.details))
        price = kept.pop("sale_price_in_usd", None)
        attributes = [AssetAttribute(**each) for each in attributes_of(str(kept.pop("attributes", "[]")))]
        return await self.client.create_asset(
            user_uid=entry.recipient,
            collection_uid=entry.item,
            asset_external_id=entry.key,
            data=AssetData(**kept, attributes=attributes),  # type: ignore[arg-type]
            sale_price_in_usd=None if price is None else str(price),
        )

    async def read(self, entry: Entry) -> Operation:
        """Return the asset the vendor named."""
        return await self.client.get_asset(entry.uid or "")

    async def list_held(self, recipient: str, before_page: Callable[[], Awaitable[object]] | None = None) -> list[Held]:
        """Return the assets that a user owns, without those that were minted for another and transferred since."""
        return [each for each in await super().list_held(recipient, before_page) if each.recipient == recipient]

    async def read_held(self, uid: str) -> Held:
        """Return the asset of that uid, also one that was transferred or burned since."""
        found = await self.client.get_asset(uid)
        return self._held(found, found.owner_user_uid or "")

    async def _find(self, entry: Entry, item: str | None = None) -> Asset | None:
        return await self.client.find_asset(entry.recipient, asset_external_id=entry.key, collection_uid=item)

    async def _list(self, recipient: str, before_page: Callable[[], Awaitable[object]] | None = None) -> list[Asset]:
        return await self.client.get_assets_by_user_uid(recipient, before_page=before_page)

    def _held(self, each: Asset, recipient: str) -> Held:
        return Held(
            uid=each.uid,
            key=each.asset_external_id or "",
            recipient=each.mint_for_user_uid or recipient,
            item=each.collection_uid,
            amount=None,
            status=each.status,
        )

    def _request(self, entry: Entry) -> AssetRequest:
        return AssetRequest(
            user_uid=entry.recipient,
            collection_uid=entry.item,
            asset_external_id=entry.key,
            name=_name(entry),
            scope=self.client.scope,
        )

    def _asked(self, entry: Entry, key: str | None = None) -> Asset:
        return Asset(
            uid=entry.uid or "",
            name=_name(entry),
            collection_uid=entry.item,
            asset_external_id=key or entry.key,
            is_minted=False,
            mint_for_user_uid=entry.recipient,
            scope=self.client.scope,
        )


def _name(entry: Entry) -> str:
    return str(read_details(entry.details).get("name", ""))
