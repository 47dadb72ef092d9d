"""Collections and the assets minted in them.

Field names are the vendor's. See https://docs.getoriginal.com/docs/get-asset-details and
https://docs.getoriginal.com/docs/get-collection-details.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime  # noqa: TC003 - cattrs reads the annotations
from decimal import Decimal
from typing import Any

from attrs import field, frozen

from original_async.kinds import ASSET, COLLECTION
from original_async.models.fields import DeploymentStatus, Unkeyed, ours_field, raw_field, scope_field, text_field
from rewards_core.json import ANY, TEXT_OR_NUMBER
from rewards_core.operations import DEFAULT_SCOPE, Operation, OperationRef, OperationStatus, subject_of
from rewards_core.validation import (
    check_flag,
    check_instance,
    check_iterable,
    check_link,
    check_text,
    check_title,
    checked,
    kind_of,
    optional,
)


def _check_scalar(value: object, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (str, int, Decimal)):
        raise TypeError(f"{name}: give a str, an int or a Decimal, not {kind_of(value)}.")
    if isinstance(value, str):
        check_text(value, name)
    if isinstance(value, Decimal) and not value.is_finite():
        raise ValueError(f"{name}: give a finite number.")


@frozen(kw_only=True)
class AssetAttribute:
    """A trait that an asset is to show.

    Attributes:
        trait_type: The name of the trait, such as `"Base"`.
        value: A text or an exact number.
        display_type: How marketplaces show a number, such as `"boost_percentage"`.

    Raises:
        TypeError: an attribute has the wrong type, such as a float.
        ValueError: the value is not finite.
    """

    trait_type: str = field(validator=checked(check_text))
    value: str | int | Decimal = field(validator=checked(_check_scalar))
    display_type: str | None = field(default=None, validator=optional(checked(check_text)))

    def content(self) -> dict[str, Any]:
        """Return what is sent."""
        content: dict[str, Any] = {"trait_type": self.trait_type, "value": self.value}
        if self.display_type is not None:
            content["display_type"] = self.display_type
        return content


def _attributes(value: Iterable[AssetAttribute]) -> tuple[AssetAttribute, ...]:
    listed = tuple(check_iterable(value, "attributes", "a list of AssetAttribute(...)"))
    for each in listed:
        check_instance(each, "attributes", AssetAttribute)
    return listed


@frozen(kw_only=True)
class AssetData:
    """What an asset is to show. See https://docs.getoriginal.com/docs/create-asset-api.

    Attributes:
        name: The name, 1 to 255 characters.
        image_url: The address of its image, at most 2,048 characters.
        unique_name: Whether the vendor refuses a name that the collection has already; otherwise it appends `#` and the
            token's id.
        store_image_on_ipfs: Whether the image is stored on IPFS; not used by an edit.
        description: Its description.
        external_url: The address of a page about it, at most 2,048 characters.
        attributes: Its traits.

    Raises:
        TypeError: an attribute has the wrong type.
        ValueError: the name or an address is empty, too long or not printable, or a text cannot be sent.
    """

    name: str = field(validator=checked(check_title))
    image_url: str = field(validator=checked(check_link))
    unique_name: bool = field(validator=checked(check_flag))
    store_image_on_ipfs: bool = field(default=False, validator=checked(check_flag))
    description: str | None = field(default=None, validator=optional(checked(check_text)))
    external_url: str | None = field(default=None, validator=optional(checked(check_link)))
    attributes: tuple[AssetAttribute, ...] = field(default=(), converter=_attributes)

    def content(self, *, to_mint: bool) -> dict[str, Any]:
        """Return what is sent, in the order of the vendor's samples."""
        content: dict[str, Any] = {"name": self.name, "unique_name": self.unique_name, "image_url": self.image_url}
        if to_mint:
            content["store_image_on_ipfs"] = self.store_image_on_ipfs
        if self.description is not None:
            content["description"] = self.description
        if self.external_url is not None:
            content["external_url"] = self.external_url
        if self.attributes:
            content["attributes"] = [each.content() for each in self.attributes]
        return content


@frozen(kw_only=True)
class AssetTrait:
    """A trait in an asset's metadata. It need not have been minted by this SDK, so every part is optional.

    Attributes:
        trait_type: The name of the trait, if it has one.
        value: A text, a number, a boolean or None; numbers are exact.
        display_type: How marketplaces show a number.
    """

    trait_type: str | None = None
    value: Any = field(default=None, metadata=ANY)
    display_type: str | None = None


@frozen(kw_only=True)
class AssetMetadata:
    """What an asset shows on the blockchain.

    Attributes:
        name: Its name.
        image: The address of its image, perhaps on IPFS.
        description: Its description.
        original_id: The vendor's own id.
        external_url: A page about it.
        org_image_url: The address of the image that was asked for.
        attributes: Its traits.
    """

    name: str | None = None
    image: str | None = None
    description: str | None = None
    original_id: str | None = None
    external_url: str | None = None
    org_image_url: str | None = None
    attributes: tuple[AssetTrait, ...] | None = None


@frozen(kw_only=True)
class Asset:
    """An asset. As an operation it is its minting: `done` once the blockchain has minted it.

    Attributes:
        uid: The vendor's id, 12 digits in all samples.
        name: Its name, with `#` and the token's id if the vendor appended them.
        collection_uid: Its collection.
        asset_external_id: Your own id for it.
        is_minted: Whether the blockchain has minted it.
        is_burned: Whether it was burned; this lags behind a burn that is `done`.
        is_transferring: Whether a transfer is under way.
        is_transferable: Whether it can be transferred or burned now.
        is_editing: Whether an edit is under way.
        collection_name: The name of its collection.
        token_id: The token's id in the collection; None until it is minted.
        created_at: When the vendor created it; None until it was read.
        mint_for_user_uid: The user it is minted for.
        mint_for_address: The address it is minted for.
        owner_user_uid: The user of the app who owns it, None if none does.
        owner_address: The address that owns it.
        metadata: What it shows on the blockchain; None until it was read.
        explorer_url: Its page in a blockchain explorer.
        token_uri: The address of its metadata.
        token_address: Its address, on blockchains where each token has one.
        sale_price_in_usd: Its price in US dollars, exact.
        recovered: Whether it was found by its external id, after a call whose outcome was unknown.
        scope: The scope of the client that it belongs to.
        raw: The vendor's JSON object, unknown keys included.
    """

    uid: str
    name: str
    collection_uid: str
    asset_external_id: str | None = None
    is_minted: bool
    is_burned: bool = False
    is_transferring: bool = False
    is_transferable: bool = False
    is_editing: bool = False
    collection_name: str | None = None
    token_id: str | None = field(default=None, metadata=TEXT_OR_NUMBER)
    created_at: datetime | None = None
    mint_for_user_uid: str | None = None
    mint_for_address: str | None = None
    owner_user_uid: str | None = None
    owner_address: str | None = None
    metadata: AssetMetadata | None = None
    explorer_url: str | None = None
    token_uri: str | None = None
    token_address: str | None = None
    sale_price_in_usd: Decimal | None = None
    recovered: bool = ours_field()
    scope: str = scope_field()
    raw: Mapping[str, Any] = raw_field()

    @property
    def ref(self) -> OperationRef:
        """Its scope, kind and uid: the name by which stores and `Completions` know its minting."""
        return OperationRef(self.scope, ASSET, self.uid, subject_of(ASSET, self.uid))

    @property
    def status(self) -> OperationStatus:
        """`done` once it is minted, `pending` before."""
        return OperationStatus.DONE if self.is_minted else OperationStatus.PENDING

    @property
    def key(self) -> str | None:
        """The external id, by which a look-up finds it."""
        return self.asset_external_id

    @property
    def shown_name(self) -> str:
        """The name that it was given: the one in the metadata, else the name without what the vendor appends if it is taken."""
        if self.metadata is not None and self.metadata.name is not None:
            return self.metadata.name
        return self.name.removesuffix(f"#{self.token_id}").rstrip() if self.token_id else self.name

    def is_named(self, name: str) -> bool:
        """Return whether this is its name, with or without what the vendor appends if it is taken."""
        return name in {self.name, self.shown_name}


@frozen(kw_only=True)
class AssetRequest:
    """What `create_asset` was asked for: the `request` of its `OutcomeUnknown`.

    Attributes:
        user_uid: The user the asset is minted for.
        collection_uid: The asset's collection.
        asset_external_id: Your own id for the asset, by which it is looked up.
        name: The asset's name.
        scope: The scope of the client.

    Raises:
        TypeError: an attribute has the wrong type.
    """

    user_uid: str = text_field()
    collection_uid: str = text_field()
    asset_external_id: str = text_field()
    name: str = text_field()
    scope: str = text_field(default=DEFAULT_SCOPE)

    @property
    def kind(self) -> str:
        """`"asset"`."""
        return ASSET

    @property
    def key(self) -> str:
        """The external id."""
        return self.asset_external_id

    @property
    def owner(self) -> str:
        """The user whose assets are listed to find it."""
        return self.user_uid

    def is_met_by(self, operation: Operation) -> bool:
        """Return whether an operation is an asset with the same external id, collection, user and name."""
        return isinstance(operation, Asset) and (
            operation.asset_external_id == self.asset_external_id
            and operation.collection_uid == self.collection_uid
            and operation.mint_for_user_uid in {None, self.user_uid}
            and operation.is_named(self.name)
        )


@frozen(kw_only=True)
class Collection(Unkeyed):
    """A collection of assets. While it is `deploying`, `Completions` can wait for it.

    Attributes:
        uid: The vendor's id, 12 digits in all samples.
        name: Its name.
        status: `deploying` or `deployed`; an unknown status is kept as its text.
        type: Such as `"ERC721"` or `"METAPLEX_CORE"`.
        created_at: When the vendor created it.
        editable_assets: Whether its assets can be edited.
        contract_address: Its address on the blockchain; None until it is deployed.
        symbol: Its symbol.
        description: Its description.
        external_url: A page about it.
        chain: The blockchain, such as `"Polygon"`.
        chain_id: The blockchain's number.
        network: The blockchain's network.
        explorer_url: Its page in a blockchain explorer.
        scope: The scope of the client that it belongs to.
        raw: The vendor's JSON object, unknown keys included.
    """

    uid: str
    name: str
    status: DeploymentStatus
    type: str | None = None
    created_at: datetime | None = None
    editable_assets: bool | None = None
    contract_address: str | None = None
    symbol: str | None = None
    description: str | None = None
    external_url: str | None = None
    chain: str | None = None
    chain_id: int | None = None
    network: str | None = None
    explorer_url: str | None = None
    scope: str = scope_field()
    raw: Mapping[str, Any] = raw_field()

    @property
    def ref(self) -> OperationRef:
        """Its scope, kind and uid: the name by which stores and `Completions` know it."""
        return OperationRef(self.scope, COLLECTION, self.uid, subject_of(COLLECTION, self.uid))
