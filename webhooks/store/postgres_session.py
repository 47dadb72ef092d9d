"""The transactions of a `PostgresStore`, and the processes that share it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from rewards_core.clock import HOUR
from rewards_core.operations import OperationRef
from webhooks.store.budget import RATE_HOLDS
from webhooks.store.hints import JOBS, OUTCOMES, POLLS, Notification
from webhooks.store.members import ALIVE_FOR, GONE_AFTER, MAX_RELEASED, RENEW_EVERY, Member
from webhooks.store.postgres_rows import GIVEN_REFS, IS_GIVEN, LOCKED, ONCE, refs_of, row_of_subscription
from webhooks.store.records import Priority

if TYPE_CHECKING:
    from rewards_core.postgres.connection import Connection
    from webhooks.store.records import Subscription

logger = logging.getLogger(__name__)

_TOLERANCE = 1.0
"""Seconds by which a database's clock may go back without being taken for set."""
_SHIFTED = {
    "pending": ("due_at", "missing_at"),
    "job": ("due_at", "began_at"),
    "budget": ("next_at", "abandoned_at", "further_at", "paused_until"),
    "rate": ("seen_at",),
    "process": ("renewed_at",),
    "moment": ("at",),
}
"""The times that move with a clock that was set back."""
_SHIFT_WITHIN = 600.0
"""Seconds that this may take in a table, as it would otherwise never succeed where millions of operations are pending."""
_CLOCK = (
    "WITH seen AS MATERIALIZED (SELECT at FROM moment WHERE name = 'clock' FOR UPDATE) "
    "UPDATE moment SET at = now_s() FROM seen WHERE name = 'clock' RETURNING seen.at, moment.at"
)
SCOPES = """
scopes AS (
  SELECT min(scope) AS scope FROM pending
  UNION ALL SELECT (SELECT min(scope) FROM pending WHERE pending.scope > scopes.scope) FROM scopes WHERE scope IS NOT NULL
)
"""
"""The scopes with pending operations, each found by one step in an index, and a last NULL; of a `WITH RECURSIVE`."""
HANDLERS = """
handlers AS (
  SELECT min(handler) AS handler FROM job WHERE state = 1
  UNION ALL SELECT (SELECT min(handler) FROM job WHERE job.handler > handlers.handler AND state = 1) FROM handlers
  WHERE handler IS NOT NULL
)
"""
"""The handlers with ready jobs, found in the same way."""
ONE_SERVER = """ARRAY(SELECT DISTINCT process FROM work, LATERAL (
  SELECT process FROM served WHERE served.job = work.job AND served.scope = work.scope AND NOT busy
  ORDER BY process <> {me}, random() LIMIT 1) AS chosen)"""
"""For each handler and scope in `work`, a process with room for its jobs: `me` if that has."""
ONE_POLLER = f"""ARRAY(SELECT DISTINCT process FROM unnest({{scopes}}) AS asked_scope, LATERAL (
  SELECT process FROM rate WHERE rate.scope = asked_scope AND seen_at > {{now}} - {RATE_HOLDS}
  ORDER BY process <> {{me}}, random() LIMIT 1) AS chosen)"""
"""For each of some scopes, a process that polls it: `me` if that does."""
_DELETE_INTEREST = (
    "WITH given AS MATERIALIZED (SELECT DISTINCT scope, kind, uid FROM interest WHERE process = $1 ORDER BY 1, 2, 3 LIMIT $2), "
    f"locked AS MATERIALIZED ({LOCKED.format(given='given')}), "
    f"gone AS (DELETE FROM interest USING given WHERE {IS_GIVEN.format('interest')} AND process = $1 "
    f"AND {ONCE.format('locked')}) "
    "SELECT count(*) FROM given"
)
_SERVERS = (
    "WITH work AS (SELECT DISTINCT event.scope, job.handler AS job FROM job JOIN event ON event.id = event_id "
    f"WHERE event_id = ANY($1::bigint[]) AND job.state = 1) SELECT {ONE_SERVER.format(me='$2')}"
)
_POLLERS = "SELECT " + ONE_POLLER.format(scopes="$1::text[]", me="$2", now="$3::float8")
_DUE = f"""
WITH RECURSIVE {SCOPES}, {HANDLERS}
SELECT EXISTS (
  SELECT FROM scopes, unnest(ARRAY{[one.value for one in Priority]}) AS rank
  WHERE (SELECT min(due_at) FROM pending WHERE pending.scope = scopes.scope AND priority = rank) <= $1
), EXISTS (
  SELECT FROM handlers WHERE (SELECT min(due_at) FROM job WHERE job.handler = handlers.handler AND state = 1) <= $1
)
"""


class Change:
    """One transaction, and what follows once it is durable: notifications, hints for other processes, and `after`.

    Its number is known if it recorded outcomes.
    """

    def __init__(self, db: Connection, member: Member) -> None:
        member.make_id()
        self.db = db
        self.member = member
        self.notifications: list[Notification] = []
        self.hints: dict[str, bytes] = {}
        self.waiting: list[tuple[str, OperationRef]] = []
        self.settled: list[OperationRef] = []
        self.after: list[Callable[[], object]] = []
        self.transaction: int | None = None
        self._now: float | None = None

    async def now(self) -> float:
        """Return the database's time at the first call of this method."""
        if self._now is None:
            self._now = float(await self.db.fetchval("SELECT now_s()"))
        return self._now

    def settle(self, refs: Iterable[OperationRef], waiting: Iterable[Sequence[str]]) -> None:
        """Wake the processes that waited for operations, by these rows, and those that come to wait before the commit."""
        self.settled += refs
        self.waiting += [(process, OperationRef(*ref)) for process, *ref in waiting if process != self.member.id]

    async def hint_jobs(self, event_ids: Iterable[int]) -> None:
        """Wake a process for each handler with new jobs of these events, unless this one has room for them."""
        self.add_jobs(await self.db.fetchval(_SERVERS, list(event_ids), self.member.id))

    def add_jobs(self, servers: Iterable[str]) -> None:
        self.notifications.append(Notification(look=JOBS))
        self.hint(JOBS, servers)

    async def hint_polls(self, scopes: Iterable[str]) -> None:
        """Wake a process that polls for each of some scopes, unless this one does."""
        self.add_polls(await self.db.fetchval(_POLLERS, sorted(set(scopes)), self.member.id, await self.now()))

    def add_polls(self, pollers: Iterable[str]) -> None:
        self.notifications.append(Notification(look=POLLS))
        self.hint(POLLS, pollers)

    def hint(self, hint: bytes, processes: Iterable[str]) -> None:
        """Wake other processes after the commit."""
        for process in processes:
            if process != self.member.id and hint not in self.hints.get(process, b""):
                self.hints[process] = self.hints.get(process, b"") + hint

    def count_polls(self, count: int) -> None:
        """Count polls that the budget allows this process, once that is durable."""

        def add() -> None:
            self.member.polls += count

        self.after.append(add)

    # processes

    async def register(self) -> None:
        """Write a record of this process, unless there is one."""
        if not self.member.registered:
            await self._write_record()
            now = await self.now()
            self.after.append(lambda: self._renewed(now))

    def _renewed(self, at: float) -> None:
        self.member.registered, self.member.renewed_at = True, at

    async def resign(self) -> None:
        """Remove this process's record and what only it watched."""
        self.member.registered = False
        await self._mark_dead([self.member.id])
        await self.release_interest()

    async def write_subscriptions(self, subscriptions: Iterable[Subscription], *, then: str) -> None:
        """Keep subscriptions; `then` is what is done where one of the same handler is kept."""
        newest = {(one.service, one.handler, one.scope): one for one in subscriptions}
        await self.db.executemany(
            "INSERT INTO subscription (service, handler, scope, job, patterns, unserved_hours) VALUES ($1, $2, $3, $4, $5, 0) "
            f"ON CONFLICT (service, handler, scope) DO {then}",
            [row_of_subscription(newest[key]) for key in sorted(newest)],
        )

    async def write_served(self, subscriptions: Iterable[Subscription]) -> None:
        rows = sorted((self.member.id, *row_of_subscription(one)) for one in subscriptions)
        await self.db.executemany(
            "INSERT INTO served (process, service, handler, scope, job, patterns) VALUES ($1, $2, $3, $4, $5, $6) "
            "ON CONFLICT DO NOTHING",
            rows,
        )

    async def write_rate(self, scope: str, per_second: float) -> None:
        now = await self.now()
        await self.db.execute(
            "INSERT INTO rate (scope, process, per_second, seen_at) VALUES ($1, $2, $3, $4) "
            "ON CONFLICT (scope, process, per_second) DO UPDATE SET seen_at = excluded.seen_at",
            *(scope, self.member.id, per_second, now),
        )
        self.after.append(lambda: self.member.rates.update({(scope, per_second): now}))

    async def abandon(self, refs: Iterable[OperationRef]) -> None:
        """Give operations that were locked before the lowest priority where no process waits for them."""
        await self.db.execute(
            "UPDATE pending SET watched = false, priority = CASE WHEN priority > 0 THEN 4 ELSE 0 END "
            f"FROM {GIVEN_REFS} WHERE {IS_GIVEN.format('pending')} AND NOT EXISTS "
            f"(SELECT FROM interest WHERE {IS_GIVEN.format('interest')})",
            *refs_of(refs),
        )

    async def lock_pending(self, refs: Iterable[OperationRef]) -> None:
        """Lock operations, in the order that all transactions keep."""
        await self.db.execute(LOCKED.format(given=GIVEN_REFS), *refs_of(refs))

    async def check_clock(self) -> None:
        """Shift all times if the database's clock was set back since a process last renewed its record."""
        seen, self._now = await self.db.fetchrow(_CLOCK)
        back = seen - await self.now()
        if back > _TOLERANCE:
            logger.warning("the clock of the database was set back by about %.0f s; nothing is put off by that", back)
            await self.db.execute("SET LOCAL statement_timeout = 0")
            for table, columns in _SHIFTED.items():
                shifted = ", ".join(f"{column} = {column} - $1" for column in columns)
                await self.db.execute(f"UPDATE {table} SET {shifted}", back, timeout=_SHIFT_WITHIN)
            await self.db.execute("UPDATE moment SET at = $1 WHERE name = 'clock'", self._now)

    async def renew(self, late: dict[str, tuple[float, float]]) -> bool:
        """Renew this process's record, and release what dead processes watched; False if this takes further transactions.

        Args:
            late: The processes that were late at earlier renewals: when they last renewed, and when that was noticed.
        """
        now = await self.now()
        self.after.append(lambda: self._renewed(now))
        # a record older than this process knows is from an older copy of the database, or its clock was set back
        renewed = "UPDATE process SET renewed_at = $2, report = $4 WHERE id = $1 AND alive AND renewed_at >= $3 RETURNING 1"
        if not await self.db.fetchval(renewed, self.member.id, now, self.member.renewed_at, self.member.report()):
            if await self.db.fetchval(_DELETE_INTEREST, self.member.id, MAX_RELEASED) == MAX_RELEASED:
                return False
            await self._rejoin()
        for (scope, per_second), polled_at in list(self.member.polled_at.items()):
            if abs(now - polled_at) < 2 * RENEW_EVERY:
                await self.write_rate(scope, per_second)
        await self._mark_late_dead(late)
        await self.release_interest()
        return True

    async def what_is_due(self) -> bytes:
        """Return the hints of a process that may have missed some: outcomes, and what is due to be done."""
        polls, jobs = await self.db.fetchrow(_DUE, await self.now())
        return OUTCOMES + (POLLS if polls else b"") + (JOBS if jobs else b"")

    async def is_due(self, name: str) -> bool:
        """Return whether a process should soon do what is done once an hour."""
        due = "SELECT at <= $1 - $3::double precision FROM moment WHERE name = $2"
        return bool(await self.db.fetchval(due, await self.now(), name, HOUR))

    async def claim_moment(self, name: str, every: float = HOUR) -> bool:
        """Return whether this process should do what is done once in a while."""
        claimed = "UPDATE moment SET at = $1 WHERE name = $2 AND at <= $1 - $3::double precision RETURNING 1"
        return await self.db.fetchval(claimed, await self.now(), name, every) is not None

    async def _write_record(self) -> None:
        await self.db.execute(
            "INSERT INTO process (id, renewed_at, alive, report) VALUES ($1, $2, true, $3) "
            "ON CONFLICT (id) DO UPDATE SET renewed_at = excluded.renewed_at, alive = true, report = excluded.report",
            *(self.member.id, await self.now(), self.member.report()),
        )

    async def _rejoin(self) -> None:
        """Write the record again if other processes marked this process as dead, or the database was replaced.

        What it watched was released before; its store object watches again.
        """
        await self._write_record()
        await self.write_subscriptions(self.member.serves, then="NOTHING")  # an older copy of the database lacks them
        await self.write_served(self.member.serves)
        self.after.append(self.member.rates.clear)
        self.notifications.append(Notification(missed=True))

    async def _mark_late_dead(self, late: dict[str, tuple[float, float]]) -> None:
        """Mark processes as dead that are late twice, as after a suspend or a jump of the clock all are late once."""
        now = await self.now()
        found = await self.db.fetch("SELECT id, renewed_at FROM process WHERE alive AND renewed_at < $1", now - ALIVE_FOR)
        before, dead = dict(late), []
        late.clear()
        for process, renewed_at in found:
            seen_at, noticed_at = before.get(process, (None, now))
            late[process] = (renewed_at, noticed_at if seen_at == renewed_at else now)
            if now - late[process][1] >= RENEW_EVERY:
                dead.append(process)
        await self._mark_dead(dead)

    async def forget_dead(self) -> None:
        """Remove the records of processes that died long ago."""
        await self.db.execute(
            "DELETE FROM process WHERE NOT alive AND renewed_at < $1 AND NOT EXISTS "
            "(SELECT FROM interest WHERE interest.process = process.id)",
            await self.now() - GONE_AFTER,
        )

    async def _mark_dead(self, processes: list[str]) -> None:
        if processes:
            for table in ("served", "rate"):
                await self.db.execute(f"DELETE FROM {table} WHERE process = ANY($1::text[])", processes)
            await self.db.execute("UPDATE process SET alive = false WHERE id = ANY($1::text[])", processes)

    async def release_interest(self) -> None:
        """Remove the interest of dead processes, some at a time."""
        rows = await self.db.fetch(
            "SELECT DISTINCT scope, kind, uid FROM interest WHERE process IN (SELECT id FROM process WHERE NOT alive) "
            "ORDER BY scope, kind, uid LIMIT $1",
            MAX_RELEASED,
        )
        if not rows:
            return
        refs = [OperationRef(*row) for row in rows]
        await self.lock_pending(refs)
        await self.db.execute(
            f"DELETE FROM interest USING {GIVEN_REFS} WHERE {IS_GIVEN.format('interest')} "
            "AND process IN (SELECT id FROM process WHERE NOT alive)",
            *refs_of(refs),
        )
        await self.abandon(refs)
