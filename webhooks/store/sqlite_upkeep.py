"""How a `SQLiteStore` checks itself, counts what it holds, and removes what is old."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rewards_core.clock import DAY, TrustedTime
from rewards_core.operations import OperationRef
from rewards_core.sqlite.connection import fetch
from webhooks.store.outcomes import mentions, pack
from webhooks.store.readings import StoreStatistics
from webhooks.store.records import FORGOTTEN, IDENTITY_DAYS, EventState, Priority
from webhooks.store.rows import (
    DEAD,
    READY,
    STATES,
)
from webhooks.store.sqlite_events import update_states
from webhooks.store.sqlite_jobs import count_unserved
from webhooks.store.sqlite_rows import (
    change_in,
    for_refs,
    insert,
)
from webhooks.store.upkeep import UPKEEP_EVERY

if TYPE_CHECKING:
    from rewards_core.sqlite.connection import Connection
    from webhooks.store.sqlite_session import Session


def probe(session: Session) -> None:
    """Insert an event and roll it back, then write what `probed` reads."""
    db, token = session.db, os.urandom(16)
    db.execute("SAVEPOINT probe")
    db.execute("INSERT INTO identity (identity, day) VALUES (?, 0)", (token,))
    db.execute(
        "INSERT INTO event (scope, name, identity, state, received_at, body) VALUES ('', '', ?, 0, ?, x'')", (token, session.wall)
    )
    fetch(db, "SELECT identity FROM event WHERE id = ?", (db.last_insert_rowid(),))
    db.execute("ROLLBACK TO probe; RELEASE probe")
    insert(session.db, "meta", "name, value", [("probe", token)], verb="INSERT OR REPLACE")


def probed(db: Connection) -> None:
    fetch(db, "SELECT value FROM meta WHERE name = 'probe'")
    fetch(db, "SELECT count(*) FROM (SELECT 1 FROM event ORDER BY id DESC LIMIT 10)")


def claim_upkeep(session: Session) -> bool:
    """Return whether this process should do the upkeep of this hour."""
    last_at = fetch(session.db, "SELECT value FROM meta WHERE name = 'upkeep_at'")[0][0]
    if session.now - last_at < UPKEEP_EVERY:
        return False
    session.db.execute("UPDATE meta SET value = ? WHERE name = 'upkeep_at'", (session.now,))
    return True


def every_hour(session: Session) -> None:
    today(session)
    count_unserved(session)


def today(session: Session) -> float:
    """Return the Unix time that decides what is old. Setting the clock forward does not make records older."""
    calendar = _kept(session).update(session.wall, session.now, session.boot)
    insert(session.db, "meta", "name, value", [("calendar", calendar.dump())], verb="INSERT OR REPLACE")
    return min(session.wall, calendar.wall)


def _kept(session: Session) -> TrustedTime:
    row = fetch(session.db, "SELECT value FROM meta WHERE name = 'calendar'")
    if row:
        return TrustedTime.load(row[0][0])
    newest = "SELECT max(received_at) FROM event UNION ALL SELECT max(settled_at) FROM outcome"
    stamps = [stamp for (stamp,) in fetch(session.db, newest) if stamp is not None]
    return TrustedTime(wall=max(stamps, default=session.wall), uptime=session.now, boot=session.boot)


def count_identities(db: Connection, after: int) -> tuple[int, int] | None:
    """Return the next day on which identities were kept, and their number; None after the last."""
    first = "SELECT min(day) FROM identity WHERE day > ?"
    found = fetch(db, f"SELECT day, count(*) FROM identity WHERE day = ({first}) GROUP BY day", (after,))
    return found[0] if found else None


def statistics(db: Connection) -> StoreStatistics:
    oldest = fetch(db, "SELECT received_at FROM event WHERE state > 0 AND state = ? ORDER BY id LIMIT 1", (READY,))
    return StoreStatistics(
        events=_count(db, "event"),
        ready=_count(db, "event WHERE state > 0 AND state = ?", READY),
        dead=_count(db, "event WHERE state > 0 AND state = ?", DEAD),
        lookups=_count(db, "pending WHERE priority = ?", Priority.LOOKUP),
        pending=_count(db, "pending"),
        outcomes=_count(db, "outcome"),
        conflicts=_count(db, "conflict"),
        oldest_ready_at=oldest[0][0] if oldest else None,
    )


def _count(db: Connection, what: str, *values: int) -> int:
    return int(fetch(db, f"SELECT count(*) FROM {what}", values)[0][0])


# removing


def purge(session: Session, event_ids: Sequence[int], state: EventState) -> int:
    count = change_in(session.db, "DELETE FROM event WHERE state = ? AND id IN", event_ids, STATES.index(state))
    for table in ("job", "also"):
        gone = f"DELETE FROM {table} WHERE NOT EXISTS (SELECT 1 FROM event WHERE id = event_id) AND event_id IN"
        change_in(session.db, gone, event_ids)
    return count


def purge_identities(session: Session, identities: Sequence[bytes]) -> int:
    change_in(session.db, "DELETE FROM identity WHERE identity IN", identities)
    return len(identities)


def purge_outcomes(session: Session, refs: Sequence[OperationRef]) -> int:
    for_refs(session.db, "DELETE FROM outcome", refs)
    for_refs(session.db, "DELETE FROM conflict", refs)
    return len(refs)


def erase_bodies(session: Session, event_ids: Sequence[int]) -> int:
    change_in(session.db, "UPDATE event SET body = x'', signature = NULL WHERE id IN", event_ids)
    return len(event_ids)


def forget_events(session: Session, event_ids: Sequence[int]) -> int:
    """Erase events and the reasons of their jobs, which become dead letters."""
    erase_bodies(session, event_ids)
    change_in(session.db, "UPDATE job SET state = 2, reason = ?, held = 0 WHERE event_id IN", event_ids, FORGOTTEN)
    update_states(session, event_ids)
    return len(event_ids)


def forget_resources(session: Session, seqs: Sequence[int], *, table: str) -> int:
    """Erase the resources and keys of outcomes or conflicts; their statuses stay."""
    change_in(session.db, f"UPDATE {table} SET resource = ?, key = NULL WHERE seq IN", seqs, pack({}))
    return len(seqs)


# finding what to remove


def purgeable(db: Connection, state: EventState, before: float, limit: int) -> list[int]:
    if state is EventState.DONE:
        found = "SELECT id FROM event INDEXED BY event_received WHERE received_at < ? AND state = 0 LIMIT ?"
        return [row[0] for row in fetch(db, found, (before, limit))]
    found = "SELECT id FROM event WHERE state > 0 AND state = ? AND received_at < ? ORDER BY id LIMIT ?"
    return [row[0] for row in fetch(db, found, (STATES.index(state), before, limit))]


def erasable(db: Connection, before: float, after: tuple[float, int], limit: int) -> list[tuple[float, int]]:
    """Return `received_at` and ids of done events with a body, received before a moment, in that order."""
    found = (
        "SELECT received_at, id FROM event INDEXED BY event_received WHERE received_at < ? AND (received_at, id) > (?, ?) "
        "AND state = 0 AND length(body) > 0 ORDER BY received_at, id LIMIT ?"
    )
    return fetch(db, found, (before, *after, limit))


def old_identities(db: Connection, now: float, limit: int) -> list[bytes]:
    oldest = int(now) // DAY - IDENTITY_DAYS
    return [row[0] for row in fetch(db, "SELECT identity FROM identity WHERE day < ? LIMIT ?", (oldest, limit))]


def events_about(db: Connection, uid: str, after: int, limit: int) -> tuple[list[int], int | None]:
    """Return, of the next events, those whose bodies mention a user, and the last id that was checked."""
    return _about(db, "SELECT id, body FROM event WHERE id > ? AND length(body) > 0 ORDER BY id LIMIT ?", uid, after, limit)


def resources_about(db: Connection, uid: str, after: int, limit: int, *, table: str) -> tuple[list[int], int | None]:
    """Do the same for the resources of outcomes or conflicts."""
    return _about(db, f"SELECT seq, resource FROM {table} WHERE seq > ? ORDER BY seq LIMIT ?", uid, after, limit)


def _about(db: Connection, look: str, uid: str, after: int, limit: int) -> tuple[list[int], int | None]:
    found: list[int] = []
    last: int | None = None
    for last, data in db.execute(look, (after, limit)):  # row by row, as bodies may be large
        if mentions(data, uid):
            found.append(last)
    return found, last


def old_outcomes(db: Connection, before: float, limit: int) -> list[OperationRef]:
    rows = fetch(db, "SELECT scope, kind, uid FROM outcome WHERE settled_at < ? LIMIT ?", (before, limit))
    return [OperationRef(*row) for row in rows]
