"""How a `PostgresStore` keeps pending operations, and shares one budget of polls between processes."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import astuple, frozen

from rewards_core.operations import OperationRef, subject_of
from rewards_core.postgres.connection import columns_of
from webhooks.store.budget import HORIZON, RATE_HOLDS, Budget
from webhooks.store.members import RENEW_EVERY
from webhooks.store.postgres_outcomes import outcomes
from webhooks.store.postgres_rows import GIVEN_REFS, IS_GIVEN, LOCKED, ONCE, clean_ref, delete_refs, for_refs, text, text_or_none
from webhooks.store.queries import LATELY, by_poll_priority
from webhooks.store.readings import PollBudget, StoreActivity
from webhooks.store.records import Outcome, PendingOperation, PollClaim, PollClaims, PollPermit, PollResult, Priority
from webhooks.store.rows import ABOUT_KEPT, ONLY_ABOUT, PENDING_COLUMNS, each_once, pending_of

if TYPE_CHECKING:
    from rewards_core.postgres.connection import Connection
    from webhooks.store.members import Member
    from webhooks.store.postgres_session import Change

logger = logging.getLogger(__name__)

_BUDGET_COLUMNS = "next_at, abandoned_at, further_at, paused_until, refusals"
_PENDING = ", ".join(f"pending.{column}" for column in PENDING_COLUMNS.split(", "))
_PRIORITIES = f"unnest(ARRAY{[one.value for one in Priority]}) AS rank"
HURRIED = (
    "priority = least(pending.priority, excluded.priority), attempt = {attempt}, fence = NULL, "
    "due_at = CASE WHEN pending.fence IS NULL THEN least(pending.due_at, excluded.due_at) ELSE excluded.due_at END"
)
"""What changes where an operation that is hurried is pending."""
_AT_THE_LATEST = (  # the poll in flight may otherwise postpone the operation; an urgent one is due again soon
    "due_at = CASE WHEN pending.fence IS NULL THEN least(pending.due_at, excluded.due_at) "
    "WHEN pending.priority >= 3 THEN excluded.due_at ELSE pending.due_at END, "
    "fence = CASE WHEN pending.priority >= 3 THEN NULL ELSE pending.fence END"
)
_STATE = (
    f"SELECT now_s() AS now, {_BUDGET_COLUMNS}, ARRAY(SELECT (SELECT due_at FROM pending WHERE scope = $1 AND priority = rank "
    f"ORDER BY due_at LIMIT 1) FROM {_PRIORITIES} ORDER BY rank) AS due, "
    "(SELECT max(due_at) FROM pending WHERE scope = $1 AND fence IS NOT NULL) AS under_way "
    "FROM (SELECT $1::text AS asked) AS given LEFT JOIN budget ON scope = asked"
)
_DUE = (
    "SELECT kind, uid, priority, polls, attempt, missing, missing_at, about "
    f"FROM {_PRIORITIES}, LATERAL (SELECT * FROM pending WHERE scope = $1 AND priority = rank AND due_at <= $2 "
    "ORDER BY due_at LIMIT CASE WHEN rank = 4 THEN $4::bigint ELSE $3::bigint END FOR UPDATE SKIP LOCKED) AS found "
    "ORDER BY priority, due_at"
)

BYTES_OF_A_REF = 400
"""About what an operation weighs in a batch, whose rows and indexes must be written within the time of one statement."""


@frozen(kw_only=True)
class Watch:
    """A call of `watch`; its refs are clean."""

    refs: Sequence[OperationRef]
    poll_in: float
    confirmed: bool
    waiter: str

    @property
    def size(self) -> int:
        """About how many bytes it has."""
        return len(self.refs) * BYTES_OF_A_REF

    def settled_by(self, known: Mapping[OperationRef, Outcome]) -> set[OperationRef]:
        return {ref for ref in self.refs if ref in known and (known[ref].confirmed or not self.confirmed)}


_MENTIONED = (
    "SELECT scope, kind, uid FROM unnest($1::text[], $2::text[], $3::text[]) AS given (scope, kind, uid) WHERE EXISTS ("
    "SELECT FROM event WHERE event.uid = given.uid AND event.kind = given.kind AND event.scope = given.scope "
    "AND problem IS NULL AND received_at > now_s() - $4 OFFSET 0) OR EXISTS ("
    "SELECT FROM also JOIN event ON event.id = event_id WHERE also.uid = given.uid AND also.kind = given.kind "
    "AND event.scope = given.scope AND problem IS NULL AND received_at > now_s() - $4 OFFSET 0)"
)


async def watch(change: Change, calls: Sequence[Watch]) -> tuple[dict[OperationRef, Outcome], set[OperationRef]]:
    """Register interest in operations without an outcome that counts; return all outcomes, and the operations watched."""
    await change.register()
    known = {one.ref: one for one in await outcomes(change.db, {ref for call in calls for ref in call.refs})}
    due_in: dict[OperationRef, float] = {}
    waiters: set[tuple[str, str, str, str]] = set()
    for call in calls:
        settled = call.settled_by(known)
        for ref in call.refs:
            if ref not in settled:
                due_in[ref] = min(call.poll_in, due_in.get(ref, math.inf))
                waiters.add((ref.scope, ref.kind, ref.uid, text(call.waiter)))
    raised = f"{ABOUT_KEPT}, watched = true, priority = least(pending.priority, excluded.priority), {_AT_THE_LATEST}"
    refs = (ref for call in calls for ref in call.refs)
    await _add(change, refs, due_in, Priority.ROUTINE, watched=True, then=raised)
    await change.db.execute(
        "INSERT INTO interest (scope, kind, uid, process, waiter) SELECT scope, kind, uid, $5, waiter FROM "
        "unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS given (scope, kind, uid, waiter) ON CONFLICT DO NOTHING",
        *(*columns_of(sorted(waiters), 4), change.member.id),
    )
    await _hurry_mentioned(change, [ref for call in calls for ref in call.refs if ref in due_in])
    return known, set(due_in)


async def unwatch(change: Change, left: Collection[tuple[OperationRef, str]]) -> None:
    """Remove the interest of waiters in operations."""
    await change.lock_pending({ref for ref, _ in left})  # before their interest changes, as `watch` does
    gone = await change.db.fetch(
        "DELETE FROM interest USING unnest($1::text[], $2::text[], $3::text[], $4::text[]) AS given (scope, kind, uid, waiter) "
        f"WHERE {IS_GIVEN.format('interest')} AND process = $5 AND interest.waiter = given.waiter "
        "RETURNING interest.scope, interest.kind, interest.uid",
        *(*columns_of(sorted({(ref.scope, ref.kind, ref.uid, text(waiter)) for ref, waiter in left}), 4), change.member.id),
    )
    if gone:
        await change.abandon({OperationRef(*row) for row in gone})


async def add(change: Change, calls: Sequence[tuple[Sequence[OperationRef], float]]) -> None:
    given: list[OperationRef] = []
    due_in: dict[OperationRef, float] = {}
    for some, poll_in in calls:
        refs = list(map(clean_ref, some))
        given += refs
        due_in = dict.fromkeys(refs, poll_in) | due_in
    settled = {outcome.ref for outcome in await outcomes(change.db, due_in)}
    fresh = {ref: poll_in for ref, poll_in in due_in.items() if ref not in settled}
    await _add(change, given, fresh, Priority.ABANDONED, watched=False, then=ONLY_ABOUT)
    await _hurry_mentioned(change, [ref for ref in given if ref in fresh])
    if fresh:
        await change.hint_polls(ref.scope for ref in fresh)


async def remove(change: Change, refs: Sequence[OperationRef]) -> int:
    removed = await delete_refs(change.db, "pending", refs)
    await delete_refs(change.db, "interest", refs)
    return len(removed)


async def hurry(change: Change, refs: Sequence[OperationRef], priority: Priority) -> None:
    if not refs:
        return
    raised = HURRIED.format(attempt=0 if priority is Priority.LOOKUP else "pending.attempt")
    given, unless_claimed = list(map(clean_ref, refs)), ""
    at_once = dict.fromkeys(given, 0.0)
    if priority is Priority.DEADLINE:
        unless_claimed = "WHERE pending.fence IS NULL"
        told = {ref: 0.0 for ref in given if ref.about is not None}
        await _add(change, given, told, priority, watched=False, then=ONLY_ABOUT)
    await _add(change, given, at_once, priority, watched=False, then=f"{ABOUT_KEPT}, {raised} {unless_claimed}")
    await change.hint_polls(ref.scope for ref in refs)


async def _hurry_mentioned(change: Change, refs: Sequence[OperationRef]) -> None:
    """Request polls of pending operations about something that an event mentioned lately."""
    subjects = sorted({(ref.scope, *ref.about.split("/", 1)) for ref in refs if ref.about is not None and "/" in ref.about})
    if subjects:
        found = await change.db.fetch(_MENTIONED, *columns_of(subjects, 3), LATELY)
        mentioned = {(scope, subject_of(kind, uid)) for scope, kind, uid in found}
        for priority, hurried in by_poll_priority(ref for ref in refs if (ref.scope, ref.about) in mentioned).items():
            await hurry(change, hurried, priority)


async def next_in(db: Connection, scope: str) -> tuple[float, float]:
    """Return the seconds until a claim may succeed, infinity if nothing is pending, and the database's time."""
    state = await db.fetchrow(_STATE, scope)
    now, budget = state["now"], _budget_of(state)
    due = _first_due(state, budget)
    if budget.refusals and due < math.inf:
        due = max(due, _under_way_until(state, now))
    return (max(0.0, due - now, budget.starts_at(now) - HORIZON - now) if due < math.inf else math.inf), now


async def claim(change: Change, scope: str, limit: int, lease: float, max_per_second: float) -> PollClaims:
    budget, now, state = await _lock_budget(change, scope)
    rate = await _agreed_rate(change, scope, max_per_second)
    room = 0 if budget.refusals and _under_way_until(state, now) > now else budget.room(now, limit, rate)
    rows: list[Any] = []
    if room:
        rows = (await change.db.fetch(_DUE, scope, now, room, min(room, 1 if budget.abandoned_at <= now else 0)))[:room]
    abandoned = any(row["priority"] == Priority.ABANDONED for row in rows)
    claims = [
        PollClaim(
            ref=OperationRef(scope, row["kind"], row["uid"], row["about"]),
            priority=Priority(row["priority"]),
            polls=row["polls"],
            attempt=row["attempt"],
            start_in=budget.starts_at(now) + number * budget.spacing(rate) - now,
            refusals=budget.refusals,
            missing=row["missing"],
            missing_for=now - row["missing_at"] if row["missing"] else 0.0,
            fence=change.member.new_fence(),
        )
        for number, row in enumerate(rows)
    ]
    if claims:
        await change.db.execute(
            "UPDATE pending SET due_at = $5, fence = given.fence FROM unnest($1::text[], $2::text[], $3::text[], $4::text[]) "
            f"AS given (scope, kind, uid, fence) WHERE {IS_GIVEN.format('pending')}",
            *columns_of([(scope, one.ref.kind, one.ref.uid, one.fence) for one in claims], 4),
            now + lease,
        )
        await _write_budget(change, scope, budget.take(now, len(claims), rate, abandoned=abandoned))
        change.count_polls(len(claims))
    wait, _ = await next_in(change.db, scope)
    return PollClaims(claims=claims, next_in=wait)


async def permit(change: Change, scope: str, max_per_second: float) -> PollPermit:
    budget, now, state = await _lock_budget(change, scope)
    rate = await _agreed_rate(change, scope, max_per_second)
    ask_in = budget.further_in(now, due=_first_due(state, budget) <= now)
    if ask_in:
        return PollPermit(granted=False, seconds=ask_in)
    await _write_budget(change, scope, budget.take_further(now, rate))
    change.count_polls(1)
    return PollPermit(granted=True, seconds=budget.starts_at(now) - now)


async def settle(change: Change, results: Sequence[PollResult]) -> None:
    now = await change.now()
    await change.lock_pending([result.claim.ref for result in results])
    rows: list[tuple[Any, ...]] = []
    for result in results:
        claim, ref = result.claim, result.claim.ref
        attempt = claim.attempt + result.counted if result.priority is claim.priority else 0
        missing = claim.missing if result.known is None else 0 if result.known else claim.missing + 1
        answer = (now + result.retry_in, int(result.counted), attempt, missing, result.priority.value)
        rows.append((ref.scope, ref.kind, text(ref.uid), claim.fence, *answer, text_or_none(result.about)))
    await change.db.execute(
        "UPDATE pending SET due_at = given.due_at, polls = pending.polls + given.polls, attempt = given.attempt, fence = NULL, "
        "missing = given.missing, missing_at = CASE pending.missing WHEN 0 THEN $11 ELSE missing_at END, "
        f"priority = CASE WHEN given.priority < {Priority.ROUTINE.value} THEN given.priority WHEN watched THEN 3 ELSE 4 END, "
        "about = coalesce(pending.about, given.about) "
        "FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::float8[], $6::int[], $7::int[], $8::int[], "
        "$9::smallint[], $10::text[]) AS given (scope, kind, uid, fence, due_at, polls, attempt, missing, priority, about) "
        f"WHERE {IS_GIVEN.format('pending')} AND pending.fence = given.fence",
        *(*columns_of(rows, 10), now),
    )


async def resume(change: Change, scope: str) -> None:
    budget, now, _ = await _lock_budget(change, scope)
    await _write_budget(change, scope, budget.answered(now))


async def pause(change: Change, scope: str, seconds: float, *, refused: bool) -> None:
    budget, now, _ = await _lock_budget(change, scope)
    await _write_budget(change, scope, budget.pause(now, seconds, refused=refused))


async def listed_pending(
    db: Connection,
    scope: str | None,
    kind: str | None,
    uid: str | None,
    after: OperationRef | None,
    limit: int,
) -> list[PendingOperation]:
    """Return the pending operations that match, in the order of their refs."""
    uid = None if uid is None else text(uid)
    given = [(name, value) for name, value in (("scope", scope), ("kind", kind), ("uid", uid)) if value is not None]
    clauses = [f"{name} = ${place}" for place, (name, _) in enumerate(given, 1)]
    values: list[Any] = [value for _, value in given]
    if after is not None:
        clauses.append("(scope, kind, uid) > (${}, ${}, ${})".format(*range(len(values) + 1, len(values) + 4)))
        values += [after.scope, after.kind, text(after.uid)]
    where = " AND ".join(clauses) or "true"
    rows = await db.fetch(
        f"SELECT now_s(), {_PENDING} FROM pending WHERE {where} ORDER BY scope, kind, uid LIMIT ${len(values) + 1}",
        *values,
        limit,
    )
    return [pending_of(row, now) for now, *row in rows]


async def pending(db: Connection, refs: Sequence[OperationRef]) -> list[PendingOperation]:
    return [pending_of(row, now) for now, *row in await for_refs(db, f"SELECT now_s(), {_PENDING}", "pending", refs)]


async def _add(
    change: Change,
    refs: Iterable[OperationRef],
    due_in: Mapping[OperationRef, float],
    priority: Priority,
    *,
    watched: bool,
    then: str,
) -> None:
    """Add the operations in `due_in`, by clean refs with the seconds until they are due; `then` changes those that exist."""
    if due_in:
        added = (ref for ref in each_once(refs) if ref in due_in)
        rows = sorted((ref.scope, ref.kind, ref.uid, due_in[ref], ref.about) for ref in added)
        await change.db.execute(
            f"WITH locked AS MATERIALIZED ({LOCKED.format(given=GIVEN_REFS)}) "
            "INSERT INTO pending (scope, kind, uid, added_at, due_at, polls, priority, attempt, watched, about) "
            "SELECT scope, kind, uid, $6::float8, $6::float8 + due_in, 0, $7::smallint, 0, $8::bool, about FROM "
            "unnest($1::text[], $2::text[], $3::text[], $4::float8[], $5::text[]) AS given (scope, kind, uid, due_in, about) "
            f"WHERE {ONCE.format('locked')} "
            f"ON CONFLICT (scope, kind, uid) DO UPDATE SET {then}",
            *(*columns_of(rows, 5), await change.now(), priority.value, watched),
        )


def _budget_of(state: Any) -> Budget:
    return Budget() if state["next_at"] is None else Budget(*(state[name] for name in _BUDGET_COLUMNS.split(", ")))


def _first_due(state: Any, budget: Budget) -> float:
    """Return when the first operation is due, whatever the budget; infinity if nothing is pending."""
    due = math.inf
    for priority, first in zip(Priority, state["due"], strict=True):
        if first is not None:
            due = min(due, first if priority < Priority.ABANDONED else max(first, budget.abandoned_at))
    return due


def _under_way_until(state: Any, now: float) -> float:
    """Return when the last claim expires, `now` if there is none."""
    return max(now, state["under_way"] or now)


async def _lock_budget(change: Change, scope: str) -> tuple[Budget, float, Any]:
    """Lock the budget of a scope; return it, the time, and what is due."""
    locked = "SELECT 1 FROM budget WHERE scope = $1 FOR UPDATE"
    if not await change.db.fetchval(locked, scope):
        await change.db.execute(
            f"INSERT INTO budget (scope, {_BUDGET_COLUMNS}) VALUES ($1, 0, 0, 0, 0, 0) ON CONFLICT DO NOTHING", scope
        )
        await change.db.fetchval(locked, scope)
    state = await change.db.fetchrow(_STATE, scope)
    return _budget_of(state), state["now"], state


async def _write_budget(change: Change, scope: str, budget: Budget) -> None:
    await change.db.execute(
        f"UPDATE budget SET ({_BUDGET_COLUMNS}) = ROW($2, $3, $4, $5, $6) WHERE scope = $1", scope, *astuple(budget)
    )


async def _agreed_rate(change: Change, scope: str, max_per_second: float) -> float:
    """Return the lowest rate that a process has allowed recently; processes with a higher one log that once."""
    member, now = change.member, await change.now()
    if must_write_rate(member, scope, max_per_second, now):
        await change.register()
        await change.write_rate(scope, max_per_second)
    lowest = await change.db.fetchval(
        "SELECT min(per_second) FROM rate WHERE scope = $1 AND seen_at > $2", scope, now - RATE_HOLDS
    )
    agreed = max_per_second if lowest is None else min(float(lowest), max_per_second)
    if agreed < max_per_second and agreed != member.agreed.get(scope):
        logger.warning(
            "polls of scope %s: another process allows max_per_second=%g, this one %g. The lower one applies: use one value.",
            scope,
            agreed,
            max_per_second,
        )
        member.agreed[scope] = agreed
    return agreed


def must_write_rate(member: Member, scope: str, per_second: float, now: float) -> bool:
    """Return whether other processes may forget soon what this one allows."""
    return abs(now - member.rates.get((scope, per_second), -math.inf)) >= RENEW_EVERY


async def activity(db: Connection, member: Member) -> StoreActivity:
    """Return who waits and polls."""
    processes = await db.fetch(
        "SELECT id, now_s() - renewed_at, (SELECT count(*) FROM interest WHERE interest.process = process.id), report "
        "FROM process WHERE alive ORDER BY id"
    )
    budgets = await db.fetch(
        "WITH rates AS (SELECT scope, min(per_second) AS per_second FROM rate "
        f"WHERE seen_at > now_s() - {RATE_HOLDS} GROUP BY scope) "
        "SELECT scope, per_second, coalesce(paused_until, 0) - now_s(), coalesce(refusals, 0) > 0 "
        "FROM budget FULL JOIN rates USING (scope) ORDER BY scope"
    )
    return StoreActivity(
        processes=[member.activity_of(*row) for row in processes],
        budgets=[
            PollBudget(scope=scope, per_second=per_second, paused_for=max(0.0, paused_for), refused=refused)
            for scope, per_second, paused_for, refused in budgets
        ],
    )
