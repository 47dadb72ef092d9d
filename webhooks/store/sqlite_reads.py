"""What a `SQLiteStore` looks up of events, outcomes and pending operations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rewards_core.operations import OperationRef, OperationStatus
from rewards_core.sqlite.connection import fetch
from webhooks.store.records import EventState, Job, PendingOperation, Priority, StoredEvent, StoredOutcome, StoreStatistics
from webhooks.store.sqlite_rows import (
    DEAD,
    EVENT_FIELDS,
    JOB_COLUMNS,
    OUTCOME_COLUMNS,
    PENDING_COLUMNS,
    READY,
    STATES,
    job_of,
    outcome_from,
    pending_of,
    stored_event_of,
    text,
)
from webhooks.store.sqlite_statements import by_scope_and_kind, placeholders, run_for_groups, values_at_once

if TYPE_CHECKING:
    from rewards_core.sqlite.connection import Connection
    from webhooks.store.listing import EventQuery, OutcomeQuery
    from webhooks.store.records import Outcome


_SPEAKING_OF = "SELECT id FROM event WHERE uid = ?"
_SPEAKING_ALSO_OF = "SELECT event_id FROM also WHERE uid = ?"
_CONFLICTING = (
    "SELECT first.seq FROM conflict CROSS JOIN outcome AS first "
    "ON first.scope = conflict.scope AND first.kind = conflict.kind AND first.uid = conflict.uid"
)


def events(db: Connection, query: EventQuery, now: float) -> list[StoredEvent]:
    """Return events that fit, newest first; `now` is the store's own time."""
    where, values = event_conditions(query)
    rows = fetch(db, f"SELECT {EVENT_FIELDS} FROM event WHERE {where} ORDER BY id DESC LIMIT ?", (*values, query.limit))
    jobs: dict[int, list[Job]] = {}
    for part in values_at_once([row[0] for row in rows]):
        found = fetch(db, f"SELECT {JOB_COLUMNS} FROM job WHERE event_id IN {placeholders(len(part), 1)} ORDER BY handler", part)
        for row in found:
            jobs.setdefault(row[0], []).append(job_of(row, now))
    return [stored_event_of(row, jobs.get(row[0], ())) for row in rows]


def listed_pending(
    db: Connection,
    scope: str | None,
    kind: str | None,
    uid: str | None,
    after: OperationRef | None,
    limit: int,
    now: float,
) -> list[PendingOperation]:
    """Return pending operations that fit in the order of their refs; `now` is the store's own time.

    They are looked for in one scope and kind after the other, so that those before and between are not read.
    """
    found: list[PendingOperation] = []
    for pair in scopes_and_kinds(db, "pending", scope, kind):
        if len(found) >= limit:
            break
        if after is not None and pair < (after.scope, after.kind):
            continue
        where, values = "scope = ? AND kind = ?", list(pair)
        if uid is not None:
            where, values = f"{where} AND uid = ?", [*values, text(uid)]
        if after is not None and pair == (after.scope, after.kind):
            where, values = f"{where} AND uid > ?", [*values, text(after.uid)]
        rows = fetch(
            db, f"SELECT {PENDING_COLUMNS} FROM pending WHERE {where} ORDER BY uid LIMIT ?", (*values, limit - len(found))
        )
        found += [pending_of(row, now) for row in rows]
    return found


def pending(db: Connection, refs: Sequence[OperationRef], now: float) -> list[PendingOperation]:
    """Return those of some operations that are pending; `now` is the store's own time."""
    rows = run_for_groups(db, f"SELECT {PENDING_COLUMNS} FROM pending", by_scope_and_kind(dict.fromkeys(refs)))
    return list({one.ref: one for one in (pending_of(row, now) for row in rows)}.values())


def listed_outcomes(db: Connection, query: OutcomeQuery) -> list[StoredOutcome]:
    """Return outcomes that fit, with their conflicts, newest first."""
    where, values = _outcome_conditions(db, query)
    found = f"SELECT seq, {OUTCOME_COLUMNS} FROM outcome WHERE {where} ORDER BY seq DESC LIMIT ?"
    first = {row[0]: outcome_from(row[1:]) for row in fetch(db, found, (*values, query.limit))}
    later: dict[OperationRef, list[Outcome]] = {}
    refs = by_scope_and_kind(one.ref for one in first.values())
    for row in run_for_groups(db, f"SELECT {OUTCOME_COLUMNS} FROM conflict", refs, then="ORDER BY seq"):
        later.setdefault((one := outcome_from(row)).ref, []).append(one)
    return [StoredOutcome(id=seq, outcome=one, conflicts=tuple(later.get(one.ref, ()))) for seq, one in first.items()]


def scopes_and_kinds(db: Connection, table: str, scope: str | None, kind: str | None) -> list[tuple[str, str]]:
    """Return the scopes and kinds that a table holds operations of, in order, by as many look-ups as there are."""
    next_scope, next_kind = (
        f"SELECT min(scope) FROM {table} WHERE scope > ?",
        f"SELECT min(kind) FROM {table} WHERE scope = ? AND kind > ?",
    )
    return [
        (of_scope, of_kind)
        for of_scope in _one_by_one(db, next_scope)
        if scope in {None, of_scope}
        for of_kind in _one_by_one(db, next_kind, of_scope)
        if kind in {None, of_kind}
    ]


def _one_by_one(db: Connection, next_after: str, *values: str) -> Iterator[str]:
    """Yield what a look-up finds first, then what it finds after that, and so on."""
    last: str | None = ""
    while (last := fetch(db, next_after, (*values, last))[0][0]) is not None:
        yield last


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


def _outcome_conditions(db: Connection, query: OutcomeQuery) -> tuple[str, list[Any]]:
    """Return the `WHERE` clause of a query for outcomes and its values."""
    given: list[tuple[str, Sequence[Any]]] = []
    if query.uid is not None:
        pairs = scopes_and_kinds(db, "outcome", query.scope, query.kind)
        one = "SELECT seq FROM outcome WHERE scope = ? AND kind = ? AND uid = ?"
        uid = text(query.uid)
        given.append((f"seq IN ({' UNION ALL '.join([one] * len(pairs))})", [part for pair in pairs for part in (*pair, uid)]))
    elif query.scope is not None:
        given.append(("scope = ?", [query.scope]))
    if query.uid is None and query.kind is not None:
        given.append(("kind = ?", [query.kind]))
    if query.status is not None:  # `<> 'done'` tells SQLite that the index of unusual outcomes holds them all
        unusual = "" if query.status is OperationStatus.DONE else "status <> 'done' AND "
        given.append((f"{unusual}status = ?", [query.status.value]))
    if query.conflicting:
        given.append((f"seq IN ({_CONFLICTING})", []))
    if query.before_id is not None:
        given.append(("seq < ?", [query.before_id]))
    return (" AND ".join(words for words, _ in given) or "1"), [value for _, values in given for value in values]


def event_conditions(query: EventQuery) -> tuple[str, list[Any]]:
    """Return the `WHERE` clause of a query for events and its values."""
    given: list[tuple[str, Sequence[Any]]] = []
    if query.id is not None:
        given.append(("id = ?", [query.id]))
    if query.before_id is not None:
        given.append(("id < ?", [query.before_id]))
    for column, value in (("scope", query.scope), ("name", None if query.name is None else text(query.name))):
        if value is not None:
            given.append((f"{column} = ?", [value]))
    if query.state is EventState.DONE:
        given.append(("state = ?", [STATES.index(query.state)]))
    elif query.state is not None:  # `state > 0` tells SQLite that the index of open events holds them all
        given.append(("state > 0 AND state = ?", [STATES.index(query.state)]))
    if query.uid is not None:
        uid = text(query.uid)
        given.append((f"id IN ({_SPEAKING_OF} UNION ALL {_SPEAKING_ALSO_OF})", [uid, uid]))
    if query.ref is not None:
        named = [text(query.ref.uid), query.ref.kind]
        both = f"{_SPEAKING_OF} AND kind = ? UNION ALL {_SPEAKING_ALSO_OF} AND kind = ?"
        given.append((f"scope = ? AND id IN ({both})", [query.ref.scope, *named, *named]))
    return (" AND ".join(words for words, _ in given) or "1"), [value for _, values in given for value in values]
