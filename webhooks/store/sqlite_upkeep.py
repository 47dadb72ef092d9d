"""How a `SQLiteStore` shows that it works, and shares its upkeep among the processes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

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
    db.execute("SELECT identity FROM event WHERE id = ?", (db.last_insert_rowid(),)).fetchall()
    db.execute("ROLLBACK TO probe; RELEASE probe")
    session.insert("meta", "name, value", [("probe", token)], verb="INSERT OR REPLACE")


def probed(db: Connection) -> None:
    """Read what the last probe wrote, and what an acceptance would read."""
    db.execute("SELECT value FROM meta WHERE name = 'probe'").fetchall()
    db.execute("SELECT count(*) FROM (SELECT 1 FROM event ORDER BY id DESC LIMIT 10)").fetchall()


def claim_upkeep(session: Session) -> bool:
    """Return whether this process is to do the upkeep of this hour."""
    last_at = session.db.execute("SELECT value FROM meta WHERE name = 'upkeep_at'").fetchall()[0][0]
    if session.now - last_at < UPKEEP_EVERY:
        return False
    session.db.execute("UPDATE meta SET value = ? WHERE name = 'upkeep_at'", (session.now,))
    return True


def count_identities(db: Connection) -> int:
    """Return how many identities are known."""
    return int(db.execute("SELECT count(*) FROM identity").fetchall()[0][0])
