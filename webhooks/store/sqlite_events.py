"""How a `SQLiteStore` keeps events, and lets them go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rewards_core.clock import DAY
from rewards_core.operations import OperationStatus
from rewards_core.sqlite.connection import fetch
from webhooks.store.mentions import mentions
from webhooks.store.outcomes import pack, settled_by
from webhooks.store.records import FORGOTTEN, IDENTITY_DAYS, Acceptance, EventState, Priority
from webhooks.store.sqlite_outcomes import outcomes, record
from webhooks.store.sqlite_polls import hurry
from webhooks.store.sqlite_rows import (
    ALSO_COLUMNS,
    DEAD,
    DONE,
    EVENT_COLUMNS,
    READY,
    STATES,
    Arrival,
    PackedOutcome,
    changed_row,
    rows_of_also,
)
from webhooks.store.sqlite_statements import placeholders, values_at_once

if TYPE_CHECKING:
    from rewards_core.operations import Event, OperationRef
    from rewards_core.sqlite.connection import Connection
    from webhooks.store.records import Recorded
    from webhooks.store.sqlite_session import Session

_REFILE = """
UPDATE event SET state = CASE
  WHEN EXISTS (SELECT 1 FROM job WHERE event_id = event.id AND state = 1) THEN 1
  WHEN problem IS NOT NULL OR EXISTS (SELECT 1 FROM job WHERE event_id = event.id) THEN 2
  ELSE 0 END
WHERE id IN """


def accept(session: Session, arrivals: Sequence[Arrival]) -> list[Acceptance]:
    """Keep events whose identities are not known yet, with all that follows from them."""
    settled: list[PackedOutcome] = []
    mentioned: list[OperationRef] = []
    verdicts = dict.fromkeys(map(id, arrivals), Acceptance.DUPLICATE)
    for arrival in keep(session, arrivals):
        verdicts[id(arrival)] = Acceptance.NEW
        mentioned += arrival.lookups
        if arrival.outcome is not None:
            settled.append(arrival.outcome)
    record(session, settled, keep)
    if mentioned:
        _ask(session, mentioned)
    return list(verdicts.values())


def record_outcomes(session: Session, some: Sequence[PackedOutcome]) -> list[Recorded]:
    """Record how operations ended; the first outcome of each stands."""
    return record(session, some, keep)


def amend(session: Session, event_id: int, event: Event) -> None:
    """Replace a kept event by what a later reading of its body found."""
    arrival = Arrival.of(event, session.wall, settled_by(event, session.wall))
    session.db.execute(
        "UPDATE event SET name = ?, kind = ?, uid = ?, occurred_at = ?, correlation_id = ?, attempt = ?, "
        "problem = ?, signature = ?, body = ? WHERE id = ?",
        (*changed_row(event), event_id),
    )
    if session.db.changes() == 0:
        return
    session.db.execute("DELETE FROM also WHERE event_id = ?", (event_id,))
    session.insert("also", ALSO_COLUMNS, rows_of_also(event_id, event))
    refile(session, [event_id])
    if arrival.outcome is not None:
        record(session, [arrival.outcome], keep)
    _ask(session, list(arrival.lookups))


def keep(session: Session, arrivals: Sequence[Arrival]) -> list[Arrival]:
    """Keep the events whose identities are not known yet, with their jobs, and return them."""
    by_identity: dict[bytes, Arrival] = {}
    for arrival in arrivals:
        by_identity.setdefault(arrival.event.identity, arrival)
    for (identity,) in session.select_in("SELECT identity FROM identity WHERE identity IN", list(by_identity)):
        by_identity.pop(identity, None)
    fresh: list[Arrival] = []
    identities: list[tuple[Any, ...]] = []
    for identity, arrival in by_identity.items():
        fresh.append(arrival)
        identities.append((identity, int(arrival.at) // DAY))
    if not fresh:
        return fresh
    session.insert("identity", "identity, day", identities)
    newest: list[Any] = session.db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchall()
    first_id = (newest[0][0] if newest else 0) + 1
    rows: list[tuple[Any, ...]] = []
    jobs: list[tuple[Any, ...]] = []
    also: list[tuple[Any, ...]] = []
    wanted: set[str] = set()
    for event_id, arrival in enumerate(fresh, first_id):
        names = session.wanted.by(arrival.event)
        state = READY if names else DONE if arrival.event.problem is None else DEAD
        for name in names:
            wanted.add(name)
            jobs.append((event_id, name, READY, session.now, 0))
        rows.append(arrival.row(event_id, state))
        if arrival.event.also:
            also += rows_of_also(event_id, arrival.event)
    session.insert("event", EVENT_COLUMNS, rows)
    session.insert("also", ALSO_COLUMNS, also)
    if jobs:
        session.insert("job", "event_id, handler, state, due_at, attempts", jobs)
        session.hint_jobs(wanted)
    return fresh


def refile(session: Session, event_ids: Sequence[int]) -> None:
    """Let the states of events follow from their jobs."""
    for part in values_at_once(event_ids):
        session.db.execute(_REFILE + placeholders(len(part), 1), part)


def purge(session: Session, event_ids: Sequence[int], state: EventState) -> int:
    """Remove those of the events that are in that state; return how many."""
    count = 0
    for part in values_at_once(event_ids):
        marks = placeholders(len(part), 1)
        session.db.execute(f"DELETE FROM event WHERE id IN {marks} AND state = ?", (*part, STATES.index(state)))
        count += session.db.changes()
        for table in ("job", "also") if state is EventState.DEAD else ("also",):
            session.db.execute(
                f"DELETE FROM {table} WHERE event_id IN {marks} AND event_id NOT IN (SELECT id FROM event WHERE id IN {marks})",
                (*part, *part),
            )
    return count


def purge_identities(session: Session, identities: Sequence[bytes]) -> int:
    """Forget identities; return how many."""
    for part in values_at_once(identities):
        session.db.execute(f"DELETE FROM identity WHERE identity IN {placeholders(len(part), 1)}", part)
    return len(identities)


def purge_outcomes(session: Session, refs: Sequence[OperationRef]) -> int:
    """Remove outcomes with their conflicts; return how many."""
    session.for_refs("DELETE FROM outcome", refs)
    session.for_refs("DELETE FROM conflict", refs)
    return len(refs)


def erase_bodies(session: Session, event_ids: Sequence[int]) -> int:
    """Erase bodies and signatures; return of how many events."""
    for part in values_at_once(event_ids):
        session.db.execute(f"UPDATE event SET body = x'', signature = NULL WHERE id IN {placeholders(len(part), 1)}", part)
    return len(event_ids)


def forget_events(session: Session, event_ids: Sequence[int]) -> int:
    """Erase events; their waiting jobs become dead letters, and what failed jobs met is erased too. Return how many."""
    erase_bodies(session, event_ids)
    for part in values_at_once(event_ids):
        session.db.execute(
            f"UPDATE job SET state = 2, reason = ?, held = 0 WHERE event_id IN {placeholders(len(part), 1)}",
            (FORGOTTEN, *part),
        )
    refile(session, event_ids)
    return len(event_ids)


def forget_resources(session: Session, seqs: Sequence[int], *, table: str) -> int:
    """Erase the resources and keys of outcomes or conflicts, whose statuses stay; return how many."""
    for part in values_at_once(seqs):
        session.db.execute(
            f"UPDATE {table} SET resource = ?, key = NULL WHERE seq IN {placeholders(len(part), 1)}", (pack({}), *part)
        )
    return len(seqs)


# what is to go


def purgeable(db: Connection, state: EventState, before: float, limit: int) -> list[int]:
    """Return some events in a state received before a moment."""
    if state is EventState.DONE:
        found = "SELECT id FROM event INDEXED BY event_received WHERE received_at < ? AND state = 0 LIMIT ?"
        return [row[0] for row in fetch(db, found, (before, limit))]
    found = "SELECT id FROM event WHERE state > 0 AND state = ? AND received_at < ? ORDER BY id LIMIT ?"
    return [row[0] for row in fetch(db, found, (STATES.index(state), before, limit))]


def erasable(db: Connection, before: float, after: tuple[float, int], limit: int) -> list[tuple[float, int]]:
    """Return when some done events with a body were received, and their ids: the first before a moment and after a place."""
    found = (
        "SELECT received_at, id FROM event INDEXED BY event_received WHERE received_at < ? AND (received_at, id) > (?, ?) "
        "AND state = 0 AND length(body) > 0 ORDER BY received_at, id LIMIT ?"
    )
    return fetch(db, found, (before, *after, limit))


def old_identities(db: Connection, now: float, limit: int) -> list[bytes]:
    """Return some identities that need not be known any longer."""
    oldest = int(now) // DAY - IDENTITY_DAYS
    return [row[0] for row in fetch(db, "SELECT identity FROM identity WHERE day < ? LIMIT ?", (oldest, limit))]


def events_about(db: Connection, uid: str, after: int, limit: int) -> tuple[list[int], int | None]:
    """Return, of some events after an id, those whose bodies mention a user, and the last one looked at."""
    return _about(db, "SELECT id, body FROM event WHERE id > ? AND length(body) > 0 ORDER BY id LIMIT ?", uid, after, limit)


def resources_about(db: Connection, uid: str, after: int, limit: int, *, table: str) -> tuple[list[int], int | None]:
    """Return, of some outcomes or conflicts after a place, those whose resources mention a user, and the last one looked at."""
    return _about(db, f"SELECT seq, resource FROM {table} WHERE seq > ? ORDER BY seq LIMIT ?", uid, after, limit)


def _about(db: Connection, look: str, uid: str, after: int, limit: int) -> tuple[list[int], int | None]:
    found: list[int] = []
    last: int | None = None
    for last, data in db.execute(look, (after, limit)):  # one at a time: bodies may be large
        if mentions(data, uid):
            found.append(last)
    return found, last


def _ask(session: Session, refs: Iterable[OperationRef]) -> None:
    """Have operations polled at once, unless they are known as done."""
    asked = dict.fromkeys(refs)
    if asked:
        for outcome in outcomes(session.db, asked):
            if outcome.status is OperationStatus.DONE:
                del asked[outcome.ref]
        hurry(session, list(asked), Priority.LOOKUP)
