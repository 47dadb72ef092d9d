"""The assets of the sandboxed Original: minted into collections, then edited, transferred, deposited and burned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from vendor_sandboxes.original_operations import Operation, Operations
from vendor_sandboxes.original_resources import Asset, Burn, Collection, Content, Deposit, Edit, Transfer

if TYPE_CHECKING:
    from decimal import Decimal

    from vendor_sandboxes.original_users import Users

T = TypeVar("T", bound=Operation)

_OUTCOMES = {"transfer": ("done", "cancelled")}


class Assets:
    """The assets and collections of one app.

    Attributes:
        by_external_id: External id to the first asset created under it.
        asked: External id to the number of requests to create an asset that carried it.
    """

    def __init__(self, operations: Operations, users: Users, collections: Iterable[str]) -> None:
        self._operations = operations
        self._users = users
        self._opened = operations.now()
        self._names: dict[tuple[str, str], set[str]] = {}
        self.by_external_id: dict[str, Asset] = {}
        self.asked: Counter[str] = Counter()
        for uid in collections:
            self.add_collection(uid, "deployed")

    @property
    def by_uid(self) -> dict[str, Asset]:
        """The assets, by uid."""
        return self._operations.by_uid["asset"]

    @property
    def collections(self) -> dict[str, Collection]:
        """The collections, by uid."""
        return self._operations.by_uid["collection"]

    def add_collection(self, uid: str, status: str, *, editable: bool = True) -> Collection:
        """Add a collection that is `"deployed"` or `"deploying"`."""
        committed_at = self._opened if status == "deployed" else self._operations.now()
        collection = Collection(uid=uid, status=status, committed_at=committed_at, editable=editable)
        self._operations.keep(collection)
        return collection

    def name_is_taken(self, name: str, collection_uid: str, asset_uid: str = "") -> bool:
        """Whether an asset of the collection other than this one has the name, or is being edited to have it."""
        return bool(self._names.get((collection_uid, name), set()) - {asset_uid})

    def add(self, collection_uid: str, user_uid: str, external_id: str, content: Content, price: Decimal | None) -> Asset:
        """Commit an asset, which is minted later."""
        collection = self.collections.get(collection_uid) or self.add_collection(collection_uid, "deployed")
        asset = Asset(
            uid=self._operations.next_uid("asset"),
            committed_at=self._operations.now(),
            collection=collection,
            user_uid=user_uid,
            external_id=external_id,
            content=content,
            sale_price=price,
            mint_address=self._users.wallet(user_uid),
        )
        self.by_external_id.setdefault(external_id, asset)
        self._names.setdefault((collection_uid, content.name), set()).add(asset.uid)
        self._operations.keep(asset, user_uid)
        return asset

    def add_edit(self, asset: Asset, content: Content) -> Edit:
        """Commit an edit of the asset, which replaces its content later."""
        edit = Edit(uid=asset.uid, committed_at=self._operations.now(), asset=asset, content=content)
        self._names.setdefault((asset.collection.uid, content.name), set()).add(asset.uid)
        asset.edits.append(edit)
        return self._begin(asset, edit)

    def add_transfer(self, asset: Asset, from_user_uid: str, to_address: str) -> Transfer:
        """Commit a transfer of the asset."""
        transfer = Transfer(
            uid=self._operations.next_uid("transfer"),
            committed_at=self._operations.now(),
            asset=asset,
            from_user_uid=from_user_uid,
            to_address=to_address,
        )
        return self._begin(asset, transfer, from_user_uid)

    def add_burn(self, asset: Asset, from_user_uid: str) -> Burn:
        """Commit the burning of the asset."""
        uid = self._operations.next_uid("burn")
        burn = Burn(uid=uid, committed_at=self._operations.now(), asset=asset, from_user_uid=from_user_uid)
        return self._begin(asset, burn, from_user_uid)

    def _begin(self, asset: Asset, operation: T, user_uid: str | None = None) -> T:
        asset.under_way = operation
        self._operations.keep(operation, user_uid)
        return operation

    def deposit(self, asset_uid: str, user_uid: str) -> Deposit:
        """Return the deposit that moves an asset from outside into the user's wallet, still to be settled.

        Raises:
            KeyError: there is no such asset.
            ValueError: the asset is in the wallet of a user, or nowhere on the blockchain.
        """
        asset = self.by_uid[asset_uid]
        if not asset.on_chain or asset.owner_uid is not None:
            raise ValueError(f"Asset {asset_uid} is not in a wallet outside of the app: transfer it to one first.")
        deposit = Deposit(
            uid=self._operations.next_uid("deposit"), committed_at=self._operations.now(), asset=asset, user_uid=user_uid
        )
        self._operations.keep(deposit)
        return deposit

    def settle(self, operation: Operation, status: str) -> None:
        """Carry out an operation, or cancel a transfer.

        Raises:
            ValueError: the operation is settled, or the vendor documents no such end of it: only a transfer can be cancelled, and
                nothing can fail.
        """
        outcomes = _OUTCOMES.get(operation.kind, ("done",))
        if status not in outcomes:
            raise ValueError(f"{operation.kind} {operation.uid} cannot end as {status!r}: give {' or '.join(outcomes)}")
        if not operation.pending:
            raise ValueError(f"{operation.kind} {operation.uid} is {operation.status} already")
        now = self._operations.now()
        operation.settle("deployed" if operation.status == "deploying" else status, now)
        match operation:
            case Asset():
                operation.collection.tokens += 1
                operation.token_id = operation.collection.tokens
                operation.owner_uid = operation.user_uid
                operation.owner_address = operation.mint_address = self._users.open_wallet(operation.user_uid)
            case Edit(asset=asset):
                asset.under_way = None
                self._rename(asset, operation.content)
            case Transfer(asset=asset):
                asset.under_way = None
                if operation.done:
                    self._give(asset, self._users.owner(operation.to_address), operation.to_address)
            case Deposit(asset=asset):
                self._give(asset, operation.user_uid, self._users.open_wallet(operation.user_uid))
            case Burn(asset=asset):
                asset.under_way = None
                asset.burned_at = now

    def _rename(self, asset: Asset, content: Content) -> None:
        if content.name != asset.content.name:
            self._names[asset.collection.uid, asset.content.name].discard(asset.uid)
        asset.content = content

    def _give(self, asset: Asset, user_uid: str | None, address: str) -> None:
        lists = self._operations.by_user["asset"]
        if asset.owner_uid is not None:
            lists[asset.owner_uid].remove(asset)
        if user_uid is not None:
            lists.setdefault(user_uid, []).append(asset)
        asset.owner_uid, asset.owner_address = user_uid, address

    def report(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        assets = list(self.by_uid.values())
        kept = self._operations.by_uid
        return {
            "assets": [asset.entry() for asset in assets],
            "edits": [edit.entry() for asset in assets for edit in asset.edits],
            "transfers": [transfer.entry() for transfer in kept["transfer"].values()],
            "burns": [burn.entry() for burn in kept["burn"].values()],
            "deposits": [deposit.entry() for deposit in kept["deposit"].values()],
            "collections": [collection.entry() for collection in self.collections.values()],
            "assets_asked": dict(self.asked),
            "assets_created": Counter(asset.external_id for asset in assets),
            "owners": {
                asset.uid: {"user_uid": asset.owner_uid, "address": asset.owner_address} for asset in assets if asset.on_chain
            },
        }
