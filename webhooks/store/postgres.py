"""The durable store that any number of machines share."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from rewards_core.clock import DAY
from rewards_core.postgres.connection import StatementRefused, address_of
from rewards_core.postgres.engine import KEPT, Engine
from rewards_core.secrets import shielded
from rewards_core.validation import check_id, check_number, check_str, check_whole
from webhooks.store import postgres_events, postgres_jobs, postgres_outcomes, postgres_polls, postgres_upkeep
from webhooks.store.postgres_life import StoreLife
from webhooks.store.postgres_rows import clean_ref, packed
from webhooks.store.postgres_schema import SCHEMA, SCHEMA_NAME
from webhooks.store.queries import EventQuery, OutcomeQuery, StoreQueries, check_page
from webhooks.store.records import DEAD_DAYS, EventState, PollClaims
from webhooks.store.upkeep import UPKEEP_EVERY, check_keep, check_limit, check_purge, remove_old

if TYPE_CHECKING:
    from rewards_core.operations import Event, OperationRef
    from webhooks.store.hints import Notification
    from webhooks.store.postgres_session import Change
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
    from webhooks.store.rows import Arrival, PackedOutcome

T = TypeVar("T")


class PostgresStore(StoreLife, StoreQueries):
    """Keep everything in a PostgreSQL database, which any number of processes on any number of machines share.

    An acknowledged event is as durable as a commit of the database: on one disk that honours fsync, or also on its synchronous
    standby. All times are the database's. Connections are opened by the first call, so a store may be made before a fork and used
    after it; it belongs to one event loop. It needs the extra `postgres`, without which importing it raises `ImportError`.

    `forget_user` overwrites rows; the server's own vacuum, log archives and backups decide when their old versions are gone.

    Args:
        dsn: `"postgresql://user@host/database"`, with several hosts and options as in libpq. Its password appears in no log.
        schema: The name of the schema in that database, created if missing. No command or URL reaches another than the default.
        connections: Maximum number of connections, 1 or more; listening for notifications takes another one.
        command_timeout: Seconds that a statement may take before a call raises `StoreError`, above 0, up to a day.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is out of range, or the URL cannot be read.
    """

    @shielded
    def __init__(self, dsn: str, *, schema: str = SCHEMA_NAME, connections: int = 4, command_timeout: float = 5.0) -> None:
        address = address_of(dsn, "dsn")
        _check_schema(schema)
        check_whole(connections, "connections", at_least=1)
        check_number(command_timeout, "command_timeout", above=0, at_most=86_400, unit="seconds")
        engine = Engine(address, SCHEMA, namespace=schema, connections=connections, command_timeout=float(command_timeout))
        super().__init__(engine)
        self._accepting = self._group("accept events", self._accept, at_once=KEPT)
        self._comparing = self._group("accept events that settle what may have settled", self._compare, at_once=KEPT)
        self._recording = self._group("record outcomes", self._record)
        self._finishing = self._group("finish jobs", self._finish)
        self._adding = self._group("add pending operations", self._add)
        self._settling = self._group("settle polls", self._settle)

    # events

    async def accept(self, event: Event) -> Acceptance:
        self._check_open()
        self._engine.check_answering()
        arrival = postgres_events.arrival_of(event)
        accepted = await self._accepting.add(arrival, arrival.size)
        if accepted is None:
            accepted = await self._comparing.add(arrival, arrival.size)
        return accepted  # type: ignore[no-any-return]

    async def amend(self, event_id: int, event: Event) -> None:
        await self._change(lambda change: postgres_events.amend(change, event_id, event))

    async def find_events(self, query: EventQuery) -> Sequence[StoredEvent]:
        return await self._read(lambda db: postgres_events.events(db, query))

    # handlers

    async def register_handlers(self, subscriptions: Sequence[Subscription]) -> None:
        async with self._serving:
            await self._change(lambda change: postgres_jobs.register(change, subscriptions))

    async def release_handlers(self, subscriptions: Sequence[Subscription]) -> None:
        async with self._serving:
            await self._change(lambda change: postgres_jobs.release(change, subscriptions))

    async def list_handlers(self) -> Sequence[HandlerStatus]:
        return await self._read(postgres_jobs.statuses)

    async def retire_handler(self, service: str, handler: str) -> int:
        await self._change(lambda change: postgres_jobs.unsubscribe(change, service, handler))
        event_ids = await self._read(lambda db: postgres_jobs.ready(db, service, handler))
        return await self._each_slice(event_ids, lambda change, ids: postgres_jobs.retire(change, service, handler, ids))

    async def claim_jobs(self, handler: str, *, scopes: Collection[str], limit: int, lease: float) -> Sequence[ClaimedJob]:
        self._check_open()
        fence = self._member.new_fence()

        async def claim(change: Change) -> Sequence[ClaimedJob] | None:
            return await postgres_jobs.claim(change, fence, handler, scopes, limit, lease)

        claimed: Sequence[ClaimedJob] | None = None
        while claimed is None:
            claimed, change = await self._in_one_statement(claim)
            self._committed(change)
        return claimed

    async def finish_job(self, job: Job) -> bool:
        self._check_open()
        return await self._finishing.add(job)  # type: ignore[no-any-return]

    async def fail_job(self, job: Job, *, reason: str, retry_in: float | None) -> bool:
        return await self._change(lambda change: postgres_jobs.fail(change, job, reason, retry_in))

    async def requeue(self, event_ids: Sequence[int], *, every_handler: bool = False) -> int:
        return await self._each_slice(
            event_ids, lambda change, ids: postgres_jobs.requeue(change, ids, every_handler=every_handler)
        )

    # outcomes

    async def outcome(self, ref: OperationRef) -> Outcome | None:
        found = await self.outcomes([ref])
        return found[0] if found else None

    async def outcomes(self, refs: Sequence[OperationRef]) -> Sequence[Outcome]:
        return await self._read(lambda db: postgres_outcomes.outcomes(db, refs))

    async def outcomes_by_key(self, scope: str, kind: str, key: str) -> Sequence[Outcome]:
        return await self._read(lambda db: postgres_outcomes.outcomes_by_key(db, scope, kind, key))

    async def conflicts(self, ref: OperationRef) -> Sequence[Outcome]:
        found = await self._read(lambda db: postgres_outcomes.conflicts(db, [ref]))
        return next(iter(found.values()), [])

    async def find_outcomes(self, query: OutcomeQuery) -> Sequence[StoredOutcome]:
        return await self._read(lambda db: postgres_outcomes.listed_outcomes(db, query))

    async def record_outcome(self, outcome: Outcome) -> Recorded:
        self._check_open()
        self._engine.check_answering()
        kept = packed(outcome)
        return await self._recording.add(kept, kept.size)  # type: ignore[no-any-return]

    # pending operations and polls

    async def watch(
        self, refs: Sequence[OperationRef], *, poll_in: float, confirmed: bool = False, waiter: str = ""
    ) -> Sequence[Outcome]:
        self._check_open()
        call = postgres_polls.Watch(refs=list(map(clean_ref, refs)), poll_in=poll_in, confirmed=confirmed, waiter=waiter)
        return await self._watching.add(call, call.size)  # type: ignore[no-any-return]

    async def add_pending(self, refs: Sequence[OperationRef], *, poll_in: float) -> None:
        self._check_open()
        await self._unwatched()
        await self._adding.add((list(refs), poll_in), len(refs) * postgres_polls.BYTES_OF_A_REF)

    async def remove_pending(self, refs: Sequence[OperationRef]) -> int:
        return await self._change(lambda change: postgres_polls.remove(change, refs))

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
        self._check_open()
        await self._unwatched()
        return await self._read(lambda db: postgres_polls.listed_pending(db, scope, kind, uid, after, limit))

    async def pending(self, refs: Sequence[OperationRef]) -> Sequence[PendingOperation]:
        self._check_open()
        await self._unwatched()
        return await self._read(lambda db: postgres_polls.pending(db, refs))

    async def hurry_polls(self, refs: Sequence[OperationRef], priority: Priority) -> None:
        await self._change(lambda change: postgres_polls.hurry(change, refs, priority))

    async def claim_polls(self, scope: str, *, limit: int, lease: float, max_per_second: float) -> PollClaims:
        wait, now = await self._read(lambda db: postgres_polls.next_in(db, scope))
        self._member.polled_at[scope, max_per_second] = now
        if wait > 0 and not postgres_polls.must_write_rate(self._member, scope, max_per_second, now):
            return PollClaims(claims=(), next_in=wait)  # reading disturbs no other process
        return await self._change(lambda change: postgres_polls.claim(change, scope, limit, lease, max_per_second))

    async def permit_poll(self, scope: str, *, max_per_second: float) -> PollPermit:
        return await self._change(lambda change: postgres_polls.permit(change, scope, max_per_second))

    async def settle_polls(self, results: Sequence[PollResult]) -> None:
        self._check_open()
        await self._unwatched()
        await self._settling.add(list(results))

    async def resume_polls(self, scope: str) -> None:
        await self._change(lambda change: postgres_polls.resume(change, scope))

    async def pause_polls(self, scope: str, seconds: float, *, refused: bool = False) -> None:
        check_number(seconds, "seconds", above=0, unit="seconds")
        await self._change(lambda change: postgres_polls.pause(change, scope, seconds, refused=refused))

    # upkeep

    async def upkeep(self, *, keep: float, keep_bodies: float | None = None, keep_dead: float = DEAD_DAYS * DAY) -> bool:
        check_keep(keep, keep_bodies, keep_dead)
        if not await self._change(lambda change: change.claim_moment("upkeep", UPKEEP_EVERY)):
            return False
        identities = await self._read(postgres_upkeep.count_identities)
        await remove_old(self, keep=keep, keep_bodies=keep_bodies, keep_dead=keep_dead, identities=identities)
        return True

    async def purge(self, older_than: float, *, state: EventState = EventState.DONE, limit: int | None = None) -> int:
        check_purge(older_than, limit, state)
        before = await self._before(older_than)
        return await self._in_slices(lambda change, max_rows: postgres_upkeep.purge(change, state, before, max_rows), limit)

    async def purge_outcomes(self, older_than: float, *, limit: int | None = None) -> int:
        check_purge(older_than, limit)
        before = await self._before(older_than)
        return await self._in_slices(lambda change, max_rows: postgres_upkeep.purge_outcomes(change, before, max_rows), limit)

    async def purge_identities(self, *, limit: int | None = None) -> int:
        check_limit(limit)
        now = await self._change(postgres_upkeep.today)
        return await self._in_slices(lambda change, max_rows: postgres_upkeep.purge_identities(change, now, max_rows), limit)

    async def erase_bodies(self, older_than: float, *, limit: int | None = None) -> int:
        check_purge(older_than, limit)
        before = await self._before(older_than)
        place = (-math.inf, 0)  # those before it are erased; scanning them each time would take long

        def advance(reached: tuple[float, int]) -> None:
            nonlocal place
            place = reached

        async def erase(change: Change, max_rows: int) -> int:
            count, reached = await postgres_upkeep.erase_bodies(change, before, max_rows, place)
            change.after.append(partial(advance, reached))
            return count

        return await self._in_slices(erase, limit)

    async def forget_user(self, uid: str) -> int:
        check_id(uid, "uid")
        count = await self._forget(partial(postgres_upkeep.events_about, uid=uid), postgres_upkeep.forget_events)
        for table in ("outcome", "conflict"):
            about = partial(postgres_upkeep.resources_about, uid=uid, table=table)
            forgotten = await self._forget(about, partial(postgres_upkeep.forget_resources, table=table))
            count += forgotten if table == "outcome" else 0  # a conflict is counted by its event
        return count

    async def statistics(self) -> StoreStatistics:
        return await self._read(postgres_upkeep.statistics)

    async def activity(self) -> StoreActivity:
        self._check_open()
        await self._unwatched()
        return await self._read(lambda db: postgres_polls.activity(db, self._member))

    async def ping(self) -> None:
        self._check_open()
        await self._engine.transact(postgres_upkeep.probe, first=True)

    async def _before(self, older_than: float) -> float:
        return await self._change(postgres_upkeep.today) - older_than

    # the work of batches

    async def _accept(self, arrivals: Sequence[Arrival]) -> tuple[Sequence[Acceptance | None], list[Notification]]:
        """Accept a batch in one statement; None for each event that is left to `_compare`."""
        batch, none = postgres_events.Batch.of(arrivals), [None] * len(arrivals)
        if not batch.is_plain:
            return none, []
        try:
            accepted, change = await self._in_one_statement(partial(postgres_events.accept_plain, batch=batch), first=True)
        except StatementRefused:  # one of the operations has settled meanwhile
            return none, []
        self._committed(change)
        fresh, left = accepted
        verdicts = postgres_events.verdicts_on(arrivals, fresh)
        return [
            None if one.event.identity in left else verdict for one, verdict in zip(arrivals, verdicts, strict=True)
        ], change.notifications

    async def _compare(self, arrivals: Sequence[Arrival]) -> tuple[Sequence[Acceptance], list[Notification]]:
        batch = postgres_events.Batch.of(arrivals)
        fresh, change = await self._transact(partial(postgres_events.accept_and_compare, batch=batch), first=True)
        self._committed(change)
        return postgres_events.verdicts_on(arrivals, fresh), change.notifications

    async def _record(self, some: Sequence[PackedOutcome]) -> tuple[Sequence[Recorded], list[Notification]]:
        recorded, change = await self._transact(lambda change: postgres_events.record_outcomes(change, some))
        self._committed(change)
        return recorded, change.notifications

    async def _finish(self, jobs: Sequence[Job]) -> tuple[Sequence[bool], list[Notification]]:
        finished, change = await self._transact(lambda change: postgres_jobs.finish(change, jobs))
        return finished, change.notifications

    async def _add(self, calls: Sequence[tuple[Sequence[OperationRef], float]]) -> tuple[Sequence[None], list[Notification]]:
        _, change = await self._transact(lambda change: postgres_polls.add(change, calls))
        self._committed(change)
        return [None] * len(calls), change.notifications

    async def _settle(self, calls: Sequence[Sequence[PollResult]]) -> tuple[Sequence[None], list[Notification]]:
        _, change = await self._transact(lambda change: postgres_polls.settle(change, [one for some in calls for one in some]))
        self._committed(change)
        return [None] * len(calls), change.notifications


def _check_schema(schema: str) -> str:
    check_str(schema, "schema")
    if not schema or len(schema.encode()) > 63 or not schema.isprintable() or schema.startswith("pg_"):
        raise ValueError("schema: give 1 to 63 printable characters that do not begin with 'pg_'.")
    return schema
