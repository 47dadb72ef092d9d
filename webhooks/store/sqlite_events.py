"""How a `SQLiteStore` keeps and finds events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rewards_core.clock import DAY
from rewards_core.operations import OperationStatus
from rewards_core.sqlite.connection import fetch
from webhooks.store.outcomes import settled_by
from webhooks.store.records import Acceptance, EventState, Priority
from webhooks.store.rows import (
    ALSO_COLUMNS,
    DEAD,
    DONE,
    EVENT_COLUMNS,
    JOB_COLUMNS,
    READY,
    STATES,
    Arrival,
    PackedOutcome,
    changed_row,
    job_of,
    rows_of_also,
    stored_event_of,
    text,
)
from webhooks.store.sqlite_outcomes import outcomes, record
from webhooks.store.sqlite_polls import dependents, hurry
from webhooks.store.sqlite_rows import (
    EVENT_FIELDS,
    change_in,
    insert,
    select_in,
)

if TYPE_CHECKING:
    from rewards_core.operations import Event, OperationRef
    from rewards_core.sqlite.connection import Connection
    from webhooks.store.queries import EventQuery
    from webhooks.store.records import Job, Recorded, StoredEvent
    from webhooks.store.sqlite_session import Session

_MENTIONING = "SELECT id FROM event WHERE uid = ?"
_MENTIONING_ALSO = "SELECT event_id FROM also WHERE uid = ?"
_UPDATE_STATES = """
UPDATE event SET state = CASE
  WHEN EXISTS (SELECT 1 FROM job WHERE event_id = event.id AND state = 1) THEN 1
  WHEN problem IS NOT NULL OR EXISTS (SELECT 1 FROM job WHERE event_id = event.id) THEN 2
  ELSE 0 END
WHERE id IN"""


def accept(session: Session, arrivals: Sequence[Arrival]) -> list[Acceptance]:
    """Keep the events whose identities are new, with all that follows from them."""
    settled: list[PackedOutcome] = []
    lookups: list[OperationRef] = []
    mentioned: list[OperationRef] = []
    verdicts = dict.fromkeys(map(id, arrivals), Acceptance.DUPLICATE)
    for arrival in keep(session, arrivals):
        verdicts[id(arrival)] = Acceptance.NEW
        lookups += arrival.lookups
        mentioned += arrival.mentioned
        if arrival.outcome is not None:
            settled.append(arrival.outcome)
    record(session, settled, keep)
    _look_up(session, lookups, mentioned)
    return list(verdicts.values())


def record_outcomes(session: Session, some: Sequence[PackedOutcome]) -> list[Recorded]:
    return record(session, some, keep)


def amend(session: Session, event_id: int, event: Event) -> None:
    arrival = Arrival.of(event, session.wall, settled_by(event, session.wall))
    session.db.execute(
        "UPDATE event SET name = ?, kind = ?, uid = ?, occurred_at = ?, correlation_id = ?, attempt = ?, "
        "problem = ?, signature = ?, body = ? WHERE id = ?",
        (*changed_row(event), event_id),
    )
    if session.db.changes() == 0:
        return
    session.db.execute("DELETE FROM also WHERE event_id = ?", (event_id,))
    insert(session.db, "also", ALSO_COLUMNS, rows_of_also(event_id, event))
    update_states(session, [event_id])
    if arrival.outcome is not None:
        record(session, [arrival.outcome], keep)
    _look_up(session, arrival.lookups, arrival.mentioned)


def keep(session: Session, arrivals: Sequence[Arrival]) -> list[Arrival]:
    """Keep the events whose identities are new, with their jobs, and return them."""
    db = session.db
    fresh: dict[bytes, Arrival] = {}
    for arrival in arrivals:
        fresh.setdefault(arrival.event.identity, arrival)
    for (identity,) in select_in(db, "SELECT identity FROM identity WHERE identity IN", list(fresh)):
        fresh.pop(identity, None)
    if not fresh:
        return []
    newest: list[Any] = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchall()
    first_id = (newest[0][0] if newest else 0) + 1
    identities: list[tuple[Any, ...]] = []
    rows: list[tuple[Any, ...]] = []
    jobs: list[tuple[Any, ...]] = []
    also: list[tuple[Any, ...]] = []
    handlers: set[str] = set()
    for event_id, (identity, arrival) in enumerate(fresh.items(), first_id):
        identities.append((identity, int(arrival.at) // DAY))
        names = session.subscribed.handlers_for(arrival.event)
        state = READY if names else DONE if arrival.event.problem is None else DEAD
        for name in names:
            handlers.add(name)
            jobs.append((event_id, name, READY, session.now, 0))
        rows.append(arrival.row(event_id, state))
        if arrival.event.also:
            also += rows_of_also(event_id, arrival.event)
    insert(db, "identity", "identity, day", identities)
    insert(db, "event", EVENT_COLUMNS, rows)
    insert(db, "also", ALSO_COLUMNS, also)
    if jobs:
        insert(db, "job", "event_id, handler, state, due_at, attempts", jobs)
        session.hint_jobs(handlers)
    return list(fresh.values())


def update_states(session: Session, event_ids: Sequence[int]) -> None:
    """Update the states of events after their jobs have changed."""
    change_in(session.db, _UPDATE_STATES, event_ids)


def events(db: Connection, query: EventQuery, now: float) -> list[StoredEvent]:
    """Return the events that match, newest first."""
    where, values = event_conditions(query)
    rows = fetch(db, f"SELECT {EVENT_FIELDS} FROM event WHERE {where} ORDER BY id DESC LIMIT ?", (*values, query.limit))
    jobs: dict[int, list[Job]] = {}
    for row in select_in(db, f"SELECT {JOB_COLUMNS} FROM job WHERE event_id IN", [row[0] for row in rows], "ORDER BY handler"):
        jobs.setdefault(row[0], []).append(job_of(row, now))
    return [stored_event_of(row, jobs.get(row[0], ())) for row in rows]


def event_conditions(query: EventQuery) -> tuple[str, list[Any]]:
    """Return the `WHERE` clause of a query and its values."""
    given: list[tuple[str, Sequence[Any]]] = []
    if query.id is not None:
        given.append(("id = ?", [query.id]))
    if query.before_id is not None:
        given.append(("id < ?", [query.before_id]))
    if query.scope is not None:
        given.append(("scope = ?", [query.scope]))
    if query.name is not None:
        given.append(("name = ?", [text(query.name)]))
    if query.state is EventState.DONE:
        given.append(("state = ?", [DONE]))
    elif query.state is not None:  # `state > 0` tells SQLite that the partial index applies
        given.append(("state > 0 AND state = ?", [STATES.index(query.state)]))
    if query.uid is not None:
        given.append((f"id IN ({_MENTIONING} UNION ALL {_MENTIONING_ALSO})", [text(query.uid)] * 2))
    if query.ref is not None:
        both = f"{_MENTIONING} AND kind = ? UNION ALL {_MENTIONING_ALSO} AND kind = ?"
        given.append((f"scope = ? AND id IN ({both})", [query.ref.scope, *[text(query.ref.uid), query.ref.kind] * 2]))
    return (" AND ".join(clause for clause, _ in given) or "1"), [value for _, values in given for value in values]


def _look_up(session: Session, refs: Iterable[OperationRef], mentioned: Iterable[OperationRef]) -> None:
    """Request polls of operations, and of what is about those that were mentioned, unless they are known to be done."""
    wanted = dict.fromkeys([*refs, *dependents(session.db, mentioned)])
    if wanted:
        for outcome in outcomes(session.db, wanted):
            if outcome.status is OperationStatus.DONE:
                del wanted[outcome.ref]
        hurry(session, list(wanted), Priority.LOOKUP)
