"""How a `SQLiteStore` records and finds outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from rewards_core.operations import OperationRef, OperationStatus
from rewards_core.sqlite.connection import fetch
from webhooks.store.hints import OUTCOMES, Notification
from webhooks.store.outcomes import conflict_event, contradiction
from webhooks.store.records import Outcome, Recorded, StoredOutcome
from webhooks.store.rows import (
    OUTCOME_COLUMNS,
    Arrival,
    PackedOutcome,
    outcome_from,
    text,
)
from webhooks.store.sqlite_rows import (
    for_refs,
    insert,
    scopes_and_kinds,
)
from webhooks.store.sqlite_session import Session
from webhooks.store.verdicts import judge

if TYPE_CHECKING:
    from rewards_core.sqlite.connection import Connection
    from webhooks.store.queries import OutcomeQuery

_CONFLICTING = (
    "SELECT first.seq FROM conflict CROSS JOIN outcome AS first "
    "ON first.scope = conflict.scope AND first.kind = conflict.kind AND first.uid = conflict.uid"
)
_SELECT = f"SELECT {OUTCOME_COLUMNS} FROM outcome"

Keep = Callable[[Session, Sequence[Arrival]], Sequence[Arrival]]
"""Keeps events and returns the new ones."""


def outcomes(db: Connection, refs: Iterable[OperationRef]) -> list[Outcome]:
    return [outcome_from(row) for row in for_refs(db, _SELECT, refs)]


def outcomes_by_key(db: Connection, scope: str, kind: str, key: str) -> list[Outcome]:
    rows = fetch(db, f"{_SELECT} WHERE scope = ? AND kind = ? AND key = ?", (scope, kind, text(key)))
    return [outcome_from(row) for row in rows]


def conflicts(db: Connection, refs: Iterable[OperationRef], condition: str = "") -> dict[OperationRef, list[Outcome]]:
    """Return the later outcomes that differ from the first, oldest first, by operation."""
    found: dict[OperationRef, list[Outcome]] = {}
    for row in for_refs(db, f"SELECT {OUTCOME_COLUMNS} FROM conflict", refs, then=f"{condition} ORDER BY seq"):
        outcome = outcome_from(row)
        found.setdefault(outcome.ref, []).append(outcome)
    return found


def with_contradictions(db: Connection, refs: Sequence[OperationRef]) -> list[tuple[Outcome, Outcome | None]]:
    """Return first outcomes, each with the confirmed outcome that contradicts it, if there is one."""
    later = conflicts(db, refs, "AND confirmed")
    return [(first, contradiction(first, later.get(first.ref, ()))) for first in outcomes(db, refs)]


def newest_seq(db: Connection) -> int:
    return int(fetch(db, "SELECT max(seq) FROM outcome")[0][0] or 0)


def refs_after(db: Connection, seq: int, limit: int) -> list[tuple[int, str, str, str]]:
    """Return `seq`, scope, kind and uid of the next outcomes; `seq` grows with each commit."""
    return fetch(db, "SELECT seq, scope, kind, uid FROM outcome WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit))


def record(session: Session, some: Sequence[PackedOutcome], keep: Keep) -> list[Recorded]:
    """Record outcomes; the first outcome of each operation is final. `keep` keeps the events of conflicts."""
    if not some:
        return []
    verdicts = judge(outcomes(session.db, [packed.outcome.ref for packed in some]), some)
    standing = verdicts.standing
    insert(session.db, "outcome", OUTCOME_COLUMNS, [packed.row for packed in verdicts.first])
    for ref in verdicts.changed:
        key, confirmed = standing[ref].key, standing[ref].confirmed
        for_refs(session.db, "UPDATE outcome SET key = ?, confirmed = ?", [ref], text(key) if key else None, confirmed)
    for outcome in verdicts.confirmed:
        _move_to_end(session, outcome.ref)
    session.notifications += [Notification(confirmed=outcome) for outcome in verdicts.confirmed]
    session.notifications += [Notification(settled=standing[packed.outcome.ref]) for packed in verdicts.first]
    ended = [one.outcome.ref for one in some if one.outcome.confirmed]
    _end_waiting(session, [*(packed.outcome.ref for packed in verdicts.first), *ended])
    for packed in verdicts.conflicting:
        outcome, stands = packed.outcome, standing[packed.outcome.ref]
        unknown = keep(session, [Arrival(conflict_event(stands, outcome), session.wall)])
        counts = contradiction(stands, (*conflicts(session.db, [outcome.ref]).get(outcome.ref, ()), outcome))
        if unknown or counts is outcome:
            insert(session.db, "conflict", OUTCOME_COLUMNS, [packed.row])
        if counts is not None:
            _move_to_end(session, outcome.ref)
            session.notifications.append(Notification(confirmed=counts))
    return verdicts.recorded


def _move_to_end(session: Session, ref: OperationRef) -> None:
    """Give an outcome a new `seq`, so that other processes read it again."""
    session.db.execute("UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'outcome'")
    for_refs(session.db, "UPDATE outcome SET seq = (SELECT seq FROM sqlite_sequence WHERE name = 'outcome')", [ref])


def _end_waiting(session: Session, refs: Sequence[OperationRef]) -> None:
    """Stop polling operations, and wake the processes that wait for them."""
    for_refs(session.db, "DELETE FROM pending", refs)
    waiting = for_refs(session.db, "DELETE FROM interest", refs, then="RETURNING process")
    if waiting:
        session.hint(OUTCOMES, set(chain.from_iterable(waiting)))


def listed_outcomes(db: Connection, query: OutcomeQuery) -> list[StoredOutcome]:
    """Return the outcomes that match, with their conflicts, newest first."""
    where, values = _outcome_conditions(db, query)
    found = f"SELECT seq, {OUTCOME_COLUMNS} FROM outcome WHERE {where} ORDER BY seq DESC LIMIT ?"
    first = {row[0]: outcome_from(row[1:]) for row in fetch(db, found, (*values, query.limit))}
    later = conflicts(db, [outcome.ref for outcome in first.values()])
    return [StoredOutcome(id=seq, outcome=one, conflicts=tuple(later.get(one.ref, ()))) for seq, one in first.items()]


def _outcome_conditions(db: Connection, query: OutcomeQuery) -> tuple[str, list[Any]]:
    """Return the `WHERE` clause of a query and its values."""
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
    if query.status is not None:  # `<> 'done'` tells SQLite that the partial index applies
        unusual = "" if query.status is OperationStatus.DONE else "status <> 'done' AND "
        given.append((f"{unusual}status = ?", [query.status.value]))
    if query.conflicting:
        given.append((f"seq IN ({_CONFLICTING})", []))
    if query.before_id is not None:
        given.append(("seq < ?", [query.before_id]))
    return (" AND ".join(clause for clause, _ in given) or "1"), [value for _, values in given for value in values]
