"""Edits of assets, which the vendor gives no uid. See https://docs.getoriginal.com/docs/edit-asset."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from attrs import frozen

from original_async.kinds import ASSET, EDIT
from original_async.models.fields import ours_field, raw_field, scope_field, text_field
from rewards_core.json import canonical
from rewards_core.operations import DEFAULT_SCOPE, Operation, OperationRef, OperationStatus, subject_of

if TYPE_CHECKING:
    from original_async.models.assets import Asset, AssetAttribute, AssetData, AssetTrait

_DIGEST_LENGTH = 16
_plain_number = re.compile(r"-?[0-9]{1,100}(\.[0-9]{1,100})?", re.ASCII).fullmatch
_TOKEN = re.compile(rf"[0-9a-f]{{{_DIGEST_LENGTH + 8}}}", re.ASCII)


@frozen(kw_only=True)
class Edit:
    """A full replacement of what an asset shows.

    Attributes:
        uid: `ASSET_UID:TOKEN`; the token was made by the call and holds a digest of the content that was asked for.
        asset: The asset as it was last read; None until then.
        recovered: Whether the asset was found to show the content, after a call whose outcome was unknown.
        scope: The scope of the client that it belongs to.
        raw: The vendor's JSON object of the asset, unknown keys included.
    """

    uid: str
    asset: Asset | None = None
    recovered: bool = ours_field()
    scope: str = scope_field()
    raw: Mapping[str, Any] = raw_field()

    @property
    def ref(self) -> OperationRef:
        """Its scope, kind and uid; events about its asset concern it."""
        return OperationRef(self.scope, EDIT, self.uid, subject_of(ASSET, self.asset_uid))

    @property
    def asset_uid(self) -> str:
        """The asset."""
        return self.uid.rpartition(":")[0]

    @property
    def key(self) -> str:
        """The token, by which a look-up finds it."""
        return self.uid.rpartition(":")[2]

    @property
    def status(self) -> OperationStatus:
        """`done` once the asset is no longer being edited and shows the content that was asked for; `pending` before."""
        asset = self.asset
        if asset is None or asset.is_editing or not shows(asset, self.key):
            return OperationStatus.PENDING
        return OperationStatus.DONE


@frozen(kw_only=True)
class EditRequest:
    """What `edit_asset` was asked for: the `request` of its `OutcomeUnknown`.

    Attributes:
        asset_uid: The asset.
        token: Made by the call; it holds a digest of the content.
        scope: The scope of the client.

    Raises:
        TypeError: an attribute has the wrong type.
    """

    asset_uid: str = text_field()
    token: str = text_field()
    scope: str = text_field(default=DEFAULT_SCOPE)

    @property
    def kind(self) -> str:
        """`"edit"`."""
        return EDIT

    @property
    def key(self) -> str:
        """The token."""
        return self.token

    @property
    def owner(self) -> str:
        """The asset, which is read to find the edit."""
        return self.asset_uid

    @property
    def uid(self) -> str:
        """The uid of the edit."""
        return f"{self.asset_uid}:{self.token}"

    def is_met_by(self, operation: Operation) -> bool:
        """Return whether an operation is this edit, and its asset shows the content."""
        return isinstance(operation, Edit) and operation.uid == self.uid and operation.status is OperationStatus.DONE


def token_for(data: AssetData) -> str:
    """Return a new token of an edit to this content."""
    digest = _digest(data.name, data.image_url, data.description, data.external_url, data.attributes)
    return digest + secrets.token_hex(4)


def is_edit_uid(uid: str) -> bool:
    """Return whether a uid is `ASSET_UID:TOKEN`."""
    asset_uid, colon, token = uid.rpartition(":")
    return bool(asset_uid and colon and _TOKEN.fullmatch(token))


def shows(asset: Asset, token: str) -> bool:
    """Return whether an asset shows the content of which a token holds the digest."""
    shown = asset.metadata
    if shown is None:
        return False
    image = shown.image if shown.org_image_url is None else shown.org_image_url
    digest = _digest(asset.shown_name, image, shown.description, shown.external_url, shown.attributes or ())
    return token[:_DIGEST_LENGTH] == digest


def _digest(
    name: str,
    image: str | None,
    description: str | None,
    external_url: str | None,
    attributes: Iterable[AssetAttribute | AssetTrait],
) -> str:
    """Return a digest that does not depend on how the vendor writes the same content: a number may become a text."""
    traits = sorted([each.trait_type or "", *_written(each.value), each.display_type or ""] for each in attributes)
    content = [name, image or "", description or "", external_url or "", traits]
    return hashlib.sha256(canonical(content)).hexdigest()[:_DIGEST_LENGTH]


def _written(value: object) -> tuple[str, str]:
    """Return a value so that a number and its text are equal, with every digit and however large the exponent."""
    if isinstance(value, bool) or value is None:
        return "word", repr(value)
    text = str(value)
    if not isinstance(value, int | Decimal) and not _plain_number(text):
        return "text", text
    sign, digits, exponent = Decimal(text).as_tuple()
    written = "".join(map(str, digits)).lstrip("0")
    kept = written.rstrip("0")
    power = int(exponent) + len(written) - len(kept) if kept else 0
    return "number", f"{'-' if sign and kept else ''}{kept or '0'}e{power}"
