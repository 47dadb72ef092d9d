"""Which payer a client is to a run."""

from __future__ import annotations

from typing import TypeAlias, cast

from payouts.payer import Payer
from payouts.vendors.clients import CoinClient, MintClient, TokenClient
from payouts.vendors.coin_payer import CoinPayer
from payouts.vendors.mint_payer import MintPayer
from payouts.vendors.token_payer import TokenPayer
from rewards_core.validation import check_methods

Client: TypeAlias = TokenClient | MintClient | CoinClient | Payer
"""What `run_payouts` pays with: an `OriginalClient`, an `EnkashClient`, an object with the same methods, or a `Payer`."""

_LIKE_ORIGINAL = "OriginalClient(...) or an object with the same methods"
_LIKE_ENKASH = "EnkashClient(...) or an object with the same methods"
_ANY = "OriginalClient(...), EnkashClient(...) or a Payer"


def payer_of(client: Client, vendor: str | None = None) -> Payer:
    """Return the payer that a client is to a run; a payer is returned as it is.

    Args:
        client: A vendor's client, or a payer.
        vendor: The vendor's name as in `Ledger(vendor=...)`, which tells what an `OriginalClient` grants; tokens if not given.

    Raises:
        TypeError: it is neither, or lacks a method that a run may need later.
    """
    if isinstance(client, Payer):
        return check_methods(client, "client", _ANY, Payer)  # refuses a class
    if vendor == MintPayer.name and hasattr(client, "create_asset"):
        return MintPayer(cast("MintClient", check_methods(client, "client", _LIKE_ORIGINAL, MintClient)))
    if hasattr(client, "create_allocation"):
        return TokenPayer(cast("TokenClient", check_methods(client, "client", _LIKE_ORIGINAL, TokenClient)))
    if hasattr(client, "allocate_coins"):
        may_repeat = getattr(client, "repeat_allocations", False) is True  # only the word itself may pay twice
        return CoinPayer(cast("CoinClient", check_methods(client, "client", _LIKE_ENKASH, CoinClient)), may_repeat)
    return check_methods(cast("Payer", client), "client", _ANY, Payer)
