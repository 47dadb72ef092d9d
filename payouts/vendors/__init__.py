"""The vendors that a payout knows; nothing else in `payouts` but the command line names one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from payouts.vendors.enkash import EnkashRow
from payouts.vendors.original import OriginalRow

__all__ = ["FIELDS", "ROW_TYPES", "EnkashRow", "OriginalRow"]

ROW_TYPES: Mapping[str, type[OriginalRow | EnkashRow]] = MappingProxyType({"original": OriginalRow, "enkash": EnkashRow})
"""The row type of each vendor. Class attributes hold what differs between vendors.

`title` names the vendor and what it pays; `recipient_field`, `item_field` and `key_field` are columns of its files; `item_word`
is what it calls an item. `item_is_id` is false where items are names, `has_amounts` where the item sets the amount, and
`has_lookup` where the vendor cannot tell later what became of a row.
"""

FIELDS: Mapping[str, tuple[str, str, str, str]] = MappingProxyType(
    {vendor: (row.recipient_field, row.item_field, "amount", row.key_field) for vendor, row in ROW_TYPES.items()}
)
"""What each vendor's files call recipient, item, amount and key."""
