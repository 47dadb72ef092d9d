"""The store of one host: durable, written by one process, read by any."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from rewards_core.validation import check_callable, check_flag, check_number, check_path
from webhooks.errors import StoreClosed, StoreError
from webhooks.store.base import (
    Acceptance,
    ClaimedJob,
    EventState,
    Job,
    Outcome,
    Recorded,
    StoredEvent,
    StoreStatistics,
    Subscriber,
)
from webhooks.store.listing import EventListing, EventQuery
from webhooks.store.memory import MemoryStore
from webhooks.store.sqlite_file import cannot_open
from webhooks.store.sqlite_guard import WriterLock
from webhooks.store.sqlite_reads import Reader
from webhooks.store.sqlite_rows import Arrival, PackedOutcome
from webhooks.store.sqlite_threads import ReaderThread, WriterThread
from webhooks.store.sqlite_writes import News, Writer
from webhooks.store.subscribers import Subscribers

if TYPE_CHECKING:
    from pathlib import Path

    from rewards_core.operations import Event, OperationRef

T = TypeVar("T")

_SLICE = 500
_PENDING_SLICE = 1_000


class SQLiteStore(EventListing):
    """Keep everything in one file, so that what was acknowledged survives the process and a power cut.

    Deliveries that wait at the same moment share one transaction and one fsync. The first process to open the file writes it, as
    long as it lives; in any other, and in a second store object on the file, the store is read-only: what is recorded or
    registered through it stays in that process, and outcomes that the writer records are seen within 100 ms.

    Args:
        path: The file, made if missing, readable by its owner alone; beside it stand `-wal`, `-shm` and `.lock`.
        read_only: Never write, even if nobody else does.
        busy_timeout: Seconds to wait where somebody else locks the file, up to a day, before a call raises `StoreError`.
        clock: Returns Unix time in seconds.

    Raises:
        StoreError: the file's folder is missing or not writable.
        TypeError: an argument is of another type.
        ValueError: `busy_timeout` is negative or more than a day.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        busy_timeout: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_flag(read_only, "read_only")
        check_number(busy_timeout, "busy_timeout", at_least=0, at_most=86_400, unit="seconds")
        self._path = check_path(path, "path")
        self._clock = check_callable(clock, "clock")
        self._lock = WriterLock(self._path)
        try:
            self._local = MemoryStore(clock=clock) if read_only or not self._lock.take() else None
        except OSError as problem:
            raise cannot_open(self._lock.path, problem) from None
        self._closed = False
        self._letting_go: asyncio.Task[None] | None = None
        self._process = _process
        self._subscribers = Subscribers()
        self._conflict_handlers: dict[str, Sequence[str]] = {}
        self._writing = WriterThread(self._path, self._lock, busy_timeout, clock, self._conflict_handlers, self._tell)
        self._reading = ReaderThread(self._path, busy_timeout, self._tell)

    @property
    def read_only(self) -> bool:
        """Whether another process does the writing."""
        return self._local is not None

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    async def accept(self, event: Event, *, handlers: Sequence[str] = ()) -> Acceptance:
        """Keep an event unless its identity is known, together with all that follows from it."""
        self._check_writing()
        return await self._writing.together(Writer.accept, Arrival.of(event, handlers, self._clock()))

    async def accept_all(self, arrivals: Sequence[tuple[Event, Sequence[str]]]) -> Sequence[Acceptance | Exception]:
        """Keep several events, each as `accept` does and whatever becomes of the others."""
        self._check_writing()
        at = self._clock()
        keeping: list[asyncio.Future[Acceptance] | Exception] = []
        for event, handlers in arrivals:
            try:
                keeping.append(self._writing.together(Writer.accept, Arrival.of(event, handlers, at)))
            except Exception as problem:  # noqa: BLE001 - what one event is must not fail the others
                keeping.append(problem)
        results: list[Acceptance | Exception] = []
        for one in keeping:
            try:
                results.append(one if isinstance(one, Exception) else await one)
            except Exception as problem:  # noqa: BLE001 - told with the result
                results.append(problem)
        return results

    async def amend(self, event_id: int, event: Event) -> None:
        """Replace a kept event by what a later reading of its body found."""
        self._check_writing()
        arrival = Arrival.of(event, (), self._clock())
        await self._writing.run(lambda writer: writer.amend(event_id, arrival))

    def route_conflicts(self, handlers: Mapping[str, Sequence[str]]) -> None:
        """Say which handlers get a job on `outcome.conflict` events from now on."""
        self._check_open()
        self._conflict_handlers.update(handlers)

    async def outcome(self, ref: OperationRef) -> Outcome | None:
        """Return the outcome that stands, the first one."""
        found = await self.outcomes([ref])
        return found[0] if found else None

    async def outcomes(self, refs: Sequence[OperationRef]) -> Sequence[Outcome]:
        """Return the outcomes that stand of those refs that have one."""
        self._check_open()
        if self._local is None:
            return await self._read(lambda reader: reader.outcomes(refs))
        here = list(await self._local.outcomes(refs))
        known = {outcome.ref for outcome in here}
        others = [ref for ref in refs if ref not in known]
        return here + (await self._read(lambda reader: reader.outcomes(others)) if others else [])

    async def outcomes_by_key(self, scope: str, kind: str, key: str) -> Sequence[Outcome]:
        """Return the outcomes that stand of the operations made with an idempotency key."""
        here = [] if self._local is None else await self._local.outcomes_by_key(scope, kind, key)
        known = {outcome.ref for outcome in here}
        kept = await self._read(lambda reader: reader.outcomes_by_key(scope, kind, key))
        return [*here, *(outcome for outcome in kept if outcome.ref not in known)]

    async def conflicts(self, ref: OperationRef) -> Sequence[Outcome]:
        """Return the later outcomes that differ from the first, oldest first."""
        here = [] if self._local is None else await self._local.conflicts(ref)
        return [*await self._read(lambda reader: reader.conflicts(ref)), *here]

    async def record_outcome(self, outcome: Outcome) -> Recorded:
        """Record how an operation ended; the first one stands."""
        if self._local is None:
            self._check_open()
            return await self._writing.together(Writer.record, PackedOutcome.of(outcome))
        for standing in await self.outcomes([outcome.ref]):
            await self._local.record_outcome(standing)
        return await self._local.record_outcome(outcome)

    async def add_pending(self, refs: Sequence[OperationRef]) -> None:
        """Register operations as unsettled."""
        self._check_open()
        if self._local is None:
            await self._writing.run(lambda writer: writer.add_pending(refs))
        else:
            settled = {outcome.ref for outcome in await self.outcomes(refs)}
            await self._local.add_pending([ref for ref in refs if ref not in settled])

    async def remove_pending(self, refs: Sequence[OperationRef]) -> None:
        """Take operations out of the pending ones."""
        self._check_open()
        if self._local is None:
            await self._writing.run(lambda writer: writer.remove_pending(refs))
        else:
            await self._local.remove_pending(refs)

    async def pending(self, scope: str) -> AsyncIterator[OperationRef]:
        """Iterate over the pending operations of a scope; read-only, over those of the file and then of this process."""
        after = ("", "")
        while True:
            refs = await self._read(lambda reader, after=after: reader.pending(scope, after, _PENDING_SLICE))  # type: ignore[misc]
            for ref in refs:
                yield ref
            if len(refs) < _PENDING_SLICE:
                break
            after = (refs[-1].kind, refs[-1].uid)
        if self._local is not None:
            async for ref in self._local.pending(scope):
                yield ref

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call the subscriber from now on."""
        self._check_open()
        self._subscribers.add(subscriber)
        if self._local is not None:
            self._local.subscribe(subscriber)
            self._reading.watch(True)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Call the subscriber no more."""
        self._subscribers.remove(subscriber)
        if self._local is not None:
            self._local.unsubscribe(subscriber)
            self._reading.watch(len(self._subscribers) > 0)

    def refused(self, reason: str) -> None:
        """Tell the subscribers of a delivery that was refused for its signature."""
        self._subscribers.refused(reason)

    async def claim_jobs(self, handler: str, *, limit: int, lease: float) -> Sequence[ClaimedJob]:
        """Lease due jobs of one handler to the caller, the longest due first."""
        self._check_open()
        if self._local is not None:
            return ()
        return await self._writing.run(lambda writer: writer.claim_jobs(handler, limit, lease))

    async def finish_job(self, job: Job) -> bool:
        """Mark a claimed job as done."""
        self._check_open()
        return self._local is None and await self._writing.together(Writer.finish_jobs, job)

    async def fail_job(self, job: Job, *, reason: str, retry_at: float | None) -> bool:
        """Give a claimed job back."""
        self._check_open()
        return self._local is None and await self._writing.run(lambda writer: writer.fail_job(job, reason, retry_at))

    async def retire_jobs(self, scopes: Collection[str], keep: Collection[str]) -> int:
        """Make ready jobs of handlers that are no more dead letters."""
        self._check_open()
        return 0 if self._local is not None else await self._writing.run(lambda writer: writer.retire_jobs(scopes, keep))

    async def claim_questions(self, scope: str, *, limit: int, lease: float) -> Sequence[OperationRef]:
        """Lease open questions to the caller, the longest due first."""
        self._check_open()
        if self._local is not None:
            return ()
        return await self._writing.run(lambda writer: writer.claim_questions(scope, limit, lease))

    async def close_questions(self, refs: Sequence[OperationRef]) -> None:
        """Close questions that will find no answer."""
        self._check_open()
        if self._local is None:
            await self._writing.run(lambda writer: writer.close_questions(refs))

    async def find_events(self, query: EventQuery) -> Sequence[StoredEvent]:
        """Return events that meet every condition, newest first."""
        return await self._read(lambda reader: reader.events(query))

    async def requeue(self, event_ids: Sequence[int], handlers: Sequence[str] | None = None) -> int:
        """Let handlers run again for kept events, with no attempts counted."""
        self._check_writing()
        return await self._writing.run(lambda writer: writer.requeue(event_ids, handlers))

    async def purge(self, before: float, *, state: EventState = EventState.DONE) -> int:
        """Remove events in that state received before a Unix time; their identities stay."""
        self._check_writing()
        if state is EventState.READY:
            raise ValueError("state: give EventState.DONE or EventState.DEAD, not READY; such events wait for their handlers.")
        count = 0
        while ids := await self._read(lambda reader: reader.purgeable(state, before, _SLICE)):
            count += await self._writing.run(lambda writer, ids=ids: writer.purge_events(ids, state))  # type: ignore[misc]
        now = self._clock()
        while identities := await self._read(lambda reader: reader.old_identities(now, _SLICE)):
            await self._writing.run(lambda writer, identities=identities: writer.purge_identities(identities))  # type: ignore[misc]
        return count

    async def purge_outcomes(self, before: float) -> int:
        """Remove outcomes settled before a Unix time, with their conflicts, and operations pending since before it."""
        self._check_writing()
        count = 0
        while refs := await self._read(lambda reader: reader.old_outcomes(before, _SLICE)):
            await self._writing.run(lambda writer, refs=refs: writer.purge_outcomes(refs))  # type: ignore[misc]
            count += len(refs)
        while refs := await self._read(lambda reader: reader.old_pending(before, _SLICE)):
            await self._writing.run(lambda writer, refs=refs: writer.purge_pending(refs, before))  # type: ignore[misc]
        return count

    async def statistics(self) -> StoreStatistics:
        """Count what is held in the file."""
        return await self._read(Reader.statistics)

    async def ping(self) -> None:
        """Return if the store can read and, unless read-only, write."""
        self._check_open()
        if self._local is None:
            await self._writing.run(Writer.touch)
        await self._read(Reader.changed)

    async def aclose(self) -> None:
        """Finish what is under way and let go of everything; who is cancelled meanwhile does not keep that from happening."""
        self._closed = True
        if self._letting_go is None:
            self._letting_go = asyncio.create_task(self._let_go(), name="close the store")
        await asyncio.shield(self._letting_go)

    async def _let_go(self) -> None:
        await self._reading.aclose()
        await self._writing.aclose()  # last, so that nobody keeps it from moving its log into the file
        self._lock.release()
        self._subscribers.clear()
        if self._local is not None:
            await self._local.aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("expected an open store, got one after aclose(); make a new one")
        if self._process is not _process:
            raise StoreError("expected a store made in this process, got one from before a fork; make a new one")

    def _check_writing(self) -> None:
        self._check_open()
        if self._local is not None:
            raise StoreError(
                f"expected to write {self._path}, got it read-only: another process writes it; send the change there"
            )

    async def _read(self, look: Callable[[Reader], T]) -> T:
        self._check_open()
        if self._local is None and not self._writing.opened:
            await self._writing.run(_nothing)  # makes the file, or brings its schema forward
        return await self._reading.run(look)

    def _tell(self, news: list[News]) -> None:
        for piece in news:
            if piece.settled is not None:
                self._subscribers.settled(piece.settled)
            if piece.asked is not None:
                self._subscribers.asked(piece.asked)
            if piece.moved:
                self._reading.look_again()
        if any(piece.ready for piece in news):
            self._subscribers.ready()


_process = object()
"""Stands for this process; asking the system for its id would cost more than the rest of a call's checks."""


def _forked() -> None:
    global _process
    _process = object()


os.register_at_fork(after_in_child=_forked)


def _nothing(_: object) -> None:
    """Ask for nothing but that the thread has begun."""
