"""What a `SQLiteStore` looks up of events and pending operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rewards_core.operations import OperationRef
from rewards_core.sqlite.connection import fetch
from webhooks.store.records import EventState, Job, PendingOperation, Priority, StoredEvent, StoreStatistics
from webhooks.store.sqlite_rows import (
    DEAD,
    EVENT_COLUMNS,
    JOB_COLUMNS,
    PENDING_COLUMNS,
    READY,
    STATES,
    job_of,
    pending_of,
    stored_event_of,
    text,
)
from webhooks.store.sqlite_statements import placeholders, values_at_once

if TYPE_CHECKING:
    from rewards_core.sqlite.connection import Connection
    from webhooks.store.listing import EventQuery


def events(db: Connection, query: EventQuery, now: float) -> list[StoredEvent]:
    """Return events that fit, newest first; `now` is the store's own time."""
    where, values = _conditions(query)
    rows = fetch(db, f"SELECT {EVENT_COLUMNS} FROM event WHERE {where} ORDER BY id DESC LIMIT ?", (*values, query.limit))
    jobs: dict[int, list[Job]] = {}
    for part in values_at_once([row[0] for row in rows]):
        found = fetch(db, f"SELECT {JOB_COLUMNS} FROM job WHERE event_id IN {placeholders(len(part), 1)} ORDER BY handler", part)
        for row in found:
            jobs.setdefault(row[0], []).append(job_of(row, now))
    return [stored_event_of(row, jobs.get(row[0], ())) for row in rows]


def pending(db: Connection, scope: str | None, after: OperationRef | None, limit: int, now: float) -> list[PendingOperation]:
    """Return pending operations in the order of their refs; `now` is the store's own time."""
    where, values = "1", []
    if scope is not None:
        where, values = "scope = ?", [scope]
        if after is not None and after.scope > scope:
            return []
        if after is not None and after.scope == scope:  # comparing the scope again would read all operations before
            where, values = "scope = ? AND (kind, uid) > (?, ?)", [scope, after.kind, text(after.uid)]
    elif after is not None:
        where, values = "(scope, kind, uid) > (?, ?, ?)", [after.scope, after.kind, text(after.uid)]
    rows = fetch(db, f"SELECT {PENDING_COLUMNS} FROM pending WHERE {where} ORDER BY scope, kind, uid LIMIT ?", (*values, limit))
    return [pending_of(row, now) for row in rows]


def old_outcomes(db: Connection, before: float, limit: int) -> list[OperationRef]:
    """Return some operations that settled before a moment."""
    rows = fetch(db, "SELECT scope, kind, uid FROM outcome WHERE settled_at < ? LIMIT ?", (before, limit))
    return [OperationRef(*row) for row in rows]


def statistics(db: Connection) -> StoreStatistics:
    """Count what is held."""
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


def _conditions(query: EventQuery) -> tuple[str, list[Any]]:
    """Return the `WHERE` clause of a query and its values."""
    given: list[tuple[str, Any]] = [
        ("id = ?", query.id),
        ("id < ?", query.before_id),
        ("scope = ?", query.scope),
        ("name = ?", None if query.name is None else text(query.name)),
    ]
    if query.state is EventState.DONE:
        given.append(("state = ?", STATES.index(query.state)))
    elif query.state is not None:  # `state > 0` tells SQLite that the index of open events holds them all
        given.append(("state > 0 AND state = ?", STATES.index(query.state)))
    if query.ref is not None:
        given += [("scope = ?", query.ref.scope), ("kind = ?", query.ref.kind), ("uid = ?", text(query.ref.uid))]
    used = [(words, value) for words, value in given if value is not None]
    return (" AND ".join(words for words, _ in used) or "1"), [value for _, value in used]
