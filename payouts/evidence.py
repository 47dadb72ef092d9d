"""What a complete list of the vendor's did not show, kept with the row: on this an unknown row may be settled as not paid."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rewards_core.sqlite.connection import Connection


def record_absent(database: Connection, numbers: Iterable[int], at: float) -> None:
    """Note that a complete list of the vendor's did not show rows; only unknown rows without a uid are noted.

    The time of the first such list starts again if the campaign has been run since: the run may have sent the row once more.

    Args:
        database: As `Ledger.transact` hands it over.
        numbers: The rows' numbers in the ledger.
        at: When the list was asked for, in seconds since the epoch.
    """
    database.executemany(
        "UPDATE rows SET absent_at = ?1, absent_since = CASE "
        "WHEN absent_since > coalesce((SELECT run_at FROM campaigns WHERE campaigns.number = campaign), 0) "
        "THEN absent_since ELSE ?1 END WHERE number = ?2 AND state = 'unknown' AND uid IS NULL",
        ((at, number) for number in numbers),
    )
