"""How a `PostgresStore` keeps the subscriptions and jobs of handlers."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from webhooks.store.hints import JOBS
from webhooks.store.postgres_events import lock, update_states
from webhooks.store.postgres_rows import EVENT_FIELDS, row_of_subscription, subscription_of, text
from webhooks.store.postgres_session import HANDLERS
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
from webhooks.store.rows import JOB_COLUMNS, STATES, event_of, job_of
from webhooks.store.subscriptions import handler_statuses

if TYPE_CHECKING:
    from rewards_core.postgres.connection import Connection
    from webhooks.store.postgres_session import Change

logger = logging.getLogger(__name__)

_JOB = ", ".join(f"job.{column}" for column in JOB_COLUMNS.split(", "))
_UNSERVED_HOURS = UNSERVED_DAYS * 24
_MAX_DEAD_LETTERS = 10_000
"""Maximum number of jobs of a handler that become dead letters in one transaction."""
_ORPHANS = f"""
WITH RECURSIVE {HANDLERS}
SELECT handler, scope FROM handlers, LATERAL (
  SELECT event.scope FROM job JOIN event ON event.id = job.event_id
  WHERE job.handler = handlers.handler AND job.state = 1 ORDER BY job.due_at, job.event_id LIMIT 1
) AS oldest
WHERE NOT EXISTS (SELECT FROM subscription WHERE subscription.job = handlers.handler)
"""
_CLAIM = f"""
WITH clock AS MATERIALIZED (SELECT now_s() AS now),
due AS MATERIALIZED (
  SELECT job.event_id, job.handler, job.due_at FROM job JOIN event ON event.id = job.event_id
  WHERE job.handler = $1 AND job.state = 1 AND job.due_at <= (SELECT now FROM clock) AND event.scope = ANY($2::text[])
  ORDER BY job.due_at, job.event_id LIMIT $3 FOR UPDATE OF job SKIP LOCKED
),
claimed AS (
  UPDATE job SET due_at = now + $4, attempts = attempts + 1, fence = $5 || '.' || job.event_id, held = true,
    began_at = coalesce(began_at, now)
  FROM due, clock WHERE job.event_id = due.event_id AND job.handler = due.handler RETURNING {_JOB}, due.due_at AS was_due_at
),
marked AS (
  UPDATE served SET busy = is_full FROM (SELECT count(*) >= $3 AS is_full FROM due) AS found
  WHERE process = $6 AND job = $1 AND scope = ANY($2::text[]) AND busy <> is_full RETURNING is_full
),
turned AS (SELECT bool_or(is_full) AS to_busy FROM marked)
SELECT to_busy, (
  SELECT process FROM served WHERE to_busy AND job = $1 AND scope = ANY($2::text[]) AND process <> $6 AND NOT busy
  ORDER BY random() LIMIT 1
), now, {", ".join(f"claimed.{column}" for column in JOB_COLUMNS.split(", "))}, {EVENT_FIELDS}
FROM clock, turned LEFT JOIN (claimed JOIN event ON event.id = event_id) ON true ORDER BY was_due_at, event_id
"""
"""Claim jobs. A process that gets as many as it asked for is busy: it leaves the others, and those to come, to one with room."""


async def register(change: Change, subscriptions: Sequence[Subscription]) -> None:
    await change.register()
    await change.write_subscriptions(subscriptions, then="UPDATE SET patterns = excluded.patterns, unserved_hours = 0")
    await change.write_served(subscriptions)
    change.after.append(lambda: change.member.serves.extend(subscriptions))


async def release(change: Change, subscriptions: Sequence[Subscription]) -> None:
    left = list(change.member.serves)
    for one in subscriptions:
        if one in left:
            left.remove(one)
        if one not in left:
            service, handler, scope, _, patterns = row_of_subscription(one)
            await change.db.execute(
                "DELETE FROM served WHERE process = $1 AND service = $2 AND handler = $3 AND scope = $4 AND patterns = $5",
                *(change.member.id, service, handler, scope, patterns),
            )

    def released() -> None:
        change.member.serves = left

    change.after.append(released)


async def statuses(db: Connection) -> list[HandlerStatus]:
    jobs: dict[tuple[str, str], dict[EventState, int]] = {}
    counted = "SELECT handler, scope, job.state, count(*) FROM job JOIN event ON event.id = event_id GROUP BY 1, 2, 3"
    for handler, scope, state, count in await db.fetch(counted):
        jobs.setdefault((handler, scope), {})[STATES[state]] = count
    kept, served = [
        [subscription_of(row) for row in await db.fetch(f"SELECT service, handler, scope, patterns FROM {table}")]
        for table in ("subscription", "served")
    ]
    return handler_statuses(kept, served, jobs)


async def unsubscribe(change: Change, service: str, handler: str) -> None:
    await change.db.execute("DELETE FROM subscription WHERE service = $1 AND handler = $2", service, text(handler))


async def ready(db: Connection, service: str, handler: str) -> list[int]:
    """Return the events with a ready job of a handler."""
    return await _ready(db, text(job_name(service, handler)), None)


async def retire(change: Change, service: str, handler: str, event_ids: Sequence[int]) -> int:
    return await _dead_letter(change, text(job_name(service, handler)), event_ids, RETIRED)


async def count_unserved(change: Change) -> None:
    """Count an hour for each handler that no process serves; after 14 days its jobs become dead letters."""
    await change.forget_dead()
    db = change.db
    orphans = await db.fetch(_ORPHANS)
    await db.executemany(
        "INSERT INTO subscription (service, handler, scope, job, patterns, unserved_hours) VALUES ($1, $2, $3, $4, '{}', 0) "
        "ON CONFLICT DO NOTHING",
        [(*handler_of(name), scope, name) for name, scope in orphans],
    )
    rows = await db.fetch(
        "UPDATE subscription SET unserved_hours = CASE WHEN EXISTS (SELECT FROM served WHERE served.job = subscription.job) "
        "THEN 0 ELSE unserved_hours + 1 END RETURNING job, unserved_hours"
    )
    for name in sorted({name for name, hours in rows if hours >= _UNSERVED_HOURS}):
        buried = await _dead_letter(change, name, await _ready(db, name, _MAX_DEAD_LETTERS), UNSERVED)
        logger.warning(UNSERVED_JOBS, buried, name)


async def claim(
    change: Change, fence: str, handler: str, scopes: Collection[str], limit: int, lease: float
) -> list[ClaimedJob] | None:
    """Claim due jobs; None if there was none, but one that came meanwhile was left to others, as this process was busy before."""
    rows = await change.db.fetch(_CLAIM, text(handler), list(scopes), limit, lease, fence, change.member.id)
    (is_busy, chosen, _, event_id, *_), width = rows[0], 1 + len(JOB_COLUMNS.split(", "))
    if chosen is not None:
        change.hint(JOBS, [chosen])
    if event_id is None:
        return None if is_busy is False else []
    return [ClaimedJob(job=job_of(row[1:width], row[0]), event=event_of(row[width:])) for _, _, *row in map(tuple, rows)]


async def finish(change: Change, jobs: Sequence[Job]) -> list[bool]:
    db = change.db
    ids = [job.event_id for job in jobs]
    names = [text(job.handler) for job in jobs]
    fences = [job.fence for job in jobs]
    changed = await lock(db, ids)  # two handlers of one event may finish at one time
    await db.execute(
        "DELETE FROM job USING unnest($1::bigint[], $2::text[], $3::text[]) AS given (event_id, handler, fence) "
        "WHERE job.event_id = given.event_id AND job.handler = given.handler AND job.fence = given.fence",
        *(ids, names, fences),
    )
    left = await db.fetch(
        "SELECT n FROM unnest($1::bigint[], $2::text[]) WITH ORDINALITY AS given (event_id, handler, n) "
        "JOIN job USING (event_id, handler)",
        *(ids, names),
    )
    await update_states(db, changed)
    taken = {row[0] - 1 for row in left}
    return [number not in taken for number in range(len(jobs))]  # an earlier call may have finished it


async def fail(change: Change, job: Job, reason: str, retry_in: float | None) -> bool:
    db, claimed = change.db, (job.event_id, text(job.handler), job.fence)
    await lock(db, [job.event_id])
    failed = await db.fetchval(
        "UPDATE job SET state = $4, due_at = $5, reason = $6, held = false "
        "WHERE event_id = $1 AND handler = $2 AND fence = $3 AND held RETURNING 1",
        *(*claimed, 2 if retry_in is None else 1, await change.now() + (retry_in or 0.0), text(reason)),
    )
    if failed:
        await update_states(db, [job.event_id])
        return True
    fences = [row[0] for row in await db.fetch("SELECT fence FROM job WHERE event_id = $1 AND handler = $2", *claimed[:2])]
    return not fences or fences[0] == job.fence


async def requeue(change: Change, event_ids: Sequence[int], *, every_handler: bool) -> int:
    db, now = change.db, await change.now()
    ids = await lock(db, event_ids)
    ids = [row[0] for row in await db.fetch("SELECT id FROM event WHERE id = ANY($1::bigint[]) AND length(body) > 0", ids)]
    if every_handler:
        await db.execute("DELETE FROM job WHERE event_id = ANY($1::bigint[])", ids)
        rows = await db.fetch(
            "INSERT INTO job (event_id, handler, state, due_at, attempts) SELECT DISTINCT event.id, job, 1, $2::float8, 0 "
            "FROM event JOIN subscription USING (scope) "
            "WHERE event.id = ANY($1::bigint[]) AND problem IS NULL AND patterns && ARRAY[event.name, '*'] "
            "RETURNING event_id, handler",
            *(ids, now),
        )
    else:
        rows = await db.fetch(
            "UPDATE job SET state = 1, due_at = $2, attempts = 0, reason = NULL, fence = NULL, held = false, began_at = NULL "
            "WHERE event_id = ANY($1::bigint[]) AND state = 2 RETURNING event_id, handler",
            *(ids, now),
        )
    await update_states(db, ids)
    if rows:
        await change.hint_jobs({row[0] for row in rows})
    return len({row[0] for row in rows})


async def _ready(db: Connection, name: str, limit: int | None) -> list[int]:
    rows = await db.fetch("SELECT event_id FROM job WHERE handler = $1 AND state = 1 ORDER BY event_id LIMIT $2", name, limit)
    return [row[0] for row in rows]


async def _dead_letter(change: Change, name: str, event_ids: Sequence[int], reason: str) -> int:
    ids = await lock(change.db, event_ids)
    killed = await change.db.fetch(
        "UPDATE job SET state = 2, reason = $3, held = false WHERE handler = $2 AND state = 1 AND event_id = ANY($1::bigint[]) "
        "RETURNING event_id",
        *(ids, name, reason),
    )
    await update_states(change.db, ids)
    return len(killed)
