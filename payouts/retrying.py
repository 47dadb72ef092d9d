"""Whether a row may be paid anew under another key: only after the vendor was asked now what became of the old one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from payouts.states import Entry, State
from vendor_http.errors import NotFound, VendorError
from vendor_http.operations import OperationStatus

if TYPE_CHECKING:
    from payouts.vendors import Vendor

RETRIED = frozenset({State.REJECTED, State.FAILED})
"""The states from which a row can be paid anew."""


async def objection_to_retry(vendor: Vendor, entry: Entry) -> str | None:
    """Ask the vendor now; return why a row must not get another key, None if nothing speaks against it.

    A rejected row may if a complete list of the vendor's shows nothing under its key. A failed one may if what the vendor named
    is still read as failed, and nothing else is held under the key. Where the vendor cannot be asked, only a rejected row may.

    Args:
        vendor: Who refused or failed.
        entry: The row.
    """
    if entry.state not in RETRIED:
        return f"it is {entry.state}; only a rejected or a failed row can be paid anew"
    later = vendor.later
    if later is None:
        return None if entry.state is State.REJECTED else f"it is {entry.state}, and {vendor.name} cannot be asked about it"
    try:
        held = await later.look_up(entry)
        if entry.state is State.REJECTED:
            told = f"the vendor holds {held.ref.uid} under its key, {held.status}: it was not rejected" if held else None
            return told and f"{told}. Run `payouts resolve {entry.id} --as unknown --note ...`, then the payout again"
        if held is not None and held.ref.uid != entry.uid:
            return f"the vendor holds {held.ref.uid} under its key beside {entry.uid}, {held.status}"
        now = await later.read(entry)
    except NotFound:
        return f"the vendor does not show {entry.uid} any more, so nobody can say that it failed"
    except VendorError as problem:
        return f"the vendor could not be asked: {problem}"
    if now.status is OperationStatus.FAILED:
        return None
    return f"the vendor now says that {entry.uid} is {now.status}: it did not fail"
