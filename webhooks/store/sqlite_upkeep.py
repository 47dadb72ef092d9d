"""How a `SQLiteStore` shows that it works, and shares its upkeep among the processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rewards_core.clock import TrustedTime
from rewards_core.sqlite.connection import fetch
from webhooks.store.sqlite_jobs import count_unserved
from webhooks.store.upkeep import UPKEEP_EVERY

if TYPE_CHECKING:
    from rewards_core.sqlite.connection import Connection
    from webhooks.store.sqlite_session import Session


def probe(session: Session) -> None:
    """Write an event and take it back, as an acceptance would; then write what `probed` reads."""
    db, token = session.db, os.urandom(16)
    db.execute("SAVEPOINT probe")
    db.execute("INSERT INTO identity (identity, day) VALUES (?, 0)", (token,))
    db.execute(
        "INSERT INTO event (scope, name, identity, state, received_at, body) VALUES ('', '', ?, 0, ?, x'')", (token, session.wall)
    )
    fetch(db, "SELECT identity FROM event WHERE id = ?", (db.last_insert_rowid(),))
    db.execute("ROLLBACK TO probe; RELEASE probe")
    session.insert("meta", "name, value", [("probe", token)], verb="INSERT OR REPLACE")


def probed(db: Connection) -> None:
    """Read what the last probe wrote, and what an acceptance would read."""
    fetch(db, "SELECT value FROM meta WHERE name = 'probe'")
    fetch(db, "SELECT count(*) FROM (SELECT 1 FROM event ORDER BY id DESC LIMIT 10)")


def claim_upkeep(session: Session) -> bool:
    """Return whether this process is to do the upkeep of this hour."""
    last_at = fetch(session.db, "SELECT value FROM meta WHERE name = 'upkeep_at'")[0][0]
    if session.now - last_at < UPKEEP_EVERY:
        return False
    session.db.execute("UPDATE meta SET value = ? WHERE name = 'upkeep_at'", (session.now,))
    return True


def every_hour(session: Session) -> None:
    """Look at the clocks, and count the hour for handlers that no process serves."""
    today(session)
    count_unserved(session)


def today(session: Session) -> float:
    """Return the Unix time by which records are old: no clock that was set lately makes them older."""
    calendar = _kept(session).update(session.wall, session.now, session.boot)
    session.insert("meta", "name, value", [("calendar", calendar.dump())], verb="INSERT OR REPLACE")
    return min(session.wall, calendar.wall)


def _kept(session: Session) -> TrustedTime:
    row = fetch(session.db, "SELECT value FROM meta WHERE name = 'calendar'")
    if row:
        return TrustedTime.load(row[0][0])
    newest = "SELECT max(received_at) FROM event UNION ALL SELECT max(settled_at) FROM outcome"
    stamps = [stamp for (stamp,) in fetch(session.db, newest) if stamp is not None]
    return TrustedTime(wall=max(stamps, default=session.wall), uptime=session.now, boot=session.boot)


def count_identities(db: Connection, after: int) -> tuple[int, int] | None:
    """Return the first day after one on which identities were kept, and how many; None if there is none."""
    first = "SELECT min(day) FROM identity WHERE day > ?"
    found = fetch(db, f"SELECT day, count(*) FROM identity WHERE day = ({first}) GROUP BY day", (after,))
    return found[0] if found else None
