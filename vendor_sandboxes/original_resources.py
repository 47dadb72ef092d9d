"""The assets, collections and what happens to assets, as the sandboxed Original shows them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from vendor_sandboxes.original_operations import Operation, timestamp
from vendor_sandboxes.original_users import CHAIN_ID, NETWORK, explorer_url

if TYPE_CHECKING:
    from vendor_sandboxes.options import OriginalOptions


def json_text(value: Any) -> str:
    """Return a value as JSON text with every number exact."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(name)}: {json_text(member)}' for name, member in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(json_text, value))}]"
    return json.dumps(value)


@frozen(kw_only=True)
class Content:
    """What an asset looks like: the `data` of the request that creates or edits it.

    Attributes:
        attributes: The attributes as they were sent, or None.
    """

    name: str
    unique_name: bool
    image_url: str
    on_ipfs: bool
    description: str | None
    external_url: str | None
    attributes: tuple[Mapping[str, Any], ...] | None

    def metadata(self, asset_uid: str) -> dict[str, Any]:
        """Return the metadata of the asset with this content."""
        on_ipfs = f"ipfs://{hashlib.sha256(self.image_url.encode()).hexdigest()}"
        optional = {"description": self.description, "external_url": self.external_url, "attributes": self.attributes}
        return {
            "name": self.name,
            "image": on_ipfs if self.on_ipfs else self.image_url,
            "original_id": asset_uid,
            "org_image_url": self.image_url,
            **{name: value for name, value in optional.items() if value is not None},
        }


@define(kw_only=True, eq=False)
class Collection(Operation):
    """A collection, which is settled once it is deployed.

    Attributes:
        editable: Whether its assets can be edited.
        tokens: Number of the tokens minted.
    """

    kind: str = "collection"
    editable: bool
    tokens: int = 0

    @property
    def name(self) -> str:
        """Its name."""
        return f"Sandbox collection {self.uid}"

    @property
    def address(self) -> str | None:
        """The address of its contract, once it is deployed."""
        return f"0x{hashlib.sha256(f'collection {self.uid}'.encode()).hexdigest()[:40]}" if self.done else None

    def resource(self, _options: OriginalOptions, _now: float, /) -> str:
        """Return the vendor's JSON text."""
        return json.dumps(
            {
                "uid": self.uid,
                "name": self.name,
                "status": self.status,
                "type": "ERC721",
                "created_at": timestamp(self.committed_at),
                "editable_assets": self.editable,
                "contract_address": self.address,
                "symbol": "SANDBOX",
                "description": "Collection of the sandbox",
                "external_url": None,
                "chain": NETWORK,
                "chain_id": CHAIN_ID,
                "network": NETWORK,
                "explorer_url": explorer_url(self.address) if self.address else None,
            }
        )

    def summary(self) -> str:
        """Return the JSON text of the asset as an event carries it."""
        return json.dumps(
            {
                "uid": self.uid,
                "name": self.name,
                "type": "ERC721",
                "symbol": "SANDBOX",
                "website": None,
                "image_url": None,
                "description": "Collection of the sandbox",
                "contract_address": self.address,
            }
        )

    def entry(self) -> dict[str, Any]:
        """Return its entry in the report."""
        return {**self.course(), "editable": self.editable, "tokens": self.tokens}


@define(kw_only=True, eq=False)
class Asset(Operation):
    """An asset, which is settled once it is minted.

    Attributes:
        under_way: The edit, transfer or burning that the blockchain has not settled; there is at most one.
        edits: All its edits.
    """

    kind: str = "asset"
    collection: Collection
    user_uid: str
    external_id: str
    content: Content
    sale_price: Decimal | None
    mint_address: str | None
    token_id: int | None = None
    owner_uid: str | None = None
    owner_address: str | None = None
    burned_at: float | None = None
    under_way: Operation | None = None
    edits: list[Edit] = field(factory=list)

    @property
    def on_chain(self) -> bool:
        """Whether it is minted and not burned."""
        return self.done and self.burned_at is None

    @property
    def transferable(self) -> bool:
        """Whether it can be edited, transferred and burned now."""
        return self.on_chain and self.under_way is None

    @property
    def name(self) -> str:
        """Its name, which carries the token once it is minted unless it is a unique one."""
        suffix = "" if self.content.unique_name or self.token_id is None else f" #{self.token_id}"
        return self.content.name + suffix

    def resource(self, options: OriginalOptions, now: float, /) -> str:
        """Return the vendor's JSON text."""
        number = self.token_id
        token = f"{self.collection.address}?a={number}" if number is not None else None
        return json_text(
            {
                "uid": self.uid,
                "name": self.name,
                "asset_external_id": self.external_id,
                "collection_uid": self.collection.uid,
                "collection_name": self.collection.name,
                "token_id": str(number) if number is not None and options.token_ids == "text" else number,  # noqa: S105 - not secret
                "created_at": timestamp(self.committed_at),
                "is_minted": self.done,
                "is_burned": self.burned_at is not None and now >= self.burned_at + options.burn_lag,
                "is_transferring": isinstance(self.under_way, Transfer),
                "is_transferable": self.transferable,
                "is_editing": isinstance(self.under_way, Edit),
                "mint_for_user_uid": self.user_uid,
                "mint_for_address": self.mint_address,
                "owner_user_uid": self.owner_uid,
                "owner_address": self.owner_address,
                "metadata": self.content.metadata(self.uid),
                "explorer_url": f"https://amoy.polygonscan.com/token/{token}" if token else None,
                "token_uri": f"https://media.sandbox.invalid/metadata/{self.uid}.json" if token else None,
                "token_address": self.collection.address if token else None,
                "sale_price_in_usd": self.sale_price,
            }
        )

    def summary(self) -> str:
        """Return the JSON text of the asset as the vendor's sample event carries it."""
        return json_text({"uid": self.uid, "name": self.name, "metadata": self.content.metadata(self.uid)})

    def entry(self) -> dict[str, Any]:
        """Return its entry in the report."""
        return {
            **self.course(),
            "collection_uid": self.collection.uid,
            "user_uid": self.user_uid,
            "asset_external_id": self.external_id,
            "name": self.name,
            "sale_price_in_usd": None if self.sale_price is None else format(self.sale_price, "f"),
            "token_id": self.token_id,
            "owner_user_uid": self.owner_uid,
            "owner_address": self.owner_address,
            "burned": self.burned_at is not None,
            "metadata": json.loads(json_text(self.content.metadata(self.uid))),
        }


@define(kw_only=True, eq=False)
class Edit(Operation):
    """A change of what an asset looks like; it has the uid of the asset."""

    kind: str = "edit"
    asset: Asset
    content: Content

    def resource(self, options: OriginalOptions, now: float, /) -> str:
        """Return the JSON text of the asset: edits themselves are not shown."""
        return self.asset.resource(options, now)

    def entry(self) -> dict[str, Any]:
        """Return its entry in the report."""
        return {**self.course(), "asset_uid": self.asset.uid, "name": self.content.name}


@define(kw_only=True, eq=False)
class Transfer(Operation):
    """A transfer of an asset from a user's wallet to an address."""

    kind: str = "transfer"
    asset: Asset
    from_user_uid: str
    to_address: str

    def resource(self, options: OriginalOptions, _now: float, /) -> str:
        """Return the vendor's JSON text."""
        return _movement(self, options, [("to_address", self.to_address)])

    def entry(self) -> dict[str, Any]:
        """Return its entry in the report."""
        own = {"asset_uid": self.asset.uid, "from_user_uid": self.from_user_uid, "to_address": self.to_address}
        return {**self.course(), **own}


@define(kw_only=True, eq=False)
class Burn(Operation):
    """The burning of an asset in a user's wallet."""

    kind: str = "burn"
    asset: Asset
    from_user_uid: str

    def resource(self, options: OriginalOptions, _now: float, /) -> str:
        """Return the vendor's JSON text."""
        return _movement(self, options, [])

    def entry(self) -> dict[str, Any]:
        """Return its entry in the report."""
        return {**self.course(), "asset_uid": self.asset.uid, "from_user_uid": self.from_user_uid}


@define(kw_only=True, eq=False)
class Deposit(Operation):
    """The arrival of an asset from outside in a user's wallet, which the vendor shows only in the asset and an event."""

    kind: str = "deposit"
    asset: Asset
    user_uid: str

    def resource(self, options: OriginalOptions, now: float, /) -> str:
        """Return the JSON text of the asset: deposits themselves are not shown."""
        return self.asset.resource(options, now)

    def entry(self) -> dict[str, Any]:
        """Return its entry in the report."""
        return {**self.course(), "asset_uid": self.asset.uid, "user_uid": self.user_uid}


def _movement(operation: Transfer | Burn, options: OriginalOptions, more: Iterable[tuple[str, str]]) -> str:
    return json.dumps(
        {
            "uid": operation.uid,
            "status": operation.status,
            "asset_uid": operation.asset.uid,
            options.from_user_key: operation.from_user_uid,
            **dict(more),
            "created_at": timestamp(operation.committed_at),
        }
    )
