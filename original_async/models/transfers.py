"""Transfers, burns and deposits of assets.

See https://docs.getoriginal.com/docs/get-transfer-details, https://docs.getoriginal.com/docs/get-burn-details and
https://docs.getoriginal.com/docs/deposit-asset.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from attrs import field, frozen

from original_async.kinds import ASSET, BURN, TRANSFER
from original_async.models.fields import ours_field, raw_field, scope_field, text_field
from rewards_core.json import older
from rewards_core.operations import DEFAULT_SCOPE, Operation, OperationRef, OperationStatus, subject_of
from rewards_core.validation import check_instance, checked, optional


@frozen(kw_only=True)
class Transfer:
    """An asset that moves to an external wallet.

    Attributes:
        uid: The vendor's id, 12 digits in all samples.
        status: `pending`, `done` or `cancelled`; an unknown status is kept as its text.
        asset_uid: The asset.
        from_user_uid: The user who owned it.
        to_address: The wallet that receives it.
        created_at: When the vendor created it; None until it was read.
        recovered: Whether it was found by its asset, after a call whose outcome was unknown.
        scope: The scope of the client that it belongs to.
        raw: The vendor's JSON object, unknown keys included.
    """

    uid: str
    status: OperationStatus
    asset_uid: str
    from_user_uid: str = field(metadata=older("from_app_user_uid"))
    to_address: str
    created_at: datetime | None = None
    recovered: bool = ours_field()
    scope: str = scope_field()
    raw: Mapping[str, Any] = raw_field()

    @property
    def ref(self) -> OperationRef:
        """Its scope, kind and uid; events about its asset concern it."""
        return OperationRef(self.scope, TRANSFER, self.uid, subject_of(ASSET, self.asset_uid))

    @property
    def key(self) -> str:
        """The asset, by which a look-up finds it."""
        return self.asset_uid


@frozen(kw_only=True)
class TransferRequest:
    """What `create_transfer` was asked for: the `request` of its `OutcomeUnknown`.

    Attributes:
        asset_uid: The asset, by which a look-up finds it.
        from_user_uid: The user who owns it.
        to_address: The wallet that receives it.
        asked_at: When the call began, by the vendor's clock. An asset may be transferred the same way again, so a transfer
            created before is another one. None if it is not known: then any transfer counts that was not cancelled.
        scope: The scope of the client.

    Raises:
        TypeError: an attribute has the wrong type.
    """

    asset_uid: str = text_field()
    from_user_uid: str = text_field()
    to_address: str = text_field()
    asked_at: datetime | None = field(default=None, validator=optional(checked(check_instance, datetime)))
    scope: str = text_field(default=DEFAULT_SCOPE)

    @property
    def kind(self) -> str:
        """`"transfer"`."""
        return TRANSFER

    @property
    def key(self) -> str:
        """The asset."""
        return self.asset_uid

    @property
    def owner(self) -> str:
        """The user whose transfers are listed to find it."""
        return self.from_user_uid

    def is_met_by(self, operation: Operation) -> bool:
        """Return whether an operation is a transfer of the asset from this user to this address, created since the call."""
        return isinstance(operation, Transfer) and (
            operation.asset_uid == self.asset_uid
            and operation.from_user_uid == self.from_user_uid
            and same_address(operation.to_address, self.to_address)
            and self._since_the_call(operation)
        )

    def _since_the_call(self, transfer: Transfer) -> bool:
        if self.asked_at is None:
            return transfer.status is not OperationStatus.CANCELLED
        return in_utc(transfer.created_at) >= in_utc(self.asked_at)


@frozen(kw_only=True)
class Burn:
    """An asset that is destroyed.

    Attributes:
        uid: The vendor's id, 12 digits in all samples.
        status: `pending` or `done`; an unknown status is kept as its text.
        asset_uid: The asset.
        from_user_uid: The user who owned it.
        created_at: When the vendor created it; None until it was read.
        recovered: Whether it was found by its asset, after a call whose outcome was unknown.
        scope: The scope of the client that it belongs to.
        raw: The vendor's JSON object, unknown keys included.
    """

    uid: str
    status: OperationStatus
    asset_uid: str
    from_user_uid: str = field(metadata=older("from_app_user_uid"))
    created_at: datetime | None = None
    recovered: bool = ours_field()
    scope: str = scope_field()
    raw: Mapping[str, Any] = raw_field()

    @property
    def ref(self) -> OperationRef:
        """Its scope, kind and uid; events about its asset concern it."""
        return OperationRef(self.scope, BURN, self.uid, subject_of(ASSET, self.asset_uid))

    @property
    def key(self) -> str:
        """The asset, by which a look-up finds it."""
        return self.asset_uid


@frozen(kw_only=True)
class BurnRequest:
    """What `create_burn` was asked for: the `request` of its `OutcomeUnknown`.

    Attributes:
        asset_uid: The asset, by which a look-up finds it: an asset can be burned only once.
        from_user_uid: The user who owns it.
        scope: The scope of the client.

    Raises:
        TypeError: an attribute has the wrong type.
    """

    asset_uid: str = text_field()
    from_user_uid: str = text_field()
    scope: str = text_field(default=DEFAULT_SCOPE)

    @property
    def kind(self) -> str:
        """`"burn"`."""
        return BURN

    @property
    def key(self) -> str:
        """The asset."""
        return self.asset_uid

    @property
    def owner(self) -> str:
        """The user whose burns are listed to find it."""
        return self.from_user_uid

    def is_met_by(self, operation: Operation) -> bool:
        """Return whether an operation is a burn of the asset by this user."""
        return isinstance(operation, Burn) and (
            operation.asset_uid == self.asset_uid and operation.from_user_uid == self.from_user_uid
        )


@frozen(kw_only=True)
class Deposit:
    """Where a user's assets can be sent to.

    Attributes:
        network: The blockchain's network, such as `"Amoy"`.
        chain_id: The blockchain's number.
        wallet_address: The user's wallet; None until it exists.
        qr_code_data: The same as text for a QR code (ERC-681).
        raw: The vendor's JSON object, unknown keys included.
    """

    network: str | None = None
    chain_id: int | None = None
    wallet_address: str | None = None
    qr_code_data: str | None = None
    raw: Mapping[str, Any] = raw_field()


def in_utc(moment: datetime | None) -> datetime:
    """Return a time that has a zone: its own, or else UTC. None becomes the earliest time."""
    if moment is None:
        return datetime.min.replace(tzinfo=UTC)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def same_address(one: str, other: str) -> bool:
    """Return whether two addresses are equal; the case of a hexadecimal one is only a checksum."""
    if one[:2].lower() == "0x":
        return one.lower() == other.lower()
    return one == other
