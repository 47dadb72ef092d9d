"""The durable store of one host, shared by any number of processes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

from rewards_core.clock import DAY, uptime
from rewards_core.secrets import shielded
from rewards_core.validation import check_callable, check_file, check_id, check_number, check_path, check_str
from webhooks.store import sqlite_events, sqlite_jobs, sqlite_outcomes, sqlite_polls, sqlite_upkeep
from webhooks.store.members import RENEW_EVERY
from webhooks.store.outcomes import pack, settled_by
from webhooks.store.queries import EventQuery, OutcomeQuery, StoreQueries, check_page
from webhooks.store.records import DEAD_DAYS, EventState, PollClaims
from webhooks.store.rows import Arrival, PackedOutcome
from webhooks.store.sqlite_life import StoreLife
from webhooks.store.upkeep import check_keep, check_limit, check_purge, remove_old

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from rewards_core.operations import Event, OperationRef
    from rewards_core.sqlite.connection import Connection
    from webhooks.store.readings import StoreActivity, StoreStatistics
    from webhooks.store.records import (
        Acceptance,
        ClaimedJob,
        HandlerStatus,
        Job,
        Outcome,
        PendingOperation,
        PollPermit,
        PollResult,
        Priority,
        Recorded,
        StoredEvent,
        StoredOutcome,
        Subscription,
    )


class SQLiteStore(StoreLife, StoreQueries):
    """Keep everything in one file, so that acknowledged events survive a crash of the process and a power cut.

    Any number of processes on one host may open the file, each with its own store object. Concurrent deliveries share a
    transaction and an fsync. The file is opened by the first call, so a store may be made before a fork and used after it.

    While a process has the store open, it must not open the file, its `-wal` or its `-shm` by any other means: closing them would
    drop SQLite's locks. To copy the file, use `back_up`.

    Args:
        path: The file on a local disk, created if missing, readable only by its owner. Beside it are `-wal`, `-shm`, `.lock` and
            a socket for each process.
        busy_timeout: Seconds to wait for another process that holds the lock without committing, up to a day, before a call
            raises `StoreError`.
        clock: Returns Unix time in seconds, for timestamps.
        uptime: Returns seconds since boot, for schedules and leases; the same in every process.
        boot: The identity of this boot; None asks the system.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: `busy_timeout` is negative or more than a day, or the path is `":memory:"` or a URL.
    """

    @shielded
    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
        uptime: Callable[[], float] = uptime,
        boot: str | None = None,
    ) -> None:
        check_number(busy_timeout, "busy_timeout", at_least=0, at_most=86_400, unit="seconds")
        super().__init__(
            check_file(path, "path", "Use MemoryStore() or open_store(url)."),
            busy_timeout=busy_timeout,
            clock=check_callable(clock, "clock"),
            uptime=check_callable(uptime, "uptime"),
            boot=None if boot is None else check_str(boot, "boot"),
        )

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    # events

    async def accept(self, event: Event) -> Acceptance:
        self._check_open()
        at = self._clock()
        return await self._engine.write_together(sqlite_events.accept, Arrival.of(event, at, settled_by(event, at)))

    async def amend(self, event_id: int, event: Event) -> None:
        await self._write(lambda session: sqlite_events.amend(session, event_id, event))

    async def find_events(self, query: EventQuery) -> Sequence[StoredEvent]:
        return await self._read(lambda db: sqlite_events.events(db, query, self._uptime()))

    # handlers

    async def register_handlers(self, subscriptions: Sequence[Subscription]) -> None:
        await self._write(lambda session: sqlite_jobs.register(session, subscriptions))

    async def release_handlers(self, subscriptions: Sequence[Subscription]) -> None:
        await self._write(lambda session: sqlite_jobs.release(session, subscriptions))

    async def list_handlers(self) -> Sequence[HandlerStatus]:
        return await self._read(sqlite_jobs.statuses)

    async def retire_handler(self, service: str, handler: str) -> int:
        await self._write(lambda session: sqlite_jobs.unsubscribe(session, service, handler))
        event_ids = await self._read(lambda db: sqlite_jobs.ready(db, service, handler))
        return await self._each_slice(event_ids, lambda session, ids: sqlite_jobs.retire(session, service, handler, ids))

    async def claim_jobs(self, handler: str, *, scopes: Collection[str], limit: int, lease: float) -> Sequence[ClaimedJob]:
        if self._member.joined and not await self._read(lambda db: sqlite_jobs.anything_due(db, handler, scopes, self._uptime())):
            return ()  # reading disturbs no other process
        return await self._write(lambda session: sqlite_jobs.claim(session, handler, scopes, limit, lease))

    async def finish_job(self, job: Job) -> bool:
        self._check_open()
        return await self._engine.write_together(sqlite_jobs.finish, job)

    async def fail_job(self, job: Job, *, reason: str, retry_in: float | None) -> bool:
        return await self._write(lambda session: sqlite_jobs.fail(session, job, reason, retry_in))

    async def requeue(self, event_ids: Sequence[int], *, every_handler: bool = False) -> int:
        return await self._each_slice(
            event_ids, lambda session, ids: sqlite_jobs.requeue(session, ids, every_handler=every_handler)
        )

    # outcomes

    async def outcome(self, ref: OperationRef) -> Outcome | None:
        found = await self.outcomes([ref])
        return found[0] if found else None

    async def outcomes(self, refs: Sequence[OperationRef]) -> Sequence[Outcome]:
        return await self._read(lambda db: sqlite_outcomes.outcomes(db, refs))

    async def outcomes_by_key(self, scope: str, kind: str, key: str) -> Sequence[Outcome]:
        return await self._read(lambda db: sqlite_outcomes.outcomes_by_key(db, scope, kind, key))

    async def conflicts(self, ref: OperationRef) -> Sequence[Outcome]:
        found = await self._read(lambda db: sqlite_outcomes.conflicts(db, [ref]))
        return next(iter(found.values()), [])

    async def find_outcomes(self, query: OutcomeQuery) -> Sequence[StoredOutcome]:
        return await self._read(lambda db: sqlite_outcomes.listed_outcomes(db, query))

    async def record_outcome(self, outcome: Outcome) -> Recorded:
        self._check_open()
        return await self._engine.write_together(sqlite_events.record_outcomes, PackedOutcome.of(outcome, pack(outcome.resource)))

    # pending operations and polls

    async def watch(
        self, refs: Sequence[OperationRef], *, poll_in: float, confirmed: bool = False, waiter: str = ""
    ) -> Sequence[Outcome]:
        return await self._write(lambda session: sqlite_polls.watch(session, refs, poll_in, confirmed=confirmed, waiter=waiter))

    async def add_pending(self, refs: Sequence[OperationRef], *, poll_in: float) -> None:
        await self._write(lambda session: sqlite_polls.add(session, refs, poll_in))

    async def remove_pending(self, refs: Sequence[OperationRef]) -> int:
        return await self._write(lambda session: sqlite_polls.remove(session, refs))

    async def list_pending(
        self,
        *,
        scope: str | None = None,
        kind: str | None = None,
        uid: str | None = None,
        after: OperationRef | None = None,
        limit: int = 100,
    ) -> Sequence[PendingOperation]:
        check_page(limit)
        await self._unwatched()
        return await self._read(lambda db: sqlite_polls.listed_pending(db, scope, kind, uid, after, limit, self._uptime()))

    async def pending(self, refs: Sequence[OperationRef]) -> Sequence[PendingOperation]:
        await self._unwatched()
        return await self._read(lambda db: sqlite_polls.pending(db, refs, self._uptime()))

    async def hurry_polls(self, refs: Sequence[OperationRef], priority: Priority) -> None:
        await self._write(lambda session: sqlite_polls.hurry(session, refs, priority))

    async def claim_polls(self, scope: str, *, limit: int, lease: float, max_per_second: float) -> PollClaims:
        member = self._member
        member.polled_at[scope, max_per_second] = self._uptime()
        if self._uptime() - member.rates.get((scope, max_per_second), -math.inf) < RENEW_EVERY:
            wait = await self._read(lambda db: sqlite_polls.next_in(db, scope, self._uptime()))
            if wait > 0:  # reading disturbs no other process
                return PollClaims(claims=(), next_in=wait)
        return await self._write(lambda session: sqlite_polls.claim(session, scope, limit, lease, max_per_second))

    async def permit_poll(self, scope: str, *, max_per_second: float) -> PollPermit:
        return await self._write(lambda session: sqlite_polls.permit(session, scope, max_per_second))

    async def settle_polls(self, results: Sequence[PollResult]) -> None:
        await self._write(lambda session: sqlite_polls.settle(session, results))

    async def resume_polls(self, scope: str) -> None:
        await self._write(lambda session: sqlite_polls.resume(session, scope))

    async def pause_polls(self, scope: str, seconds: float, *, refused: bool = False) -> None:
        check_number(seconds, "seconds", above=0, unit="seconds")
        await self._write(lambda session: sqlite_polls.pause(session, scope, seconds, refused=refused))

    # upkeep

    async def upkeep(self, *, keep: float, keep_bodies: float | None = None, keep_dead: float = DEAD_DAYS * DAY) -> bool:
        check_keep(keep, keep_bodies, keep_dead)
        if not await self._write(sqlite_upkeep.claim_upkeep):
            return False
        identities, day = 0, -1
        while (found := await self._read(partial(sqlite_upkeep.count_identities, after=day))) is not None:
            day, count = found  # day by day, as a long read would block checkpoints
            identities += count
        await remove_old(self, keep=keep, keep_bodies=keep_bodies, keep_dead=keep_dead, identities=identities)
        return True

    async def purge(self, older_than: float, *, state: EventState = EventState.DONE, limit: int | None = None) -> int:
        check_purge(older_than, limit, state)
        before = await self._write(sqlite_upkeep.today) - older_than
        return await self._in_slices(
            lambda db, max_rows: sqlite_upkeep.purgeable(db, state, before, max_rows),
            lambda session, ids: sqlite_upkeep.purge(session, ids, state),
            limit,
        )

    async def purge_outcomes(self, older_than: float, *, limit: int | None = None) -> int:
        check_purge(older_than, limit)
        before = await self._write(sqlite_upkeep.today) - older_than
        return await self._in_slices(
            lambda db, max_rows: sqlite_upkeep.old_outcomes(db, before, max_rows), sqlite_upkeep.purge_outcomes, limit
        )

    async def purge_identities(self, *, limit: int | None = None) -> int:
        check_limit(limit)
        now = await self._write(sqlite_upkeep.today)
        return await self._in_slices(
            lambda db, max_rows: sqlite_upkeep.old_identities(db, now, max_rows), sqlite_upkeep.purge_identities, limit
        )

    async def erase_bodies(self, older_than: float, *, limit: int | None = None) -> int:
        check_purge(older_than, limit)
        before = await self._write(sqlite_upkeep.today) - older_than
        place = (-math.inf, 0)  # those before it are erased; scanning them each time would take long

        def find(db: Connection, max_rows: int) -> Sequence[int]:
            nonlocal place
            found = sqlite_upkeep.erasable(db, before, place, max_rows)
            place = found[-1] if found else place
            return [event_id for _, event_id in found]

        return await self._in_slices(find, sqlite_upkeep.erase_bodies, limit)

    async def forget_user(self, uid: str) -> int:
        """Erase every body and outcome that mentions a user, also from the free pages of the file and from its log."""
        check_id(uid, "uid")
        count = await self._forget(partial(sqlite_upkeep.events_about, uid=uid), sqlite_upkeep.forget_events)
        for table in ("outcome", "conflict"):
            about = partial(sqlite_upkeep.resources_about, uid=uid, table=table)
            forgotten = await self._forget(about, partial(sqlite_upkeep.forget_resources, table=table))
            count += forgotten if table == "outcome" else 0  # a conflict is counted by its event
        await self._engine.truncate_log()
        return count

    async def back_up(self, to: str | os.PathLike[str]) -> None:
        """Copy the committed state to a file while processes keep writing. It is the only safe way to copy a store.

        Args:
            to: The file, replaced if it exists, unless it was opened as a store. It appears only when it is complete.

        Raises:
            StoreError: the file cannot be written.
        """
        self._check_open()
        await self._engine.back_up(check_path(to, "to"))

    async def statistics(self) -> StoreStatistics:
        return await self._read(sqlite_upkeep.statistics)

    async def activity(self) -> StoreActivity:
        await self._unwatched()
        return await self._read(lambda db: sqlite_polls.activity(db, self._member, self._uptime()))

    async def ping(self) -> None:
        await self._write(sqlite_upkeep.probe)
        await self._read(sqlite_upkeep.probed)
