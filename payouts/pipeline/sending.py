"""Send single rows under their keys, and take each to the state that the vendor's answer means."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from payouts.payer import LOOKED_UP, Lookups, Meaning, meaning_of, restated
from payouts.pipeline.settling import named_twice, outcome_of
from payouts.states import Entry, State
from rewards_core.backoff import delay
from rewards_core.clock import loop_time
from rewards_core.errors import (
    ClientClosed,
    ConfigurationError,
    Conflict,
    ConnectFailed,
    DeadlineExceeded,
    Forbidden,
    OutcomeUnknown,
    RateLimited,
    RewardsError,
    ServerFailed,
    Unauthorized,
    VendorError,
)

if TYPE_CHECKING:
    from payouts.ledger.base import Facts, Move, RowLedger
    from payouts.payer import Payer
    from payouts.pipeline.settling import Settlement
    from payouts.pipeline.slots import Slots
    from payouts.progress import Progress, Stop
    from rewards_core.operations import Operation

FIRST_PAUSE, _MAX_PAUSE = 1.0, 15.0
_MAX_FORBIDDEN = 10
_STATES = {
    Meaning.REJECTED: State.REJECTED,
    Meaning.MISMATCH: State.MISMATCH,
    Meaning.UNKNOWN: State.UNKNOWN,
    Meaning.UNKNOWN_STOP: State.UNKNOWN,
}
_PERMANENT = (Unauthorized, ClientClosed, ConfigurationError)
_OF_EVERY_ROW = (*_PERMANENT, ConnectFailed, RateLimited)
"""Errors of a look-up that any other recipient's look-up would meet as well."""
_TEMPORARY = (ServerFailed, DeadlineExceeded)
_MAX_TRIES = 3
_NOT_LISTED = f"it may have been carried out, and the vendor did not show it; {LOOKED_UP}"
_MAX_UNLISTED = 5
"""If this many lists in a row cannot be read, the vendor is in trouble, and not single recipients."""


_Step: TypeAlias = "tuple[Entry, State | None, Facts, Callable[[Entry], None]]"
"""A row, its next state (None: unchanged), the facts to store, and what to do once they are stored."""


class Sender:
    """Send rows; safe for many rows at once.

    Args:
        payer: The vendor that pays.
        ledger: The ledger in which every step is stored.
        settlement: Waits for accepted rows; None if the run does not wait.
        progress: The counters of the run.
        stop: The request to end the run; also made here when continuing would be pointless.
        slots: The slots of rows under way.
        concurrency: Requests under way at one time.
        outage_timeout: Seconds for which a vendor that cannot be reached is tried.
        max_refused: The number of consecutive refused rows after which the run ends; None for no limit.
        ended: Called with each row that this run is done with.

    Attributes:
        cause: The error that ended the run early.
        explanation: What it means, for the message.
        accepted_here: The numbers of rows that look-ups of this run found accepted.
    """

    _tasks: asyncio.TaskGroup

    def __init__(
        self,
        payer: Payer,
        ledger: RowLedger,
        settlement: Settlement | None,
        *,
        progress: Progress,
        stop: Stop,
        slots: Slots,
        concurrency: int,
        outage_timeout: float,
        max_refused: int | None,
        ended: Callable[[Entry], None],
    ) -> None:
        self.cause: RewardsError | None = None
        self.explanation = ""
        self.accepted_here: set[int] = set()
        self._payer = payer
        self._ledger = ledger
        self._settlement = settlement
        self._progress = progress
        self._stop = stop
        self._slots = slots
        self._lookups = asyncio.Semaphore(concurrency)
        self._concurrency = concurrency
        self._work: asyncio.Queue[tuple[Entry, bool, float | None]] = asyncio.Queue()
        self._steps: list[_Step] = []
        self._answered = asyncio.Event()
        self._outage_timeout = outage_timeout
        self._max_refused = max_refused
        self._ended = ended
        self._outage_since: float | None = None
        self._forbidden = self._refused = self._unlisted = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Send rows while the block runs, and afterwards until every answer is stored."""
        async with asyncio.TaskGroup() as self._tasks:
            workers = [self._tasks.create_task(self._worker()) for _ in range(self._concurrency)]
            workers.append(self._tasks.create_task(self._take_answers()))
            yield
            await self._work.join()
            for worker in workers:
                worker.cancel()

    def start(self, entry: Entry, at: float | None = None) -> None:
        """Send an admitted row that was marked as sent when it was planned or claimed; see `Slots.leave` for `at`."""
        self._work.put_nowait((entry, True, at))

    async def send(self, admitted: Sequence[tuple[Entry, float | None]]) -> None:
        """Send admitted rows, planned ones and some that may have been sent before and that the vendor does not list.

        Args:
            admitted: Each row with its `at`; see `Slots.leave`.
        """
        for entry, at in admitted:
            if entry.state is not State.PLANNED:
                self._work.put_nowait((entry, False, at))
        planned = [(entry, at) for entry, at in admitted if entry.state is State.PLANNED]
        moves: list[Move] = [(entry, State.SENT, {}) for entry, _ in planned]
        for sent, (_, at) in zip(await self._ledger.move_each(moves) if moves else (), planned, strict=True):
            self._work.put_nowait((sent, True, at))

    async def wait_for(self, entry: Entry) -> None:
        """Wait for a row that an earlier run left accepted, once there is room among the rows that wait."""
        if self._settlement is None or entry.uid is None:
            return
        if self._settlement.knows(entry.uid):
            self._ended(await self._ledger.move(entry, State.MISMATCH, problem=named_twice(entry.uid)))
        elif await self._slots.take_to_wait():
            self._wait(self._settlement, entry, urgent=True)

    async def look_up(self, entries: Sequence[Entry]) -> None:
        """Ask what became of one recipient's rows whose answers were lost.

        A row that is not listed stays as it is; one that may not be repeated is unknown, and is looked for a while longer.
        """
        lookups = self._payer.lookups
        if lookups is None:
            if not self._payer.may_repeat:
                told = "the run ended before the answer came, and the vendor has no look-up; settle it with `payouts resolve`"
                await self._store([(entry, State.UNKNOWN, {"problem": told}, self._ended) for entry in entries])
            return
        async with self._lookups:
            found = await self._find(lookups, entries)
        steps: list[_Step] = []
        for entry in entries:
            if entry.number not in found and (self._payer.may_repeat or entry.state is State.UNKNOWN):
                continue
            if not self._slots.take_now():
                await self._store(steps)  # these rows may hold the very slots that the next one needs
                steps = []
                if not await self._slots.take():
                    break
            if entry.number not in found:
                steps.append((entry, State.UNKNOWN, {"problem": _NOT_LISTED}, self._search))
                continue
            self.accepted_here.add(entry.number)
            steps.append(self._accepted(lookups, entry, found[entry.number], urgent=True))
        await self._store(steps)

    def waited(self, entry: Entry) -> None:
        """Free the slot of a row that is no longer waited for."""
        self._progress.pending -= 1
        self._slots.free_waiting()
        self._ended(entry)

    # one row's way

    async def _worker(self) -> None:
        """Make one request after the other."""
        while True:
            entry, first, at = await self._work.get()
            step = await self._request(entry, at, first=first)
            self._steps.append(step)
            self._answered.set()

    async def _take_answers(self) -> None:
        """Store together the answers that come in one pass of the loop.

        The ledger writes together what waits while it commits, but a call of it for each row costs more than its UPDATE: the
        payout then reaches 0.55 to 0.58 of the pace of the bare loop, and 0.60 to 0.72 with this (`benchmarks/payouts.py`; on one
        core 0.61 to 0.66 and 0.68 to 0.74).
        """
        while True:
            await self._answered.wait()
            self._answered.clear()
            steps, self._steps = self._steps, []
            self._tasks.create_task(self._store(steps))
            for _ in steps:
                self._work.task_done()

    async def _store(self, steps: Sequence[_Step]) -> None:
        """Store the new states of rows, and continue with each row."""
        moves: list[Move] = [(entry, state, facts) for entry, state, facts, _ in steps if state is not None]
        moved = iter(await self._ledger.move_each(moves) if moves else ())
        for entry, state, _, go_on in steps:
            go_on(entry if state is None else next(moved))

    async def _request(self, entry: Entry, at: float | None, *, first: bool) -> _Step:
        """Ask the vendor to pay until it answers or the run ends; return what follows for the row."""
        repeats = 0
        while await self._slots.leave(at):
            at = None
            if entry.state is State.PLANNED:
                entry = await self._ledger.move(entry, State.SENT)
            self._progress.in_flight += 1
            try:
                keys = await self._ledger.other_keys(entry)
                operation = await self._held_under(keys, entry) if keys else None
                operation = operation or await self._payer.pay(entry, repeated=not first)
            except (VendorError, ConfigurationError) as trouble:
                problem = trouble
            else:
                self._outage_since = None
                self._forbidden = self._refused = 0
                return self._paid(entry, operation, keys)
            finally:
                self._progress.in_flight -= 1
            meaning = meaning_of(problem)
            if meaning in _STATES:
                return self._not_paid(entry, problem, meaning, first=first)
            if first:  # a row that an earlier run may have sent stays as it is: this says nothing about the earlier request
                entry = await self._ledger.move(entry, State.PLANNED, problem=problem)
            if meaning is Meaning.STOP or not await self._pause(problem, repeats):
                self._give_up(problem)
            repeats += 1
        return entry, State.PLANNED if first and entry.state is State.SENT else None, {}, self._not_sent

    def _not_sent(self, _: Entry) -> None:
        self._slots.free()

    async def _held_under(self, keys: Collection[str], entry: Entry) -> Operation | None:
        """Return what the vendor holds for a row under its key or another that it had, or that a newer ledger gave it."""
        lookups = self._payer.lookups
        if lookups is None:
            return None
        try:
            return await lookups.held_under(entry, {*keys, entry.key})
        except VendorError as problem:
            if isinstance(problem, _OF_EVERY_ROW):
                raise
            unknown = lookups.unknown(entry)
            unknown.args = (f"it may have been paid under another key, and the user's list could not be read ({problem})",)
            raise unknown from problem

    def _paid(self, entry: Entry, operation: Operation | None, other_keys: Collection[str]) -> _Step:
        lookups = self._payer.lookups
        if operation is None or lookups is None:
            return entry, State.DONE, {"settled_by": "reply"}, self._end
        return self._accepted(lookups, entry, operation, other_keys, urgent=lookups.held_before(operation))

    def _accepted(
        self, lookups: Lookups, entry: Entry, operation: Operation, other_keys: Collection[str] = (), *, urgent: bool
    ) -> _Step:
        """Return the step of a row for which the vendor named an operation, perhaps under another of the row's keys."""
        uid, settlement = operation.ref.uid, self._settlement
        if settlement is not None and settlement.knows(uid):
            return entry, State.MISMATCH, {"uid": uid, "problem": named_twice(uid)}, self._end
        facts: Facts = {"uid": uid}
        if operation.key in other_keys:
            facts["settled_by"] = "lookup"
        if operation.status.terminal:
            return entry, State.ACCEPTED, facts, partial(self._conclude, lookups, operation)
        if settlement is None:
            return entry, State.ACCEPTED, facts, self._end
        settlement.reserve(uid)
        return entry, State.ACCEPTED, facts, partial(self._begin_waiting, settlement, urgent)

    def _conclude(self, lookups: Lookups, operation: Operation, entry: Entry) -> None:
        state, problem = outcome_of(lookups, entry, operation)
        self._tasks.create_task(self._store([(entry, state, {"settled_by": "poll", "problem": problem}, self._end)]))

    def _begin_waiting(self, settlement: Settlement, urgent: bool, entry: Entry) -> None:
        self._slots.free_sent()
        self._wait(settlement, entry, urgent=urgent)

    def _not_paid(self, entry: Entry, problem: RewardsError, meaning: Meaning, *, first: bool) -> _Step:
        """Return the step of a row that was not paid, or may not have been; end the run if other rows would meet the same."""
        if meaning is Meaning.REJECTED and not first:
            meaning = Meaning.UNKNOWN  # a refusal of this call says nothing about an earlier one
        told = self._restated(problem)
        forbidden = isinstance(problem, Forbidden)
        self._forbidden = self._forbidden + 1 if forbidden else 0
        self._refused += meaning is Meaning.REJECTED
        if not isinstance(problem, OutcomeUnknown):
            self._outage_since = None
        if self._max_refused is not None and self._refused >= self._max_refused:
            self._give_up(problem, f"{self._refused} consecutive rows were refused, the last one like this: ")
        elif meaning is Meaning.UNKNOWN_STOP or self._forbidden >= _MAX_FORBIDDEN:
            self._give_up(problem)
        if forbidden and not first:
            return entry, None, {}, self._end
        if _STATES[meaning] is State.UNKNOWN:
            return entry, State.UNKNOWN, {"problem": told}, self._search
        existing = problem.existing if isinstance(problem, Conflict) else None
        uid = None if existing is None else existing.ref.uid
        return entry, _STATES[meaning], {"uid": uid, "problem": told}, self._end

    def _search(self, entry: Entry) -> None:
        """Look for what became of an unknown row, if the run waits; it keeps its slot among the rows that wait."""
        if self._payer.lookups is None or self._settlement is None or self._stop.wished:
            self._end(entry)
        else:
            self._slots.free_sent()
            self._progress.pending += 1
            self._settlement.search(entry)

    def _wait(self, settlement: Settlement, entry: Entry, *, urgent: bool) -> None:
        self._progress.pending += 1
        settlement.add(entry, urgent=urgent)

    def _end(self, entry: Entry) -> None:
        self._slots.free()
        self._ended(entry)

    # rows of earlier runs

    async def _find(self, lookups: Lookups, entries: Sequence[Entry]) -> Mapping[int, Operation]:
        """Return the payments that the vendor lists for one recipient's rows; none if the list cannot be read."""
        tries = 0
        while await self._slots.turn():
            tries += 1
            try:
                found = await lookups.find(entries, self._slots.turn)
            except (VendorError, ConfigurationError) as problem:
                if not isinstance(problem, _OF_EVERY_ROW) and (tries == _MAX_TRIES or not isinstance(problem, _TEMPORARY)):
                    self._unlisted += 1
                    if self._unlisted >= _MAX_UNLISTED:
                        self._give_up(problem)
                    return {}
                if isinstance(problem, _PERMANENT) or not await self._pause(problem, tries - 1):
                    self._give_up(problem)
            else:
                self._outage_since = None
                self._unlisted = 0
                return found
        return {}

    # trouble

    async def _pause(self, problem: RewardsError, repeats: int) -> bool:
        """Wait a little before the vendor is tried again; return False once that has gone on for too long."""
        now = loop_time()
        if self._outage_since is None:
            self._outage_since = now
        asked_for: float = getattr(problem, "retry_after", None) or 0.0
        if now - self._outage_since + asked_for > self._outage_timeout:
            return False
        await self._stop.pause(max(delay(repeats, first=FIRST_PAUSE, longest=_MAX_PAUSE), asked_for))
        return True

    def _restated(self, problem: RewardsError) -> RewardsError:
        return restated(problem, looked_up=self._payer.lookups is not None, repeated=self._payer.may_repeat)

    def _give_up(self, problem: RewardsError, told: str = "") -> None:
        if self.cause is None:
            refused = "the vendor refused the credentials: " if isinstance(problem, Unauthorized) else ""
            said = str(self._restated(problem)).rstrip(".")
            self.cause, self.explanation = problem, f"{told}{refused}{said}"
        self._stop.wish()
