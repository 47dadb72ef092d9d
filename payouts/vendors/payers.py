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

_PAYER = "a Payer"
_LIKE_ORIGINAL = f"OriginalClient(...), an object with the same methods, or {_PAYER}"
_LIKE_ENKASH = f"EnkashClient(...), an object with the same methods, or {_PAYER}"


def payer_of(client: Client, vendor: str) -> Payer:
    """Return the payer that a client is to a run of a vendor; a payer is returned as it is.

    Args:
        client: A client of the vendor, or a payer.
        vendor: The vendor's name as in `Ledger(vendor=...)`.

    Raises:
        TypeError: it is neither, or lacks what a run may need later.
    """
    if not callable(getattr(client, "pay", None)):
        if vendor == TokenPayer.name:
            return TokenPayer(check_methods(cast("TokenClient", client), "client", _LIKE_ORIGINAL, TokenClient))
        if vendor == MintPayer.name:
            return MintPayer(check_methods(cast("MintClient", client), "client", _LIKE_ORIGINAL, MintClient))
        if vendor == CoinPayer.name:
            may_repeat = getattr(client, "repeat_allocations", False) is True  # only the word itself may pay twice
            return CoinPayer(check_methods(cast("CoinClient", client), "client", _LIKE_ENKASH, CoinClient), may_repeat)
    return check_methods(cast("Payer", client), "client", _PAYER, Payer)
