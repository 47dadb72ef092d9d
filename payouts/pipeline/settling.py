"""Wait for what the vendor has accepted, look for rows whose answer was lost, and store how each ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from payouts.payer import restated
from payouts.states import Entry, State
from rewards_core.backoff import outage_delay
from rewards_core.errors import NotFound, OperationCancelled, OperationFailed, OperationMismatch, StoreError
from rewards_core.log_limit import LogLimit
from webhooks import CompletionTimeout

if TYPE_CHECKING:
    from payouts.ledger.base import RowLedger
    from payouts.payer import Lookups
    from rewards_core.operations import Operation, OperationRef
    from webhooks import Completion, Completions, CompletionStream

logger = logging.getLogger(__name__)


class Settlement:
    """Follow accepted rows to their end, without a task for each while they wait.

    Args:
        completions: Tells how operations end.
        ledger: Where it is stored.
        lookups: The vendor's look-ups.
        timeout: Seconds to wait for each row, None for as long as it takes.
        lookup_timeout: Seconds for which a row without an answer is looked for, in events and at the vendor.
        retry_store_errors: Whether to wait again while the store of the completions fails; else its error ends `run`.
        ended: Called with each row that is no longer waited for, once that is stored.
    """

    def __init__(
        self,
        completions: Completions,
        ledger: RowLedger,
        lookups: Lookups,
        *,
        timeout: float | None,
        lookup_timeout: float,
        retry_store_errors: bool,
        ended: Callable[[Entry], None],
    ) -> None:
        self._completions = completions
        self._ledger = ledger
        self._lookups = lookups
        self._timeout = timeout
        self._lookup_timeout = lookup_timeout
        self._retry_store_errors = retry_store_errors
        self._ended = ended
        self._waiting: dict[str, Entry] = {}
        self._reserved: set[str] = set()
        self._fresh: asyncio.Queue[OperationRef | None] = asyncio.Queue()
        self._urgent: asyncio.Queue[OperationRef | None] = asyncio.Queue()
        self._streams: list[CompletionStream[Any]] = []
        self._searches = asyncio.TaskGroup()
        self._searching: set[asyncio.Task[None]] = set()
        self._no_more = asyncio.Event()
        self._given_up = False
        self._log_limit = LogLimit()

    def knows(self, uid: str) -> bool:
        """Return whether a row waits for this operation, or soon will."""
        return uid in self._waiting or uid in self._reserved

    def reserve(self, uid: str) -> None:
        """Keep an operation for the row that will wait for it once that is stored."""
        self._reserved.add(uid)

    def add(self, entry: Entry, *, urgent: bool) -> None:
        """Wait for an accepted row.

        Args:
            entry: The row, its uid known and not waited for yet.
            urgent: Poll the vendor at once, because the outcome may have arrived before the run began to wait.
        """
        ref = self._lookups.ref(entry)
        self._reserved.discard(ref.uid)
        self._waiting[ref.uid] = entry
        (self._urgent if urgent else self._fresh).put_nowait(ref)

    def search(self, entry: Entry) -> None:
        """Look for the operation of an unknown row, and wait for it once it is found."""
        task = self._searches.create_task(self._search(entry), name=f"search for {entry.key}")
        self._searching.add(task)
        task.add_done_callback(self._searching.discard)

    def no_more(self) -> None:
        """Let `run` end once everything that is waited for has ended."""
        self._no_more.set()

    async def run(self) -> None:
        """Wait until `no_more` was called and every row has ended, or `give_up` was called."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow(self._fresh, tasks, poll_now=False))
            tasks.create_task(self._follow(self._urgent, tasks, poll_now=True))
            async with self._searches:
                await self._no_more.wait()
            self._fresh.put_nowait(None)
            self._urgent.put_nowait(None)

    async def give_up(self) -> None:
        """Stop waiting; rows that have not ended stay accepted or unknown."""
        self._given_up = True
        self.no_more()
        for search in self._searching:
            search.cancel()
        for stream in self._streams:
            await stream.aclose()

    async def _search(self, entry: Entry) -> None:
        repeats = 0
        while True:
            try:
                ref = await self._completions.find(self._lookups.unknown(entry), timeout=self._lookup_timeout)
                break
            except CompletionTimeout:
                self._ended(entry)
                return
            except StoreError as problem:
                await self._pause_after(problem, repeats)
                repeats += 1
        if self.knows(ref.uid):
            self._ended(await self._ledger.move(entry, State.MISMATCH, uid=ref.uid, problem=named_twice(ref.uid)))
        else:
            self.reserve(ref.uid)
            self.add(await self._ledger.move(entry, State.ACCEPTED, uid=ref.uid), urgent=True)

    async def _follow(self, accepted: asyncio.Queue[OperationRef | None], tasks: asyncio.TaskGroup, *, poll_now: bool) -> None:
        intake, repeats = _Intake(accepted), 0
        while not self._given_up:
            try:
                async with self._completions.as_completed(intake.refs(), timeout=self._timeout, poll_now=poll_now) as stream:
                    self._streams.append(stream)
                    async for completion in stream:
                        repeats = 0
                        intake.ended(completion.ref)
                        tasks.create_task(self._store(self._waiting.pop(completion.ref.uid), completion))
                return
            except StoreError as problem:
                self._streams.remove(stream)
                await self._pause_after(problem, repeats)
                repeats += 1

    async def _pause_after(self, problem: StoreError, repeats: int) -> None:
        if not self._retry_store_errors:
            raise problem
        if self._log_limit.allows("store"):
            logger.warning("the store of webhooks failed; accepted rows are waited for again when it is back: %s", problem)
        await asyncio.sleep(outage_delay(repeats))

    async def _store(self, entry: Entry, completion: Completion[Any]) -> None:
        state, problem = outcome_of(self._lookups, entry, completion.operation, completion.error)
        if state is not State.ACCEPTED:
            entry = await self._ledger.move(entry, state, settled_by=completion.via, problem=problem)
        self._ended(entry)


def outcome_of(
    lookups: Lookups, entry: Entry, final: Operation | None, problem: Exception | None = None
) -> tuple[State, Exception | None]:
    """Return the state to which the end of an operation leads its row, and the problem to store with it.

    Args:
        lookups: Compares the operation with what the row asked for.
        entry: The row, accepted.
        final: The operation in its final state, if it has one.
        problem: How the wait ended otherwise.

    Raises:
        Exception: the problem itself, if it is not this row's.
    """
    if final is not None:
        problem = None
        try:
            lookups.conclude(entry, final)
        except (OperationFailed, OperationCancelled, OperationMismatch) as told:
            problem = restated(told, looked_up=True)
    if problem is None:
        return State.DONE, None
    for kind, state in _STATES.items():
        if isinstance(problem, kind):
            return state, problem
    raise problem


_STATES: dict[type[Exception], State] = {
    OperationMismatch: State.MISMATCH,
    OperationFailed: State.FAILED,
    OperationCancelled: State.FAILED,
    NotFound: State.UNKNOWN,
    CompletionTimeout: State.ACCEPTED,
}


def named_twice(uid: str) -> str:
    """Return the problem of a row for which the vendor returned the uid of another row."""
    return f"the vendor gave this row and another one the same uid, {uid}, so one of them cannot have been paid"


class _Intake:
    """Gives a stream the operations to wait for; if it fails, gives those that have not ended to the next stream."""

    def __init__(self, queue: asyncio.Queue[OperationRef | None]) -> None:
        self._queue = queue
        self._given: dict[str, OperationRef] = {}
        self._over = False

    async def refs(self) -> AsyncIterator[OperationRef]:
        """Yield the operations that have not ended, then those from the queue until None."""
        for ref in list(self._given.values()):
            yield ref
        while not self._over:
            new = await self._queue.get()
            if new is None:
                self._over = True
            else:
                self._given[new.uid] = new
                yield new

    def ended(self, ref: OperationRef) -> None:
        """Forget an operation that has ended."""
        del self._given[ref.uid]
