"""How a `SQLiteStore` keeps pending operations, and shares one budget of polls between processes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from attrs import astuple

from rewards_core.operations import OperationRef, subject_of
from rewards_core.sqlite.connection import fetch
from webhooks.store.budget import HORIZON, RATE_HOLDS, Budget
from webhooks.store.members import RENEW_EVERY
from webhooks.store.queries import LATELY, MAX_DEPENDENTS, by_poll_priority
from webhooks.store.readings import PollBudget, StoreActivity
from webhooks.store.records import Outcome, PendingOperation, PollClaim, PollClaims, PollPermit, PollResult, Priority
from webhooks.store.rows import (
    ABOUT_KEPT,
    ONLY_ABOUT,
    PENDING_COLUMNS,
    each_once,
    pending_of,
    text,
    text_or_none,
)
from webhooks.store.sqlite_outcomes import outcomes
from webhooks.store.sqlite_rows import (
    batches,
    for_refs,
    insert,
    placeholders,
    scopes_and_kinds,
)

if TYPE_CHECKING:
    from rewards_core.sqlite.connection import Connection
    from webhooks.store.members import Member
    from webhooks.store.sqlite_session import Session

logger = logging.getLogger(__name__)

_BUDGET_COLUMNS = "next_at, abandoned_at, further_at, paused_until, refusals"
_AT_THE_LATEST = (  # the poll in flight may otherwise postpone the operation; an urgent one is due again soon
    "due_at = CASE WHEN pending.fence IS NULL THEN min(pending.due_at, excluded.due_at) "
    "WHEN pending.priority >= 3 THEN excluded.due_at ELSE pending.due_at END, "
    "fence = CASE WHEN pending.priority >= 3 THEN NULL ELSE pending.fence END"
)


_MENTIONED = (
    "SELECT DISTINCT scope, kind || '/' || uid FROM event WHERE uid = ? AND received_at > ? AND problem IS NULL",
    "SELECT DISTINCT scope, also.kind || '/' || also.uid FROM also JOIN event ON id = event_id AND problem IS NULL "  # noqa: ISC004
    "WHERE also.uid = ? AND received_at > ?",
)


def watch(session: Session, refs: Sequence[OperationRef], poll_in: float, *, confirmed: bool, waiter: str) -> list[Outcome]:
    """Register interest in operations without an outcome that counts, and return all outcomes."""
    session.register()
    known = outcomes(session.db, refs)
    settled = {outcome.ref for outcome in known if outcome.confirmed or not confirmed}
    watched = [ref for ref in each_once(refs) if ref not in settled]
    raised = f"{ABOUT_KEPT}, watched = 1, priority = min(pending.priority, excluded.priority), {_AT_THE_LATEST}"
    _add(session, watched, poll_in, Priority.ROUTINE, watched=1, then=raised)
    insert(
        session.db,
        "interest",
        "scope, kind, uid, process, watcher",
        [(ref.scope, ref.kind, text(ref.uid), session.member.id, waiter) for ref in watched],
        then="ON CONFLICT DO NOTHING",
    )
    _hurry_mentioned(session, watched)
    return known


def unwatch(session: Session, refs: Sequence[OperationRef], waiter: str) -> None:
    for ref in refs:
        row = (ref.scope, ref.kind, text(ref.uid))
        session.db.execute(
            "DELETE FROM interest WHERE scope = ? AND kind = ? AND uid = ? AND process = ? AND watcher = ?",
            (*row, session.member.id, waiter),
        )
        if session.db.changes():
            session.abandon(*row)


def add(session: Session, refs: Sequence[OperationRef], poll_in: float) -> None:
    settled = {outcome.ref for outcome in outcomes(session.db, refs)}
    fresh = [ref for ref in each_once(refs) if ref not in settled]
    _add(session, fresh, poll_in, Priority.ABANDONED, watched=0, then=ONLY_ABOUT)
    _hurry_mentioned(session, fresh)
    for scope in {ref.scope for ref in fresh}:
        session.hint_polls(scope)


def remove(session: Session, refs: Sequence[OperationRef]) -> int:
    removed = for_refs(session.db, "DELETE FROM pending", list(dict.fromkeys(refs)), then="RETURNING 1")
    for_refs(session.db, "DELETE FROM interest", refs)
    return len(removed)


def hurry(session: Session, refs: Sequence[OperationRef], priority: Priority) -> None:
    if not refs:
        return
    refs, unless_claimed = each_once(refs), ""
    if priority is Priority.DEADLINE:
        unless_claimed = "WHERE pending.fence IS NULL"
        _add(session, [ref for ref in refs if ref.about is not None], 0.0, priority, watched=0, then=ONLY_ABOUT)
    attempt = 0 if priority is Priority.LOOKUP else "pending.attempt"
    raised = (
        f"{ABOUT_KEPT}, priority = min(pending.priority, excluded.priority), attempt = {attempt}, fence = NULL, "
        f"due_at = CASE WHEN pending.fence IS NULL THEN min(pending.due_at, excluded.due_at) ELSE excluded.due_at END "
        f"{unless_claimed}"
    )
    _add(session, refs, 0.0, priority, watched=0, then=raised)
    for scope in {ref.scope for ref in refs}:
        session.hint_polls(scope)


def dependents(db: Connection, things: Iterable[OperationRef]) -> list[OperationRef]:
    """Return the pending operations that are about some things, `MAX_DEPENDENTS` of each at most."""
    scopes: dict[str, dict[str, None]] = {}
    for thing in things:
        scopes.setdefault(thing.scope, {})[text(subject_of(thing.kind, thing.uid))] = None
    found: list[OperationRef] = []
    for scope, subjects in scopes.items():
        for batch in batches(list(subjects)):  # of most batches nothing is pending, which one lookup tells
            known = f"SELECT 1 FROM pending WHERE scope = ? AND about IN {placeholders(len(batch))} LIMIT 1"
            for subject in dict.fromkeys(batch) if fetch(db, known, (scope, *batch)) else ():
                of_one = "SELECT kind, uid FROM pending WHERE scope = ? AND about = ? LIMIT ?"
                found += [OperationRef(scope, *row) for row in fetch(db, of_one, (scope, subject, MAX_DEPENDENTS))]
    return found


def _hurry_mentioned(session: Session, refs: Sequence[OperationRef]) -> None:
    """Request polls of operations about something that an event mentioned lately."""
    concerned = [ref for ref in refs if ref.about is not None]
    found: set[tuple[str, str]] = set()
    uids = {text(ref.about.partition("/")[2]) for ref in concerned if ref.about is not None}
    for uid in uids:
        for statement in _MENTIONED:
            found.update(fetch(session.db, statement, (uid, session.wall - LATELY)))
    for priority, mentioned in by_poll_priority(ref for ref in concerned if (ref.scope, text(ref.about or "")) in found).items():
        hurry(session, mentioned, priority)


def next_in(db: Connection, scope: str, now: float) -> float:
    """Return the seconds until a claim may succeed, infinity if nothing is pending."""
    budget = _budget(db, scope)
    due = _first_due(db, scope, budget)
    if budget.refusals and due < math.inf:
        due = max(due, _under_way_until(db, scope, now))
    return max(0.0, due - now, budget.starts_at(now) - HORIZON - now) if due < math.inf else math.inf


def claim(session: Session, scope: str, limit: int, lease: float, max_per_second: float) -> PollClaims:
    db, now = session.db, session.now
    budget, rate = _budget(db, scope), _agreed_rate(session, scope, max_per_second)
    room = 0 if budget.refusals and _under_way_until(db, scope, now) > now else budget.room(now, limit, rate)
    rows: list[tuple[str, str, int, int, int, int, float, str | None]] = []
    abandoned = False
    for priority in Priority:
        wanted = room - len(rows)
        if priority is Priority.ABANDONED:
            wanted = min(wanted, 1 if budget.abandoned_at <= now else 0)
        if wanted > 0:
            found = fetch(
                db,
                "SELECT kind, uid, priority, polls, attempt, missing, missing_at, about FROM pending "
                "WHERE scope = ? AND priority = ? AND due_at <= ? ORDER BY due_at LIMIT ?",
                (scope, priority.value, now, wanted),
            )
            rows += found
            abandoned = priority is Priority.ABANDONED and bool(found)
    claims: list[PollClaim] = []
    for number, (kind, uid, rank, polls, attempt, missing, missing_at, about) in enumerate(rows):
        fence = session.member.new_fence()
        db.execute(
            "UPDATE pending SET due_at = ?, fence = ? WHERE scope = ? AND kind = ? AND uid = ?",
            (now + lease, fence, scope, kind, uid),
        )
        claims.append(
            PollClaim(
                ref=OperationRef(scope, kind, uid, about),
                priority=Priority(rank),
                polls=polls,
                attempt=attempt,
                start_in=budget.starts_at(now) + number * budget.spacing(rate) - now,
                refusals=budget.refusals,
                missing=missing,
                missing_for=now - missing_at if missing else 0.0,
                fence=fence,
            )
        )
    if rows:
        session.member.polls += len(rows)
        _write_budget(session, scope, budget.take(now, len(rows), rate, abandoned=abandoned))
    return PollClaims(claims=claims, next_in=next_in(db, scope, now))


def permit(session: Session, scope: str, max_per_second: float) -> PollPermit:
    now = session.now
    budget, rate = _budget(session.db, scope), _agreed_rate(session, scope, max_per_second)
    ask_in = budget.further_in(now, due=_first_due(session.db, scope, budget) <= now)
    if ask_in:
        return PollPermit(granted=False, seconds=ask_in)
    session.member.polls += 1
    _write_budget(session, scope, budget.take_further(now, rate))
    return PollPermit(granted=True, seconds=budget.starts_at(now) - now)


def settle(session: Session, results: Sequence[PollResult]) -> None:
    for result in results:
        claim, ref = result.claim, result.claim.ref
        kept = result.priority is claim.priority
        routine = result.priority >= Priority.ROUTINE
        session.db.execute(
            "UPDATE pending SET due_at = ?, polls = polls + ?, attempt = ?, fence = NULL, missing = ?, "
            "missing_at = CASE missing WHEN 0 THEN ? ELSE missing_at END, "
            "priority = CASE WHEN ? THEN CASE watched WHEN 1 THEN 3 ELSE 4 END ELSE ? END, about = coalesce(about, ?) "
            "WHERE scope = ? AND kind = ? AND uid = ? AND fence = ?",
            (
                session.now + result.retry_in,
                result.counted,
                claim.attempt + result.counted if kept else 0,
                claim.missing if result.known is None else 0 if result.known else claim.missing + 1,
                session.now,
                routine,
                result.priority.value,
                text_or_none(result.about),
                ref.scope,
                ref.kind,
                text(ref.uid),
                claim.fence,
            ),
        )


def resume(session: Session, scope: str) -> None:
    _write_budget(session, scope, _budget(session.db, scope).answered(session.now))


def pause(session: Session, scope: str, seconds: float, refused: bool) -> None:
    _write_budget(session, scope, _budget(session.db, scope).pause(session.now, seconds, refused=refused))


def _add(session: Session, refs: Sequence[OperationRef], due_in: float, priority: Priority, *, watched: int, then: str) -> None:
    state = (session.wall, session.now + due_in, 0, priority.value, 0, watched, None)
    rows = [(ref.scope, ref.kind, text(ref.uid), *state, text_or_none(ref.about)) for ref in refs]
    insert(session.db, "pending", PENDING_COLUMNS, rows, then=f"ON CONFLICT DO UPDATE SET {then}")


def _first_due(db: Connection, scope: str, budget: Budget) -> float:
    """Return when the first operation is due, whatever the budget; infinity if nothing is pending."""
    due = math.inf
    for priority in Priority:
        first = fetch(
            db, "SELECT due_at FROM pending WHERE scope = ? AND priority = ? ORDER BY due_at LIMIT 1", (scope, priority.value)
        )
        if first:
            due = min(due, first[0][0] if priority < Priority.ABANDONED else max(first[0][0], budget.abandoned_at))
    return due


def _under_way_until(db: Connection, scope: str, now: float) -> float:
    """Return when the last claim expires, `now` if there is none."""
    claimed = "SELECT max(due_at) FROM pending WHERE scope = ? AND fence IS NOT NULL AND due_at > ?"
    return float(fetch(db, claimed, (scope, now))[0][0] or now)


def _budget(db: Connection, scope: str) -> Budget:
    row = fetch(db, f"SELECT {_BUDGET_COLUMNS} FROM budget WHERE scope = ?", (scope,))
    return Budget(*row[0]) if row else Budget()


def _write_budget(session: Session, scope: str, budget: Budget) -> None:
    insert(session.db, "budget", f"scope, {_BUDGET_COLUMNS}", [(scope, *astuple(budget))], verb="INSERT OR REPLACE")


def _agreed_rate(session: Session, scope: str, max_per_second: float) -> float:
    """Return the lowest rate that a process has allowed recently; processes with a higher one log that once."""
    member = session.member
    if session.now - member.rates.get((scope, max_per_second), -math.inf) >= RENEW_EVERY:
        session.register()
        session.write_rate(scope, max_per_second)
    lowest = fetch(
        session.db, "SELECT min(per_second) FROM rate WHERE scope = ? AND seen_at > ?", (scope, session.now - RATE_HOLDS)
    )[0][0]
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


def listed_pending(
    db: Connection,
    scope: str | None,
    kind: str | None,
    uid: str | None,
    after: OperationRef | None,
    limit: int,
    now: float,
) -> list[PendingOperation]:
    """Return the pending operations that match, in the order of their refs, by an index lookup for each scope and kind."""
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
    rows = for_refs(db, f"SELECT {PENDING_COLUMNS} FROM pending", dict.fromkeys(refs))
    return list({one.ref: one for one in (pending_of(row, now) for row in rows)}.values())


def activity(db: Connection, member: Member, now: float) -> StoreActivity:
    """Return who waits and polls."""
    processes = fetch(
        db,
        "SELECT id, ? - renewed_at, (SELECT count(*) FROM interest WHERE interest.process = process.id), report FROM process "
        "WHERE alive = 1 ORDER BY id",
        (now,),
    )
    budgets = fetch(
        db,
        "WITH rates AS (SELECT scope, min(per_second) AS per_second FROM rate WHERE seen_at > ? GROUP BY scope) "
        "SELECT scope, per_second, paused_until, refusals FROM budget LEFT JOIN rates USING (scope) "
        "UNION SELECT scope, per_second, 0, 0 FROM rates WHERE scope NOT IN (SELECT scope FROM budget) ORDER BY scope",
        (now - RATE_HOLDS,),
    )
    return StoreActivity(
        processes=[member.activity_of(*row) for row in processes],
        budgets=[
            PollBudget(scope=scope, per_second=per_second, paused_for=max(0.0, paused_until - now), refused=bool(refusals))
            for scope, per_second, paused_until, refusals in budgets
        ],
    )
