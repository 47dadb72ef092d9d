"""Whether a row may be paid again under a new key: only after the vendor was asked now what became of the old one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from payouts.states import Entry, State
from payouts.vendors import as_told
from rewards_core.errors import NotFound, VendorError
from rewards_core.operations import OperationStatus

if TYPE_CHECKING:
    from collections.abc import Collection

    from payouts.vendors import Vendor

RETRIED = frozenset({State.REJECTED, State.FAILED})
"""The states from which a row can be paid again."""


async def objection_to_retry(
    vendor: Vendor, entry: Entry, *, other_keys: Collection[str] = (), restored_at: float | None = None
) -> str | None:
    """Ask the vendor now; return why a row must not get a new key, None if nothing speaks against it.

    A rejected row may if a complete list of the vendor's shows nothing under its key. A failed one may if what the vendor named
    is still read as failed, and nothing else is held under the key. Where the vendor cannot be asked, only a rejected row may.

    Args:
        vendor: Who refused or failed.
        entry: The row.
        other_keys: Keys beside its own under which the row may have been paid.
        restored_at: When the ledger was restored from an older copy, in seconds since the epoch; None if it never was.
    """
    if entry.state not in RETRIED:
        return f"it is {entry.state}; only rejected and failed rows can be paid again under a new key"
    later = vendor.later
    if later is None:
        if entry.state is not State.REJECTED:
            return f"it is {entry.state}, and {vendor.name} cannot be asked about it"
        if restored_at is not None and (entry.settled_at or 0.0) < restored_at:  # its next key may be used up in the newer copy
            return (
                "the ledger was restored from an older copy after it was rejected, so it may have been retried and paid since. "
                "Check with EnKash; to pay it, give it a new id"
            )
        return None
    try:
        held = (await later.held_under(entry, other_keys) if other_keys else None) or await later.look_up(entry)
        if entry.state is State.REJECTED:
            told = f"the vendor holds {held.ref.uid} ({held.status}) under its key, so it was not rejected" if held else None
            return told and f"{told}. Run `payouts resolve {entry.id} --as unknown --note ...`, then the payout again"
        if held is not None and held.ref.uid != entry.uid:
            return f"the vendor holds {held.ref.uid} ({held.status}) under its key beside {entry.uid}"
        now = await later.read(entry)
    except NotFound:
        return f"the vendor no longer shows {entry.uid}, so it is not certain that it failed"
    except VendorError as problem:
        return f"the vendor could not be asked: {as_told(problem, looked_up=False)}"
    if now.status is OperationStatus.FAILED:
        return None
    return f"the vendor now says that {entry.uid} is {now.status}, so it did not fail"
