"""What a complete list of the vendor's did not show, kept with the row: on this an unknown row may be settled as not paid."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rewards_core.calendar import Calendar
from rewards_core.clock import boot_id, uptime
from rewards_core.sqlite.connection import fetch

if TYPE_CHECKING:
    from rewards_core.sqlite.connection import Connection


_MEASURED_ALIKE = 1.0
"""Seconds by which two clocks differ that go alike."""


def record_absent(database: Connection, numbers: Iterable[int], at: float) -> None:
    """Note that a complete list of the vendor's did not show rows; only unknown rows without a uid are noted.

    The time of the first such list starts again if the campaign has been run since: the run may have sent the row once more. A
    clock that was set makes no two lists seem further apart than they were: it is believed after a day.

    Args:
        database: As `Ledger.transact` hands it over.
        numbers: The rows' numbers in the ledger.
        at: When the list was asked for, in seconds since the epoch.
    """
    believed = _believed(database, at)
    database.executemany(
        "UPDATE rows SET absent_at = ?1, absent_since = CASE "
        "WHEN absent_since > coalesce((SELECT run_at FROM campaigns WHERE campaigns.number = campaign), 0) "
        "THEN absent_since ELSE ?1 END WHERE number = ?2 AND state = 'unknown' AND uid IS NULL",
        ((believed, number) for number in numbers),
    )


def _believed(database: Connection, wall: float) -> float:
    """Return the time as far as it can be believed; what it is told by is kept in a table that earlier versions pass over.

    Where the clock was set, and is believed by now, evidence is moved along: as much time lies between two lists as passed.
    """
    database.execute("CREATE TABLE IF NOT EXISTS calendar (kept BLOB NOT NULL)")
    kept, now, boot = fetch(database, "SELECT kept FROM calendar"), uptime(), boot_id()
    if kept:
        calendar = Calendar.load(kept[0][0])
    else:
        last = fetch(database, "SELECT max(absent_at) FROM rows")[0][0]
        calendar = Calendar(wall=wall if last is None else last, uptime=now, boot=boot)
    passed = calendar.after(now, boot)
    calendar = calendar.see(wall, now, boot)
    database.execute("DELETE FROM calendar")
    database.execute("INSERT INTO calendar VALUES (?)", (calendar.dump(),))
    if abs(set_by := calendar.wall - passed) > _MEASURED_ALIKE:
        database.execute(
            "UPDATE rows SET absent_since = absent_since + ?1, absent_at = absent_at + ?1 WHERE absent_since IS NOT NULL AND "
            "absent_since > coalesce((SELECT run_at FROM campaigns WHERE campaigns.number = campaign), 0)",
            (set_by,),
        )
    return calendar.wall
