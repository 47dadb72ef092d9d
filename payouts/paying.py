"""What happens to one row: it is written down, sent under its key, and led to where the answer says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from payouts.settling import Settling, state_after
from payouts.states import Entry, State
from payouts.vendors import Later, Meaning, Vendor, meaning_of
from vendor_http.errors import (
    Conflict,
    Forbidden,
    OperationFailed,
    OperationMismatch,
    OutcomeUnknown,
    RequestRejected,
    Unauthorized,
    VendorError,
)

if TYPE_CHECKING:
    from payouts.ledger import Ledger
    from payouts.progress import Pace, Progress, Stop
    from vendor_http.operations import Operation

_LIST_LAG = 2.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 15.0
_MOST_FORBIDDEN = 10
_STATES = {Meaning.REJECTED: State.REJECTED, Meaning.MISMATCH: State.MISMATCH, Meaning.UNKNOWN: State.UNKNOWN}


class Paying:
    """Lead single rows on; safe for many at once.

    Args:
        vendor: Who pays.
        ledger: Where every step is written before the next one is made.
        settling: What accepted rows are waited for with, None if nobody waits.
        progress: What is counted.
        stop: The wish to end; also made here, where going on would be of no use.
        pace: When the next row may leave.
        max_pending: Rows accepted and not settled at one time.
        patience: Seconds for which a vendor that cannot be reached is tried.
        ended: Called with each row that this run is done with.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        vendor: Vendor,
        ledger: Ledger,
        settling: Settling | None,
        *,
        progress: Progress,
        stop: Stop,
        pace: Pace,
        max_pending: int,
        patience: float,
        ended: Callable[[Entry], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        self.cause: VendorError | None = None
        self.accepted_here: set[str] = set()
        self._vendor = vendor
        self._ledger = ledger
        self._settling = settling
        self._progress = progress
        self._stop = stop
        self._pace = pace
        self._slots = asyncio.Semaphore(max_pending)
        self._patience = patience
        self._ended = ended
        self._clock = clock
        self._ill_since: float | None = None
        self._forbidden = 0

    async def pay(self, entry: Entry) -> None:
        """Send a row, unless the end is asked for before it may leave."""
        if await self._slot() and not await self._pay(entry):
            self._slots.release()

    async def wait_for(self, entry: Entry) -> None:
        """Wait for a row that an earlier run left accepted, once there is room among those that wait."""
        later, settling = self._vendor.later, self._settling
        if later is not None and settling is not None and await self._slot():
            self._wait(later, settling, entry, urgent=True)

    async def find_out(self, entry: Entry) -> None:
        """Ask what became of a row whose answer was never read; one that the vendor does not hold stays as it is."""
        later = self._vendor.later
        if later is None:
            if not self._vendor.may_repeat:
                told = "the run ended before the answer came, and the vendor cannot be asked; settle it with `payouts resolve`"
                await self._ended(await self._ledger.move(entry, State.UNKNOWN, problem=told))
            return
        found = await self._looked_up(later, entry)
        if found is None or not await self._slot():
            return
        self.accepted_here.add(found.ref.uid)
        if not await self._accept(later, entry, found, urgent=True):
            self._slots.release()

    async def waited(self, entry: Entry) -> None:
        """Take back the place of a row that is not waited for any more."""
        self._slots.release()
        self._progress.pending -= 1
        await self._ended(entry)

    async def _pay(self, entry: Entry) -> bool:
        """Return whether the row is waited for now."""
        first = entry.state is State.PLANNED
        pause = _FIRST_PAUSE
        while await self._pace.turn():
            if entry.state is not State.SENT:
                entry = await self._ledger.move(entry, State.SENT)
            self._progress.in_flight += 1
            try:
                operation = await self._vendor.pay(entry)
            except VendorError as trouble:
                problem = trouble
            else:
                self._well()
                return await self._paid(entry, operation)
            finally:
                self._progress.in_flight -= 1
            meaning = meaning_of(problem)
            if meaning in _STATES:
                return await self._not_paid(entry, problem, meaning, first=first)
            if first:  # of a row that an earlier run may have sent nobody can say that nothing happened
                entry = await self._ledger.move(entry, State.PLANNED, problem=problem)
            if meaning is Meaning.STOP or not await self._better_later(problem, pause):
                self._give_up(problem)
                break
            pause = min(pause * 2, _LONGEST_PAUSE)
        return False

    async def _paid(self, entry: Entry, operation: Operation | None) -> bool:
        later = self._vendor.later
        if operation is not None and later is not None:
            return await self._accept(later, entry, operation, urgent=later.held_before(operation))
        await self._ended(await self._ledger.move(entry, State.DONE, settled_by="reply"))
        return False

    async def _not_paid(self, entry: Entry, problem: VendorError, meaning: Meaning, *, first: bool) -> bool:
        if meaning is Meaning.REJECTED and not first:
            later = self._vendor.later
            found, sure = await self._look_once_more(later, entry) if later else (None, False)
            if later is not None and found is not None:
                return await self._accept(later, entry, found, urgent=True)
            if not sure:
                meaning = Meaning.UNKNOWN
        existing = problem.existing if isinstance(problem, Conflict) else None
        uid = None if existing is None else existing.ref.uid
        await self._ended(await self._ledger.move(entry, _STATES[meaning], uid=uid, problem=problem))
        self._forbidden = self._forbidden + 1 if isinstance(problem, Forbidden) else 0
        if self._forbidden >= _MOST_FORBIDDEN:
            self._give_up(problem)
        if not isinstance(problem, OutcomeUnknown):
            self._well()
        return False

    async def _look_once_more(self, later: Later, entry: Entry) -> tuple[Operation | None, bool]:
        """Return what the vendor holds now of a row that an earlier run may have sent, and whether that can be relied on."""
        await self._stop.pause(_LIST_LAG)
        try:
            return await later.look_up(entry), True
        except VendorError:
            return None, False

    async def _accept(self, later: Later, entry: Entry, operation: Operation, *, urgent: bool) -> bool:
        """Write down what the vendor named; return whether it is waited for now."""
        uid = operation.ref.uid
        if self._settling is not None and self._settling.knows(uid):
            told = f"the vendor named {uid} for this row and for another one, so that one of them cannot have been paid"
            await self._ended(await self._ledger.move(entry, State.MISMATCH, uid=uid, problem=told))
            return False
        entry = await self._ledger.move(entry, State.ACCEPTED, uid=uid)
        if operation.status.terminal:
            await self._conclude(later, entry, operation)
        elif self._settling is None:
            await self._ended(entry)
        else:
            self._wait(later, self._settling, entry, urgent=urgent)
            return True
        return False

    def _wait(self, later: Later, settling: Settling, entry: Entry, *, urgent: bool) -> None:
        self._progress.pending += 1
        settling.add(entry, later.asked(entry), urgent=urgent)

    async def _conclude(self, later: Later, entry: Entry, final: Operation) -> None:
        problem: VendorError | None = None
        try:
            later.conclude(entry, final)
        except (OperationFailed, OperationMismatch) as told:
            problem = told
        await self._ended(await self._ledger.move(entry, state_after(problem), settled_by="poll", problem=problem))

    async def _looked_up(self, later: Later, entry: Entry) -> Operation | None:
        pause = _FIRST_PAUSE
        while not self._stop.wished:
            try:
                found = await later.look_up(entry)
            except VendorError as problem:
                if isinstance(problem, RequestRejected) and meaning_of(problem) is Meaning.REJECTED:
                    return None
                if isinstance(problem, Unauthorized) or not await self._better_later(problem, pause):
                    self._give_up(problem)
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                self._well()
                return found
        return None

    async def _slot(self) -> bool:
        """Take a place among those that may wait; return False if the end is asked for first."""
        if self._stop.wished:
            return False
        if not self._slots.locked():
            return await self._slots.acquire()
        return await self._stop.before(self._slots.acquire())

    def _well(self) -> None:
        self._ill_since = None

    async def _better_later(self, problem: VendorError, pause: float) -> bool:
        """Wait a little before the vendor is tried again; return False once that has gone on for too long."""
        now = self._clock()
        if self._ill_since is None:
            self._ill_since = now
        if now - self._ill_since > self._patience:
            return False
        await self._stop.pause(max(pause, getattr(problem, "retry_after", None) or 0.0))
        return True

    def _give_up(self, problem: VendorError) -> None:
        self.cause = self.cause or problem
        self._stop.wish()
