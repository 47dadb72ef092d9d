"""Users of an app and their wallets. See https://docs.getoriginal.com/docs/get-user-details."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime  # noqa: TC003 - cattrs reads the annotations
from typing import Any

from attrs import field, frozen

from original_async.models.fields import ours_field, raw_field, scope_field, text_field
from rewards_core.operations import DEFAULT_SCOPE
from rewards_core.validation import check_str, checked, optional


@frozen(kw_only=True)
class Wallet:
    """A user's wallet on one blockchain.

    Attributes:
        address: Its address; None until the blockchain has it.
        explorer_url: Its page in a blockchain explorer.
        network: The blockchain's network, such as `"Polygon"`.
        chain_id: The blockchain's number.
    """

    address: str | None = None
    explorer_url: str | None = None
    network: str | None = None
    chain_id: int | None = None


@frozen(kw_only=True)
class User:
    """A user of the app.

    Attributes:
        uid: The vendor's id, 12 digits in all samples.
        email: The e-mail address, unique in the app; None if there is none. Not in the repr.
        user_external_id: Your own id for the user, unique in the app; None if there is none.
        created_at: When the vendor created it; None until it was read.
        wallets: One for each blockchain; empty until the first mint or deposit, and in the vendor's older answers.
        wallet_address: The wallet in the vendor's older answers; see `addresses`.
        recovered: Whether `create_user` found it by its e-mail address or external id.
        scope: The scope of the client that it belongs to.
        raw: The vendor's JSON object, unknown keys included.
    """

    uid: str
    email: str | None = field(default=None, repr=False)
    user_external_id: str | None = None
    created_at: datetime | None = None
    wallets: tuple[Wallet, ...] | None = ()
    wallet_address: str | None = None
    recovered: bool = ours_field()
    scope: str = scope_field()
    raw: Mapping[str, Any] = raw_field()

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of its wallets, from `wallets` or the older `wallet_address`."""
        if self.wallets:
            return tuple(wallet.address for wallet in self.wallets if wallet.address)
        return (self.wallet_address,) if self.wallet_address else ()


@frozen(kw_only=True)
class UserRequest:
    """What `create_user` was asked for: the `request` of its `OutcomeUnknown`. Repeat the call to learn what became of it.

    Attributes:
        email: The e-mail address, None if there was none. Not in the repr.
        user_external_id: Your own id for the user, None if there was none.
        scope: The scope of the client.

    Raises:
        TypeError: an attribute has the wrong type.
    """

    email: str | None = field(default=None, repr=False, validator=optional(checked(check_str)))
    user_external_id: str | None = field(default=None, validator=optional(checked(check_str)))
    scope: str = text_field(default=DEFAULT_SCOPE)

    def is_met_by(self, user: User) -> bool:
        """Return whether a user has the e-mail address and the external id, as far as they were given."""
        return (self.user_external_id is None or user.user_external_id == self.user_external_id) and (
            self.email is None or _folded(user.email) == _folded(self.email)
        )


def label_of(user: User | UserRequest) -> str:
    """Return who a user is, for messages and logs: of an e-mail address only the first letter and the domain."""
    labels = [] if user.user_external_id is None else [user.user_external_id]
    if user.email is not None:
        name, at, domain = user.email.rpartition("@")
        labels.insert(0, f"{name[:1]}…{at}{domain if at else ''}")
    return " / ".join(labels)


def _folded(email: str | None) -> str | None:
    return None if email is None else email.casefold()
