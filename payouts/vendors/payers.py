"""Both vendors' clients as payers of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast

from attrs import frozen

from payouts.payer import Payer
from payouts.vendors.clients import CoinClient, MintClient, TokenClient
from payouts.vendors.enkash import EnkashRow
from payouts.vendors.mint_payer import MintPayer
from payouts.vendors.token_payer import TokenPayer
from rewards_core.validation import check_methods

if TYPE_CHECKING:
    from payouts.payer import Balances
    from payouts.states import Entry

Client: TypeAlias = TokenClient | MintClient | CoinClient | Payer
"""What `run_payouts` pays with: an `OriginalClient`, an `EnkashClient`, an object with the same methods, or a `Payer`."""


_LIKE_ORIGINAL = "OriginalClient(...) or an object with the same methods"
_LIKE_ENKASH = "EnkashClient(...) or an object with the same methods"


def payer_of(client: Client, vendor: str | None = None) -> Payer:
    """Return the payer that a client is to a run; a payer is returned as it is.

    Args:
        client: A vendor's client, or a payer.
        vendor: The vendor's name as in `Ledger(vendor=...)`, which tells what an `OriginalClient` grants; tokens if not given.

    Raises:
        TypeError: it is neither, or lacks a method that a run may need later.
    """
    if vendor == MintPayer.name and hasattr(client, "create_asset"):
        return MintPayer(cast("MintClient", check_methods(client, "client", _LIKE_ORIGINAL, MintClient)))
    if hasattr(client, "create_allocation"):
        return TokenPayer(cast("TokenClient", check_methods(client, "client", _LIKE_ORIGINAL, TokenClient)))
    if hasattr(client, "allocate_coins"):
        may_repeat = getattr(client, "repeat_allocations", False) is True  # only the word itself may pay twice
        return EnkashPayer(cast("CoinClient", check_methods(client, "client", _LIKE_ENKASH, CoinClient)), may_repeat)
    return check_methods(cast("Payer", client), "client", "OriginalClient(...), EnkashClient(...) or a Payer", Payer)


@frozen
class EnkashPayer:
    """EnKash coins: paid or refused with the answer, and no way to ask later.

    Args:
        client: The client.
        may_repeat: Whether EnKash is known to pay a repeated request id once only.
    """

    client: CoinClient
    may_repeat: bool = False
    name = EnkashRow.vendor
    lookups = None

    @property
    def balances(self) -> Balances:
        """Itself."""
        return self

    async def balance_of(self, recipient: str) -> int:
        """Return a user's coins."""
        return await self.client.get_balance(recipient)

    async def pay(self, entry: Entry, *, repeated: bool = False) -> None:  # noqa: ARG002 - EnKash has no look-up to tell
        """Allocate the coins of the event."""
        await self.client.allocate_coins(event=entry.item, user_id=entry.recipient, request_id=entry.key)
