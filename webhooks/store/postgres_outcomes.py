"""How a `PostgresStore` records and finds outcomes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rewards_core.errors import StoreError
from rewards_core.operations import OperationRef
from rewards_core.postgres.connection import columns_of
from webhooks.store.hints import Notification
from webhooks.store.outcomes import conflict_event, contradiction
from webhooks.store.postgres_rows import GIVEN_REFS, IS_GIVEN, delete_refs, for_refs, refs_of, text
from webhooks.store.records import Outcome, Recorded, StoredOutcome
from webhooks.store.rows import OUTCOME_COLUMNS, outcome_from
from webhooks.store.verdicts import judge

if TYPE_CHECKING:
    from rewards_core.operations import Event
    from rewards_core.postgres.connection import Connection
    from webhooks.store.postgres_session import Change
    from webhooks.store.queries import OutcomeQuery
    from webhooks.store.rows import PackedOutcome

Place = tuple[int, list[int]]
"""A snapshot: the first transaction that had not begun, and those that had begun but not ended."""
Keep = Callable[["Change", Sequence["Event"]], Awaitable[bool]]
"""Keeps events and returns whether any was new."""

_OUTCOME = ", ".join(f"outcome.{column}" for column in OUTCOME_COLUMNS.split(", "))
_CONFLICT = ", ".join(f"conflict.{column}" for column in OUTCOME_COLUMNS.split(", "))
_IS_DISPUTED = f"EXISTS (SELECT FROM conflict WHERE {IS_GIVEN.format('conflict')})"
_ARRAYS = "$1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::float8[], $8::text[], $9::bool[]"
_INSERT = (
    f"INSERT INTO outcome ({OUTCOME_COLUMNS}, recorded_at) SELECT *, now_s() FROM unnest({_ARRAYS}) "
    "ON CONFLICT DO NOTHING RETURNING scope, kind, uid, transaction"
)
_INSERT_CONFLICT = f"INSERT INTO conflict ({OUTCOME_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
_SNAPSHOT = (
    "pg_snapshot_xmax(pg_current_snapshot())::text::bigint, ARRAY(SELECT pg_snapshot_xip(pg_current_snapshot())::text::bigint)"
)
_AFTER = (
    f"SELECT {_SNAPSHOT}, array_agg(scope), array_agg(kind), array_agg(uid), array_agg(transaction) "
    "FROM (SELECT scope, kind, uid, transaction FROM outcome "
    "WHERE (transaction >= $1 AND transaction < (SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint)) "
    "OR transaction = ANY($2::bigint[]) ORDER BY seq) AS found"
)
"""Outcomes of the transactions that an earlier snapshot did not see: their numbers are not in the order of the commits."""


async def outcomes(db: Connection, refs: Iterable[OperationRef]) -> list[Outcome]:
    return [outcome_from(row) for row in await for_refs(db, f"SELECT {_OUTCOME}", "outcome", refs)]


async def outcomes_by_key(db: Connection, scope: str, kind: str, key: str) -> list[Outcome]:
    found = f"SELECT {_OUTCOME} FROM outcome WHERE scope = $1 AND kind = $2 AND key = $3"
    return [outcome_from(row) for row in await db.fetch(found, scope, kind, text(key))]


async def conflicts(db: Connection, refs: Iterable[OperationRef]) -> dict[OperationRef, list[Outcome]]:
    """Return the later outcomes that differ from the first, oldest first, by operation."""
    found: dict[OperationRef, list[Outcome]] = {}
    for row in await for_refs(db, f"SELECT {_CONFLICT}", "conflict", refs, "ORDER BY conflict.seq"):
        outcome = outcome_from(row)
        found.setdefault(outcome.ref, []).append(outcome)
    return found


async def with_contradictions(db: Connection, refs: Sequence[OperationRef]) -> list[tuple[Outcome, Outcome | None]]:
    """Return first outcomes, each with the confirmed outcome that contradicts it, if there is one."""
    rows = [tuple(row) for row in await for_refs(db, f"SELECT {_IS_DISPUTED}, {_OUTCOME}", "outcome", refs)]
    first = [(disputed, outcome_from(row)) for disputed, *row in rows]
    later = await conflicts(db, [outcome.ref for disputed, outcome in first if disputed])
    return [(outcome, contradiction(outcome, later.get(outcome.ref, ()))) for _, outcome in first]


async def newest(db: Connection) -> Place:
    row = await db.fetchrow(f"SELECT {_SNAPSHOT}")
    return row[0], row[1]


async def after(db: Connection, place: Place) -> tuple[list[tuple[OperationRef, int]], Place]:
    """Return the operations, each with its transaction, whose outcomes an earlier snapshot did not see, and the present one."""
    xmax, running, *columns = await db.fetchrow(_AFTER, *place)
    rows = zip(*(column or () for column in columns), strict=True)
    return [(OperationRef(scope, kind, uid), transaction) for scope, kind, uid, transaction in rows], (xmax, running)


async def record(change: Change, some: Sequence[PackedOutcome], keep: Keep) -> list[Recorded]:
    """Record outcomes; the first outcome of each operation is final. `keep` keeps the events of conflicts."""
    if not some:
        return []
    db = change.db
    await change.lock_pending(packed.outcome.ref for packed in some)
    known = await _claim(change, some)
    verdicts = judge(known, some)
    standing = verdicts.standing
    if verdicts.changed:
        changed = [standing[ref] for ref in verdicts.changed]
        rows = [(*_key_of(one.ref), text(one.key) if one.key else None, one.confirmed) for one in changed]
        await db.execute(
            "UPDATE outcome SET key = given.key, confirmed = given.confirmed FROM unnest($1::text[], $2::text[], $3::text[], "
            f"$4::text[], $5::bool[]) AS given (scope, kind, uid, key, confirmed) WHERE {IS_GIVEN.format('outcome')}",
            *columns_of(rows, 5),
        )
    if verdicts.confirmed:
        await _move_to_end(change, [outcome.ref for outcome in verdicts.confirmed])
    change.notifications += [Notification(confirmed=outcome) for outcome in verdicts.confirmed]
    change.notifications += [Notification(settled=standing[packed.outcome.ref]) for packed in verdicts.first]
    ended = [one.outcome.ref for one in some if one.outcome.confirmed] + [packed.outcome.ref for packed in verdicts.first]
    await delete_refs(db, "pending", ended)
    change.settle(ended, await delete_refs(db, "interest", ended, "ARRAY[process, scope, kind, uid]"))
    for packed in verdicts.conflicting:
        outcome, stands = packed.outcome, standing[packed.outcome.ref]
        is_new = await keep(change, [conflict_event(stands, outcome)])
        counts = contradiction(stands, (*(await conflicts(db, [outcome.ref])).get(outcome.ref, ()), outcome))
        if is_new or counts is outcome:
            await db.execute(_INSERT_CONFLICT, *packed.row)
        if counts is not None:
            await _move_to_end(change, [outcome.ref])
            change.notifications.append(Notification(confirmed=counts))
    return verdicts.recorded


async def _claim(change: Change, some: Sequence[PackedOutcome]) -> list[Outcome]:
    """Insert the first outcome of each operation that has none, and return and lock those of the others."""
    first: dict[OperationRef, PackedOutcome] = {}
    for packed in some:
        first.setdefault(packed.outcome.ref, packed)
    rows = [first[ref].row for ref in sorted(first, key=_key_of)]
    found = await change.db.fetch(_INSERT, *columns_of(rows, 9))
    change.transaction = found[0]["transaction"] if found else None
    inserted = {OperationRef(scope, kind, uid) for scope, kind, uid, _ in found}
    others = [ref for ref in first if ref not in inserted]
    if not others:
        return []
    locked = await change.db.fetch(
        f"SELECT {_OUTCOME} FROM {GIVEN_REFS} JOIN outcome ON {IS_GIVEN.format('outcome')} "
        "ORDER BY given.scope, given.kind, given.uid FOR UPDATE OF outcome",
        *refs_of(others),
    )
    if len(locked) < len(others):
        raise StoreError("An outcome was purged while another one was recorded. Nothing was changed; repeat the call.")
    return [outcome_from(row) for row in locked]


def _key_of(ref: OperationRef) -> tuple[str, str, str]:
    return ref.scope, ref.kind, ref.uid


async def _move_to_end(change: Change, refs: Iterable[OperationRef]) -> None:
    """Give outcomes a new place, so that other processes read them again."""
    change.transaction = await change.db.fetchval(
        f"UPDATE outcome SET seq = DEFAULT, transaction = DEFAULT FROM {GIVEN_REFS} WHERE {IS_GIVEN.format('outcome')} "
        "RETURNING transaction",
        *refs_of(refs),
    )


async def listed_outcomes(db: Connection, query: OutcomeQuery) -> list[StoredOutcome]:
    """Return the outcomes that match, with their conflicts, newest first."""
    where, values = _outcome_conditions(query)
    found = f"SELECT seq, {_OUTCOME} FROM outcome WHERE {where} ORDER BY seq DESC LIMIT ${len(values) + 1}"
    first = {row[0]: outcome_from(row[1:]) for row in map(tuple, await db.fetch(found, *values, query.limit))}
    later = await conflicts(db, [outcome.ref for outcome in first.values()])
    return [StoredOutcome(id=seq, outcome=one, conflicts=tuple(later.get(one.ref, ()))) for seq, one in first.items()]


def _outcome_conditions(query: OutcomeQuery) -> tuple[str, list[Any]]:
    """Return the `WHERE` clause of a query and its values."""
    given: list[tuple[str, object]] = []
    if query.uid is not None:
        given.append(("uid = ", text(query.uid)))
    if query.scope is not None:
        given.append(("scope = ", query.scope))
    if query.kind is not None:
        given.append(("kind = ", query.kind))
    if query.status is not None:
        given.append(("status = ", query.status.value))
    if query.before_id is not None:
        given.append(("seq < ", query.before_id))
    clauses = [f"{clause}${place}" for place, (clause, _) in enumerate(given, 1)]
    if query.status is not None and query.status.value != "done":  # tells the planner that the partial index applies
        clauses.append("status <> 'done'")
    if query.conflicting:
        clauses.append("EXISTS (SELECT FROM conflict WHERE " + IS_GIVEN.format("conflict").replace("given.", "outcome.") + ")")
    return " AND ".join(clauses) or "true", [value for _, value in given]
