"""The vendors that a payout knows; nothing else in `payouts` but the command line names one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from payouts.vendors.enkash import EnkashRow
from payouts.vendors.mint import MintRow
from payouts.vendors.original import OriginalRow

__all__ = ["FIELDS", "ROW_TYPES", "EnkashRow", "MintRow", "OriginalRow", "options_of", "vendor_of"]

ROW_TYPES: Mapping[str, type[OriginalRow | EnkashRow | MintRow]] = MappingProxyType(
    {"original": OriginalRow, "enkash": EnkashRow, "original-mint": MintRow}
)
"""The row type of each vendor; what one vendor grants in two ways counts as two vendors. Class attributes hold what differs.

`account` is the vendor whose credentials and base URL are used. `title` names the vendor and what it grants;
`recipient_field`, `item_field`, `key_field` and `detail_fields` are columns of its files; `item_word` is what it calls an item,
and `done_word` what a row is that is done. `sameness` names what two grants that are the same have in common. `item_is_id` is
false where items are names, `has_amounts` where the item sets the amount, and `has_lookup` where the vendor cannot tell later
what became of a row.
"""

FIELDS: Mapping[str, tuple[str, str, str, str]] = MappingProxyType(
    {vendor: (row.recipient_field, row.item_field, "amount", row.key_field) for vendor, row in ROW_TYPES.items()}
)
"""What each vendor's files call recipient, item, amount and key."""


def vendor_of(account: str | None, kind: str | None) -> str | None:
    """Return the name of a vendor in `ROW_TYPES`; None if neither is given.

    Args:
        account: `"original"` or `"enkash"`.
        kind: `"allocation"`, which also stands for coins, or `"mint"`, which only Original has.

    Raises:
        ValueError: that vendor has no such kind.
    """
    if kind != "mint":
        return account or (kind and "original")
    if account not in {None, "original"}:
        raise ValueError("--kind mint is for Original; EnKash mints nothing. Nothing was sent.")
    return MintRow.vendor


def options_of(vendor: str) -> str:
    """Return the options of the command line from which `vendor_of` makes a vendor."""
    account = ROW_TYPES[vendor].account
    return f"--vendor {account}" if account == vendor else f"--vendor {account} --kind mint"
