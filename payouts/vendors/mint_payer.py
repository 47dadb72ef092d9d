"""Original's client as a payer of rows of assets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from original_async import Asset, AssetAttribute, AssetData, AssetRequest
from payouts.details import read_details
from payouts.payer import Held
from payouts.vendors.mint import MintRow, attributes_of
from rewards_core.errors import OutcomeUnknown

if TYPE_CHECKING:
    from payouts.payer import Lookups
    from payouts.states import Entry
    from payouts.vendors.clients import MintClient
    from rewards_core.operations import Operation, OperationRef


@frozen
class MintPayer:
    """Assets of Original: accepted now, minted by the chain later; nothing says that a repeated external id mints only once."""

    client: MintClient
    name = MintRow.vendor
    may_repeat = False
    balances = None

    @property
    def lookups(self) -> Lookups:
        """Itself."""
        return self

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

    async def look_up(self, entry: Entry) -> Operation | None:
        """Return the asset under the row's external id, of the row's collection if there are several."""
        found = await self.client.find_asset(entry.recipient, asset_external_id=entry.key)
        if found is None or found.collection_uid == entry.item:
            return found
        return await self.client.find_asset(entry.recipient, asset_external_id=entry.key, collection_uid=entry.item) or found

    async def find(
        self, entries: Sequence[Entry], before_page: Callable[[], Awaitable[object]] | None = None
    ) -> Mapping[int, Operation]:
        """Return the assets of the rows' collections under their external ids; of several the one with the right name, if any."""
        requests = {entry.number: self._request(entry) for entry in entries}
        held = await self.client.find_operations(list(requests.values()), before_page=before_page)
        found: dict[int, Operation] = {}
        for number, request in requests.items():
            under = [
                each
                for each in held
                if isinstance(each, Asset)
                and (each.key, each.collection_uid) == (request.key, request.collection_uid)
                and each.mint_for_user_uid in {None, request.user_uid}
            ]
            if under:
                found[number] = max(under, key=request.is_met_by)
        return found

    async def list_held(self, recipient: str, before_page: Callable[[], Awaitable[object]] | None = None) -> list[Held]:
        """Return the assets that a user owns and that were minted for the user."""
        listed = await self.client.get_assets_by_user_uid(recipient, before_page=before_page)
        return [_held(each, recipient) for each in listed if each.mint_for_user_uid in {None, recipient}]

    async def read_held(self, uid: str) -> Held:
        """Return the asset of that uid, also one that was transferred or burned since."""
        found = await self.client.get_asset(uid)
        return _held(found, found.owner_user_uid or "")

    def unknown(self, entry: Entry) -> OutcomeUnknown:
        """Return an error that carries the row's request."""
        return OutcomeUnknown(entry.problem or "", request=self._request(entry), idempotency_key=entry.key)

    async def read(self, entry: Entry) -> Operation:
        """Return the asset the vendor named."""
        return await self.client.get_asset(entry.uid or "")

    def ref(self, entry: Entry) -> OperationRef:
        """Return the ref of an asset."""
        return self.client.ref_of(self._asset(entry))

    def held_before(self, operation: Operation) -> bool:
        """Return whether the client found it by its external id."""
        return operation.recovered

    async def held_under(self, entry: Entry, keys: Collection[str]) -> Operation | None:
        """Return the asset of the row's collection under one of the external ids, if one is listed."""
        for each in await self.client.get_assets_by_user_uid(entry.recipient):
            if each.asset_external_id in keys and each.collection_uid == entry.item:
                return evolve(each, recovered=True)
        return None

    def conclude(self, entry: Entry, final: Operation) -> None:
        """Compare uid, external id, collection and user."""
        found_under = final.key if entry.settled_by in {"audit", "lookup"} else None  # they look under keys of other tries too
        self.client.conclude(self._asset(entry, found_under), final)

    def _asset(self, entry: Entry, key: str | None = None) -> Asset:
        return Asset(
            uid=entry.uid or "",
            name=_name(entry),
            collection_uid=entry.item,
            asset_external_id=key or entry.key,
            is_minted=False,
            mint_for_user_uid=entry.recipient,
            scope=self.client.scope,
        )

    def _request(self, entry: Entry) -> AssetRequest:
        return AssetRequest(
            user_uid=entry.recipient,
            collection_uid=entry.item,
            asset_external_id=entry.key,
            name=_name(entry),
            scope=self.client.scope,
        )


def _name(entry: Entry) -> str:
    return str(read_details(entry.details).get("name", ""))


def _held(asset: Asset, owner: str) -> Held:
    return Held(
        uid=asset.uid,
        key=asset.asset_external_id or "",
        recipient=asset.mint_for_user_uid or owner,
        item=asset.collection_uid,
        amount=None,
        status=asset.status,
    )
