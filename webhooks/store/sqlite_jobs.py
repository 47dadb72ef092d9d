"""How a `SQLiteStore` keeps the subscriptions and jobs of handlers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from rewards_core.clock import HOUR
from rewards_core.sqlite.connection import fetch
from webhooks.store.records import (
    RETIRED,
    UNSERVED,
    UNSERVED_DAYS,
    UNSERVED_JOBS,
    ClaimedJob,
    EventState,
    HandlerStatus,
    Job,
    Subscription,
    handler_of,
    job_name,
)
from webhooks.store.rows import (
    DEAD,
    JOB_COLUMNS,
    READY,
    STATES,
    event_of,
    job_of,
    text,
)
from webhooks.store.sqlite_events import update_states
from webhooks.store.sqlite_rows import (
    EVENT_FIELDS,
    change_in,
    insert,
    placeholders,
)
from webhooks.store.sqlite_session import row_of_subscription, subscription_of
from webhooks.store.subscriptions import handler_statuses

if TYPE_CHECKING:
    from rewards_core.sqlite.connection import Connection
    from webhooks.store.sqlite_session import Session

logger = logging.getLogger(__name__)

_UNSERVED_HOURS = UNSERVED_DAYS * 24
MAX_DEAD_LETTERS = 10_000
"""Maximum number of jobs of a handler that become dead letters in one transaction."""


def register(session: Session, subscriptions: Sequence[Subscription]) -> None:
    session.register()
    rows = [(*row_of_subscription(one), 0) for one in subscriptions]
    insert(session.db, "subscription", "service, handler, scope, patterns, unserved_hours", rows, verb="INSERT OR REPLACE")
    for one in subscriptions:
        session.member.serves.append(one)
        session.write_served(one)
    session.change_members()


def release(session: Session, subscriptions: Sequence[Subscription]) -> None:
    serves = session.member.serves
    for one in subscriptions:
        if one in serves:
            serves.remove(one)
        if one not in serves:
            session.db.execute(
                "DELETE FROM served WHERE process = ? AND service = ? AND handler = ? AND scope = ? AND patterns = ?",
                (session.member.id, *row_of_subscription(one)),
            )
    session.change_members()


def statuses(db: Connection) -> list[HandlerStatus]:
    jobs: dict[tuple[str, str], dict[EventState, int]] = {}
    counted = "SELECT handler, scope, job.state, count(*) FROM job JOIN event ON event.id = event_id GROUP BY 1, 2, 3"
    for handler, scope, state, count in fetch(db, counted):
        jobs.setdefault((handler, scope), {})[STATES[state]] = count
    kept, served = (
        [subscription_of(row) for row in fetch(db, f"SELECT service, handler, scope, patterns FROM {table}")]
        for table in ("subscription", "served")
    )
    return handler_statuses(kept, served, jobs)


def unsubscribe(session: Session, service: str, handler: str) -> None:
    session.db.execute("DELETE FROM subscription WHERE service = ? AND handler = ?", (service, text(handler)))
    session.change_members()


def ready(db: Connection, service: str, handler: str) -> list[int]:
    """Return the events with a ready job of a handler."""
    return _ready(db, job_name(service, text(handler)), -1)


def retire(session: Session, service: str, handler: str, event_ids: Sequence[int]) -> int:
    return _dead_letter(session, job_name(service, text(handler)), event_ids, RETIRED)


def count_unserved(session: Session) -> None:
    """Once an hour, count an hour for each handler that no process serves; after 14 days its jobs become dead letters."""
    counted_at = fetch(session.db, "SELECT value FROM meta WHERE name = 'counted_at'")[0][0]
    if session.now - counted_at < HOUR:
        return
    session.db.execute("UPDATE meta SET value = ? WHERE name = 'counted_at'", (session.now,))
    orphans = fetch(session.db, "SELECT DISTINCT handler, scope FROM job JOIN event ON event.id = event_id WHERE job.state = 1")
    rows = [(*handler_of(name), scope, "", 0) for name, scope in orphans]
    insert(session.db, "subscription", "service, handler, scope, patterns, unserved_hours", rows, verb="INSERT OR IGNORE")
    for row in fetch(session.db, "SELECT service, handler, scope, patterns, unserved_hours FROM subscription"):
        subscription, hours = subscription_of(row[:4]), row[4]
        name = subscription.job_name
        hours = 0 if session.serves(name) else hours + 1
        if hours >= _UNSERVED_HOURS:
            buried = _dead_letter(session, name, _ready(session.db, name, MAX_DEAD_LETTERS), UNSERVED)
            logger.warning(UNSERVED_JOBS, buried, name)
        session.db.execute(
            "UPDATE subscription SET unserved_hours = ? WHERE service = ? AND handler = ? AND scope = ?", (hours, *row[:3])
        )


def anything_due(db: Connection, handler: str, scopes: Collection[str], now: float) -> bool:
    due = f"SELECT 1 {_due_in(scopes)} LIMIT 1"
    return bool(fetch(db, due, (text(handler), now, *scopes)))


def claim(session: Session, handler: str, scopes: Collection[str], limit: int, lease: float) -> list[ClaimedJob]:
    columns = ", ".join(f"job.{column}" for column in JOB_COLUMNS.split(", "))
    rows = fetch(
        session.db,
        f"SELECT {columns}, {EVENT_FIELDS} {_due_in(scopes)} ORDER BY job.due_at, job.event_id LIMIT ?",
        (text(handler), session.now, *scopes, limit),
    )
    fence = session.member.new_fence()
    until = session.now + lease
    claimed: list[ClaimedJob] = []
    for event_id, name, state, _, attempts, reason, _, _, began_at, *event in rows:
        job = job_of((event_id, name, state, until, attempts + 1, reason, f"{fence}.{event_id}", 1, began_at), session.now)
        claimed.append(ClaimedJob(job=job, event=event_of(event)))
    change_in(
        session.db,
        "UPDATE job SET due_at = ?, attempts = attempts + 1, fence = ? || '.' || event_id, held = 1, "
        "began_at = coalesce(began_at, ?) WHERE handler = ? AND event_id IN",
        [row[0] for row in rows],
        *(until, fence, session.now, text(handler)),
    )
    return claimed


def finish(session: Session, jobs: Sequence[Job]) -> list[bool]:
    finished: list[bool] = []
    changed: list[int] = []
    for job in jobs:
        session.db.execute("DELETE FROM job WHERE event_id = ? AND handler = ? AND fence = ?", _claimed(job))
        if session.db.changes():
            changed.append(job.event_id)
            finished.append(True)
        else:
            finished.append(not _exists(session, job))  # an earlier call may have finished it
    update_states(session, changed)
    return finished


def fail(session: Session, job: Job, reason: str, retry_in: float | None) -> bool:
    session.db.execute(
        "UPDATE job SET state = ?, due_at = ?, reason = ?, held = 0 "
        "WHERE event_id = ? AND handler = ? AND fence = ? AND held = 1",
        (DEAD if retry_in is None else READY, session.now + (retry_in or 0.0), text(reason), *_claimed(job)),
    )
    if session.db.changes():
        update_states(session, [job.event_id])
        return True
    again = fetch(session.db, "SELECT 1 FROM job WHERE event_id = ? AND handler = ? AND fence = ?", _claimed(job))
    return bool(again) or not _exists(session, job)


def requeue(session: Session, event_ids: Sequence[int], *, every_handler: bool) -> int:
    count = 0
    woken: set[str] = set()
    for event_id in event_ids:
        row = fetch(session.db, f"SELECT {EVENT_FIELDS} FROM event WHERE id = ? AND length(body) > 0", (event_id,))
        if not row:
            continue
        if not every_handler:
            dead = fetch(session.db, "SELECT handler FROM job WHERE event_id = ? AND state = 2", (event_id,))
            session.db.execute(
                "UPDATE job SET state = 1, due_at = ?, attempts = 0, reason = NULL, fence = NULL, held = 0, "
                "began_at = NULL WHERE event_id = ? AND state = 2",
                (session.now, event_id),
            )
            woken.update(name for (name,) in dead)
            count += bool(dead)
            continue
        event = event_of(row[0])
        names = session.subscribed.handlers_for(event)
        session.db.execute("DELETE FROM job WHERE event_id = ?", (event_id,))
        jobs = [(event_id, name, READY, session.now, 0) for name in names]
        insert(session.db, "job", "event_id, handler, state, due_at, attempts", jobs)
        woken.update(names)
        count += bool(names)
    update_states(session, event_ids)
    if woken:
        session.hint_jobs(woken)
    return count


def _due_in(scopes: Collection[str]) -> str:
    """Return the FROM and WHERE clauses of the due jobs of a handler on events of some scopes."""
    return (
        "FROM job JOIN event ON event.id = job.event_id WHERE job.handler = ? AND job.state = 1 AND job.due_at <= ? "
        f"AND event.scope IN {placeholders(len(scopes))}"
    )


def _ready(db: Connection, name: str, limit: int) -> list[int]:
    return [row[0] for row in fetch(db, "SELECT event_id FROM job WHERE handler = ? AND state = 1 LIMIT ?", (name, limit))]


def _dead_letter(session: Session, name: str, event_ids: Sequence[int], reason: str) -> int:
    killed = "UPDATE job SET state = 2, reason = ?, held = 0 WHERE handler = ? AND state = 1 AND event_id IN"
    count = change_in(session.db, killed, event_ids, reason, name)
    update_states(session, event_ids)
    return count


def _claimed(job: Job) -> tuple[int, str, str | None]:
    return job.event_id, text(job.handler), job.fence


def _exists(session: Session, job: Job) -> bool:
    found = fetch(session.db, "SELECT 1 FROM job WHERE event_id = ? AND handler = ?", (job.event_id, text(job.handler)))
    return bool(found)
