"""How a `SQLiteStore` records outcomes, and looks them up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

from attrs import evolve

from rewards_core.sqlite.connection import fetch
from webhooks.store.outcomes import agree, conflict_event, contradiction
from webhooks.store.records import Outcome, Recorded, Verdict
from webhooks.store.sqlite_rows import (
    OUTCOME_COLUMNS,
    Arrival,
    PackedOutcome,
    outcome_from,
    text,
)
from webhooks.store.sqlite_session import OUTCOMES, News, Session
from webhooks.store.sqlite_statements import by_scope_and_kind, run_for_groups

if TYPE_CHECKING:
    from rewards_core.operations import OperationRef
    from rewards_core.sqlite.connection import Connection

_OF_THESE = f"SELECT {OUTCOME_COLUMNS} FROM outcome"

Keep = Callable[[Session, Sequence[Arrival]], Sequence[Arrival]]
"""Keeps events, and returns those that were new."""


def outcomes(db: Connection, refs: Iterable[OperationRef]) -> list[Outcome]:
    """Return the outcomes that stand."""
    return [outcome_from(row) for row in run_for_groups(db, _OF_THESE, by_scope_and_kind(refs))]


def outcomes_by_key(db: Connection, scope: str, kind: str, key: str) -> list[Outcome]:
    """Return the outcomes that stand of the operations made with an idempotency key."""
    rows = fetch(db, f"{_OF_THESE} WHERE scope = ? AND kind = ? AND key = ?", (scope, kind, text(key)))
    return [outcome_from(row) for row in rows]


def conflicts(db: Connection, ref: OperationRef) -> list[Outcome]:
    """Return the later outcomes that differ from the first, oldest first."""
    rows = fetch(
        db,
        f"SELECT {OUTCOME_COLUMNS} FROM conflict WHERE scope = ? AND kind = ? AND uid = ? ORDER BY seq",
        (ref.scope, ref.kind, text(ref.uid)),
    )
    return [outcome_from(row) for row in rows]


def with_contradictions(db: Connection, refs: Sequence[OperationRef]) -> list[tuple[Outcome, Outcome | None]]:
    """Return the outcomes that stand, each with the confirmed one that contradicts it, if there is one."""
    of_these = f"SELECT {OUTCOME_COLUMNS} FROM conflict"
    later: dict[OperationRef, list[Outcome]] = {}
    for row in run_for_groups(db, of_these, by_scope_and_kind(refs), then="AND confirmed ORDER BY seq"):
        later.setdefault((one := outcome_from(row)).ref, []).append(one)
    return [(first, contradiction(first, later.get(first.ref, ()))) for first in outcomes(db, refs)]


def newest_seq(db: Connection) -> int:
    """Return the place of the newest outcome, 0 if there is none."""
    return int(fetch(db, "SELECT max(seq) FROM outcome")[0][0] or 0)


def refs_after(db: Connection, seq: int, limit: int) -> list[tuple[int, str, str, str]]:
    """Return place, scope, kind and uid of the next outcomes after a place; places are given in the order of commits."""
    return fetch(db, "SELECT seq, scope, kind, uid FROM outcome WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit))


def record(session: Session, some: Sequence[PackedOutcome], keep: Keep) -> list[Recorded]:
    """Record how operations ended; the first outcome of each stands."""
    if not some:
        return []
    refs = [packed.outcome.ref for packed in some]
    standing = {one.ref: one for one in outcomes(session.db, refs)}
    first = [packed for packed in some if standing.setdefault(packed.outcome.ref, packed.outcome) is packed.outcome]
    session.insert("outcome", OUTCOME_COLUMNS, [packed.row for packed in first])
    conflicting: list[PackedOutcome] = []
    recorded: list[Recorded] = []
    for packed in some:
        outcome, stands = packed.outcome, standing[packed.outcome.ref]
        verdict = Verdict.FIRST
        if stands is not outcome:
            verdict = Verdict.SAME if agree(stands, outcome) else Verdict.CONFLICT
        if verdict is Verdict.SAME:
            stands = standing[outcome.ref] = _add_to(session, stands, outcome)
        elif verdict is Verdict.CONFLICT:
            conflicting.append(packed)
        recorded.append(Recorded(verdict=verdict, outcome=stands))
    ended = [one.outcome.ref for one in some if one.outcome.confirmed]
    session.news += [News(settled=standing[packed.outcome.ref]) for packed in first]
    _end_waiting(session, [*(packed.outcome.ref for packed in first), *ended])
    for packed in conflicting:
        outcome, stands = packed.outcome, standing[packed.outcome.ref]
        unknown = keep(session, [Arrival(conflict_event(stands, outcome), session.wall)])
        counts = contradiction(stands, (*conflicts(session.db, outcome.ref), outcome))
        if unknown or counts is outcome:
            session.insert("conflict", OUTCOME_COLUMNS, [packed.row])
        if counts is not None:
            _move_to_end(session, outcome.ref)
            session.news.append(News(confirmed=counts))
    return recorded


def _add_to(session: Session, first: Outcome, later: Outcome) -> Outcome:
    """Add to a first outcome what a later one that says the same knows more."""
    more = evolve(first, key=first.key or later.key, confirmed=first.confirmed or later.confirmed)
    if more == first:
        return first
    session.for_refs(
        "UPDATE outcome SET key = ?, confirmed = ?", [first.ref], text(more.key) if more.key else None, more.confirmed
    )
    if more.confirmed and not first.confirmed:
        _move_to_end(session, first.ref)
        session.news.append(News(confirmed=more))
    return more


def _move_to_end(session: Session, ref: OperationRef) -> None:
    """Give an outcome a new place, so that others find it again."""
    session.db.execute("UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'outcome'")
    session.for_refs("UPDATE outcome SET seq = (SELECT seq FROM sqlite_sequence WHERE name = 'outcome')", [ref])


def _end_waiting(session: Session, refs: Sequence[OperationRef]) -> None:
    """Poll operations no longer, and wake those that wait for them in other processes."""
    groups = by_scope_and_kind(refs)
    session.for_groups("DELETE FROM pending", groups)
    waiting = session.for_groups("DELETE FROM interest", groups, then="RETURNING process")
    if waiting:
        session.hint(OUTCOMES, set(chain.from_iterable(waiting)))
