"""A row of an asset that Original mints."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar, NoReturn

from attrs import field, frozen

from payouts.details import write_details
from payouts.rows import InvalidRow, check_field
from payouts.spelling import (
    RepeatedKey,
    misspelled_id,
    misspelled_link,
    misspelled_price,
    misspelled_text,
    misspelled_title,
    object_of,
    quoted,
)
from rewards_core.validation import check_amount, check_id, check_key, check_link, check_text, check_title, half_pair, whole

_FLAGS = {"true": True, "false": False}
_TRAIT_FORM = '[{"trait_type": "Colour", "value": "blue"}]'


def _refuse(name: str, told: str) -> NoReturn:
    raise InvalidRow(told, name=name, kind=name)


def _flag(value: bool | str | None, name: str) -> bool:
    if value is None or isinstance(value, bool):
        return bool(value)
    found = _FLAGS.get(str(value).strip().casefold())
    if found is None:
        _refuse(name, f"{quoted(str(value))} is neither true nor false: write one of these words, or leave the cell empty")
    return found


def _unique_name(value: bool | str | None) -> bool:
    return _flag(value, "unique_name")


def _store_image(value: bool | str | None) -> bool:
    return _flag(value, "store_image_on_ipfs")


def _price(value: str | int | Decimal | None) -> str | None:
    if value is None:
        return None
    digits = check_field(misspelled_price, check_amount, "sale_price_in_usd", value)
    return digits.rstrip("0").rstrip(".") if "." in digits else digits  # two spellings of a price are one price


def attributes_of(text: str) -> list[dict[str, Any]]:
    """Return the traits in a JSON list, every number exact.

    Raises:
        RepeatedKey: a trait has a key twice.
        ValueError: the text is not a JSON list of traits.
    """
    try:
        found = json.loads(text, parse_float=Decimal, object_pairs_hook=object_of)
    except (RecursionError, InvalidOperation) as problem:
        raise ValueError from problem
    if not isinstance(found, list) or not all(map(_is_attribute, found)):
        raise ValueError
    return found


def _is_attribute(found: Any) -> bool:
    if not isinstance(found, dict) or not {"trait_type", "value"} <= found.keys() <= {"trait_type", "value", "display_type"}:
        return False
    value = found["value"]
    sound = isinstance(value, str | int) or (isinstance(value, Decimal) and value.is_finite())
    texts = [found["trait_type"], found.get("display_type", "text")]
    if not sound or isinstance(value, bool) or not all(isinstance(each, str) and each for each in texts):
        return False
    return not half_pair("".join([*texts, str(value)]))


@frozen(kw_only=True)
class MintRow:
    """One asset that Original mints for a user, in a collection.

    Args:
        id: The row's stable id, unique in its campaign.
        user_uid: The recipient.
        collection_uid: The collection.
        name: The asset's name.
        image_url: The whole address of its image, such as `https://example.com/1.png`.
        asset_external_id: The asset's external id, if the file has its own; derived from the id otherwise.
        unique_name: Whether the vendor refuses a name that the collection has already; otherwise it appends `#` and the token's
            id. A bool, or `"true"` or `"false"`.
        store_image_on_ipfs: Whether the image is stored on IPFS; as `unique_name`.
        description: Its description.
        external_url: The whole address of a page about it.
        sale_price_in_usd: Its exact price; a str, int or `Decimal` above zero.
        attributes: Its traits, as the text of a JSON list such as `[{"trait_type": "Colour", "value": "blue"}]`.
        line: The line in the file, 0 if there is none.

    Attributes:
        details: What is minted beside recipient, collection and key, as JSON.

    Raises:
        InvalidRow: a value cannot be sent.
        TypeError: `line` is not an integer.
        ValueError: `line` is negative.
    """

    vendor: ClassVar[str] = "original-mint"
    account: ClassVar[str] = "original"
    title: ClassVar[str] = "Original assets"
    recipient_field: ClassVar[str] = "user_uid"
    item_field: ClassVar[str] = "collection_uid"
    key_field: ClassVar[str] = "asset_external_id"
    detail_fields: ClassVar[tuple[str, ...]] = (
        *("name", "image_url", "unique_name", "store_image_on_ipfs"),
        *("description", "external_url", "sale_price_in_usd", "attributes"),
    )
    item_word: ClassVar[str] = "collection"
    done_word: ClassVar[str] = "minted"
    sameness: ClassVar[str] = "recipient, collection and name"
    item_is_id: ClassVar[bool] = True
    has_amounts: ClassVar[bool] = False
    has_lookup: ClassVar[bool] = True
    amount: ClassVar[None] = None

    id: str
    user_uid: str
    collection_uid: str
    name: str
    image_url: str = field(metadata={"sample": "https://example.com/1.png"})
    asset_external_id: str | None = None
    unique_name: bool = field(default=False, converter=_unique_name)
    store_image_on_ipfs: bool = field(default=False, converter=_store_image)
    description: str | None = None
    external_url: str | None = None
    sale_price_in_usd: str | None = field(default=None, converter=_price)
    attributes: str | None = None
    line: int = field(default=0, validator=whole(at_least=0))
    details: str = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        check_field(misspelled_id, check_key, "id", self.id)
        check_field(misspelled_id, check_id, "user_uid", self.user_uid)
        check_field(misspelled_id, check_id, "collection_uid", self.collection_uid)
        if self.asset_external_id is not None:
            check_field(misspelled_id, check_key, "asset_external_id", self.asset_external_id)
        check_field(misspelled_title, check_title, "name", self.name)
        check_field(misspelled_link, check_link, "image_url", self.image_url)
        if self.external_url is not None:
            check_field(misspelled_link, check_link, "external_url", self.external_url)
        if self.description is not None:
            check_field(misspelled_text, check_text, "description", self.description)
        if self.attributes is not None:
            self._check_attributes(self.attributes)
        kept = {name: getattr(self, name) for name in self.detail_fields}
        object.__setattr__(self, "details", write_details(kept))

    def _check_attributes(self, found: object) -> None:
        if isinstance(found, list | dict):
            _refuse("attributes", f"this is not a text: write the list of attributes in quotes, like {json.dumps(_TRAIT_FORM)}")
        text = check_field(misspelled_text, check_text, "attributes", found)
        try:
            attributes_of(text)
        except RepeatedKey as problem:
            _refuse("attributes", str(problem))
        except ValueError:
            told = (
                f"{quoted(text)} is not a JSON list of attributes: write it like {_TRAIT_FORM}, with a text or a number as value"
            )
            _refuse("attributes", told)

    @property
    def item(self) -> str:
        """What is granted: the collection."""
        return self.collection_uid

    @property
    def recipient(self) -> str:
        """The recipient."""
        return self.user_uid

    @property
    def given_key(self) -> str | None:
        """The key given in the file, or None."""
        return self.asset_external_id
