"""What happens to one row: it is sent under its key and led to where the answer says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from payouts.pipeline.settling import Settling, state_after
from payouts.states import Entry, State
from payouts.vendors import Later, Meaning, Vendor, as_told, meaning_of
from rewards_core.backoff import delay
from rewards_core.clock import loop_time
from rewards_core.errors import (
    ClientClosed,
    ConfigurationError,
    Conflict,
    ConnectFailed,
    DeadlineExceeded,
    Forbidden,
    OperationFailed,
    OperationMismatch,
    OutcomeUnknown,
    RateLimited,
    RewardsError,
    ServerFailed,
    Unauthorized,
    VendorError,
)
from rewards_core.rate import Limiter, Limits

if TYPE_CHECKING:
    from payouts.ledger.sqlite import Facts, Ledger
    from payouts.pipeline.recording import Recorder, Then
    from payouts.progress import Progress, Stop
    from rewards_core.operations import Operation, OperationRef

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 15.0
_MOST_FORBIDDEN = 10
_STATES = {
    Meaning.REJECTED: State.REJECTED,
    Meaning.MISMATCH: State.MISMATCH,
    Meaning.UNKNOWN: State.UNKNOWN,
    Meaning.UNKNOWN_STOP: State.UNKNOWN,
}
_FOR_GOOD = (Unauthorized, ClientClosed, ConfigurationError)
_OF_ALL_ROWS = (*_FOR_GOOD, ConnectFailed, RateLimited)
"""How a look-up ends that would end in the same way for any recipient."""
_MAY_PASS = (ServerFailed, DeadlineExceeded)
_TRIES = 3
_MOST_UNLISTED = 5
"""So many lists in a row that cannot be had are trouble of the vendor's, not of single recipients."""


class Paying:
    """Lead single rows on; safe for many at once.

    Args:
        vendor: Who pays.
        ledger: Where every step is written.
        recorder: Writes what came of a row.
        settling: What accepted rows are waited for with, None if nobody waits.
        progress: What is counted.
        stop: The wish to end; also made here, where going on would be of no use.
        limiter: When the next row may leave.
        most_sent: Rows in the state `sent` at one time.
        max_pending: Rows accepted and not settled at one time.
        patience: Seconds for which a vendor that cannot be reached is tried.
        most_refused: After so many refused rows in a row there is no use in going on; None for never.
        ended: Called with each row that this run is done with.
    """

    def __init__(
        self,
        vendor: Vendor,
        ledger: Ledger,
        recorder: Recorder,
        settling: Settling | None,
        *,
        progress: Progress,
        stop: Stop,
        limiter: Limiter,
        most_sent: int,
        max_pending: int,
        patience: float,
        most_refused: int | None,
        ended: Callable[[Entry], Awaitable[None]],
    ) -> None:
        self.cause: RewardsError | None = None
        self.told = ""
        self.accepted_here: set[int] = set()
        self._vendor = vendor
        self._ledger = ledger
        self._recorder = recorder
        self._settling = settling
        self._progress = progress
        self._stop = stop
        self._limiter = limiter
        self._sent = Limiter(Limits(connections=most_sent))
        self._slots = Limiter(Limits(connections=max_pending))
        self._patience = patience
        self._most_refused = most_refused
        self._ended = ended
        self._ill_since: float | None = None
        self._forbidden = self._refused = self._unlisted = 0

    async def admit(self) -> bool:
        """Take the places that a row needs before it may be marked as sent; return False if the end is asked for first."""
        if not await self._both_places():
            return False
        if await self._stop.take(self._limiter):
            return True
        self._sent.release()
        self._slots.release()
        return False

    async def pay(self, entry: Entry) -> None:
        """Send a row that was planned and is marked as sent now."""
        await self._pay(entry, first=True)

    async def pay_again(self, entry: Entry) -> None:
        """Send a row again that may have been sent before, and that the vendor does not list."""
        await self._pay(entry, first=False)

    async def wait_for(self, entry: Entry) -> None:
        """Wait for a row that an earlier run left accepted, once there is room among those that wait."""
        later, settling = self._vendor.later, self._settling
        if settling is not None and entry.uid is not None and settling.knows(entry.uid):
            self._recorder.put(entry, State.MISMATCH, {"problem": _named_twice(entry.uid)}, self._ended)
        elif later is not None and settling is not None and await self._stop.take(self._slots):
            self._wait(later, settling, entry, urgent=True)

    async def find_out(self, entries: Sequence[Entry]) -> None:
        """Ask what became of one recipient's rows whose answers were never read; what the vendor does not list stays as it is."""
        later = self._vendor.later
        if later is None:
            if not self._vendor.may_repeat:
                told = "the run ended before the answer came, and the vendor cannot be asked; settle it with `payouts resolve`"
                for entry in entries:
                    self._recorder.put(entry, State.UNKNOWN, {"problem": told}, self._ended)
            return
        found = await self._looked_up(later, entries)
        for entry in entries:
            if entry.number in found and await self._both_places():
                self.accepted_here.add(entry.number)
                self._accept(later, entry, found[entry.number], urgent=True)

    async def waited(self, entry: Entry) -> None:
        """Take back the place of a row that is not waited for any more."""
        self._progress.pending -= 1
        self._slots.release()
        await self._ended(entry)

    async def _pay(self, entry: Entry, *, first: bool) -> None:
        repeats = 0
        while not self._stop.wished:
            if entry.state is State.PLANNED:
                entry = await self._ledger.move(entry, State.SENT)
            self._progress.in_flight += 1
            try:
                operation = await self._earlier(entry) or await self._vendor.pay(entry, repeated=not first)
            except (VendorError, ConfigurationError) as trouble:
                problem = trouble
            else:
                self._ill_since = None
                self._forbidden = self._refused = 0
                self._paid(entry, operation)
                return
            finally:
                self._progress.in_flight -= 1
            meaning = meaning_of(problem)
            if meaning in _STATES:
                await self._not_paid(entry, problem, meaning, first=first)
                return
            if first:  # of a row that an earlier run may have sent nobody can say that nothing happened
                entry = await self._ledger.move(entry, State.PLANNED, problem=problem)
            if meaning is Meaning.STOP or not await self._better_later(problem, repeats):
                self._give_up(problem)
            repeats += 1
        if first and entry.state is State.SENT:  # it never left
            self._recorder.put(entry, State.PLANNED, {}, self._leave)
        else:
            await self._leave(entry)

    async def _earlier(self, entry: Entry) -> Operation | None:
        """Return what the vendor holds for a row under a key that it had before, or that a newer copy of the ledger gave it."""
        keys = await self._ledger.other_keys(entry)
        later = self._vendor.later
        if later is None or not keys:
            return None
        try:
            return await later.held_under(entry, {*keys, entry.key})
        except VendorError as problem:
            if isinstance(problem, _OF_ALL_ROWS):
                raise
            unknown = later.unknown(entry)
            unknown.args = (f"it may have been paid under another key, and the user's list could not be read ({problem})",)
            raise unknown from problem

    def _paid(self, entry: Entry, operation: Operation | None) -> None:
        later = self._vendor.later
        if operation is not None and later is not None:
            self._accept(later, entry, operation, urgent=later.held_before(operation))
        else:
            self._recorder.put(entry, State.DONE, {"settled_by": "reply"}, self._end)

    async def _not_paid(self, entry: Entry, problem: RewardsError, meaning: Meaning, *, first: bool) -> None:
        if meaning is Meaning.REJECTED and not first:
            meaning = Meaning.UNKNOWN  # a refusal of this call says nothing about an earlier one
        told = as_told(problem, looked_up=self._vendor.later is not None)
        if meaning is Meaning.UNKNOWN_STOP:
            self._give_up(problem)
        if isinstance(problem, Forbidden) and not first:
            await self._end(entry)
        elif _STATES[meaning] is State.UNKNOWN:
            self._recorder.put(entry, State.UNKNOWN, {"problem": told}, self._seek)
        else:
            existing = problem.existing if isinstance(problem, Conflict) else None
            uid = None if existing is None else existing.ref.uid
            self._recorder.put(entry, _STATES[meaning], {"uid": uid, "problem": told}, self._end)
        self._forbidden = self._forbidden + 1 if isinstance(problem, Forbidden) else 0
        self._refused += meaning is Meaning.REJECTED
        if self._most_refused is not None and self._refused >= self._most_refused:
            self._give_up(problem, f"{self._refused} rows in a row were refused, the last one like this: ")
        elif self._forbidden >= _MOST_FORBIDDEN:
            self._give_up(problem)
        if not isinstance(problem, OutcomeUnknown):
            self._ill_since = None

    async def _seek(self, entry: Entry) -> None:
        """Look for a row that may have been carried out, where anybody waits; it keeps its place among those that wait."""
        later, settling = self._vendor.later, self._settling
        if later is None or settling is None or self._stop.wished:
            await self._end(entry)
            return
        self._sent.release()
        self._progress.pending += 1
        settling.seek(entry, later.unknown(entry), partial(self._found, later, settling))

    def _found(self, later: Later, settling: Settling, entry: Entry, ref: OperationRef) -> None:
        """Have it written down what an event or a look-up named for a row whose answer was lost, and wait for it."""
        uid = ref.uid
        if settling.knows(uid):
            self._recorder.put(entry, State.MISMATCH, {"uid": uid, "problem": _named_twice(uid)}, self.waited)
            return
        settling.reserve(uid)
        self._recorder.put(entry, State.ACCEPTED, {"uid": uid}, partial(self._wait_for_found, later, settling))

    async def _wait_for_found(self, later: Later, settling: Settling, entry: Entry) -> None:
        settling.add(entry, later.ref(entry), urgent=True)

    def _accept(self, later: Later, entry: Entry, operation: Operation, *, urgent: bool) -> None:
        """Have it written down what the vendor named, and go on from there."""
        uid, settling = operation.ref.uid, self._settling
        if settling is not None and settling.knows(uid):
            self._recorder.put(entry, State.MISMATCH, {"uid": uid, "problem": _named_twice(uid)}, self._end)
            return
        facts: Facts = {"uid": uid}
        if operation.key != entry.key:
            facts["settled_by"] = "lookup"
        then: Then = self._end
        if operation.status.terminal:
            then = partial(self._conclude, later, operation)
        elif settling is not None:
            settling.reserve(uid)
            then = partial(self._begin_to_wait, later, settling, urgent)
        self._recorder.put(entry, State.ACCEPTED, facts, then)

    async def _begin_to_wait(self, later: Later, settling: Settling, urgent: bool, entry: Entry) -> None:
        self._sent.release()
        self._wait(later, settling, entry, urgent=urgent)

    def _wait(self, later: Later, settling: Settling, entry: Entry, *, urgent: bool) -> None:
        self._progress.pending += 1
        settling.add(entry, later.ref(entry), urgent=urgent)

    async def _conclude(self, later: Later, final: Operation, entry: Entry) -> None:
        problem: RewardsError | None = None
        try:
            later.conclude(entry, final)
        except (OperationFailed, OperationMismatch) as told:
            problem = as_told(told, looked_up=True)
        self._recorder.put(entry, state_after(problem), {"settled_by": "poll", "problem": problem}, self._end)

    async def _end(self, entry: Entry) -> None:
        await self._leave(entry)
        await self._ended(entry)

    async def _leave(self, _: Entry) -> None:
        self._sent.release()
        self._slots.release()

    async def _looked_up(self, later: Later, entries: Sequence[Entry]) -> Mapping[int, Operation]:
        """Return what the vendor lists of one recipient's rows; a list that cannot be had leaves its rows to their requests."""
        tries = 0
        turn = partial(self._stop.take, self._limiter)
        while await turn():
            tries += 1
            try:
                found = await later.find(entries, turn)
            except (VendorError, ConfigurationError) as problem:
                if not isinstance(problem, _OF_ALL_ROWS) and (tries == _TRIES or not isinstance(problem, _MAY_PASS)):
                    self._unlisted += 1
                    if self._unlisted >= _MOST_UNLISTED:
                        self._give_up(problem)
                    return {}
                if isinstance(problem, _FOR_GOOD) or not await self._better_later(problem, tries - 1):
                    self._give_up(problem)
            else:
                self._ill_since = None
                self._unlisted = 0
                return found
        return {}

    async def _both_places(self) -> bool:
        """Take a place among those that are sent and among those that may wait; return False if the end is asked for first."""
        if not await self._stop.take(self._slots):
            return False
        if await self._stop.take(self._sent):
            return True
        self._slots.release()
        return False

    async def _better_later(self, problem: RewardsError, repeats: int) -> bool:
        """Wait a little before the vendor is tried again; return False once that has gone on for too long."""
        now = loop_time()
        if self._ill_since is None:
            self._ill_since = now
        asked_for: float = getattr(problem, "retry_after", None) or 0.0
        if now - self._ill_since + asked_for > self._patience:
            return False
        await self._stop.pause(max(delay(repeats, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE), asked_for))
        return True

    def _give_up(self, problem: RewardsError, told: str = "") -> None:
        if self.cause is None:
            refused = "the vendor refused the credentials: " if isinstance(problem, Unauthorized) else ""
            said = str(as_told(problem, looked_up=self._vendor.later is not None)).rstrip(".")
            self.cause, self.told = problem, f"{told}{refused}{said}"
        self._stop.wish()


def _named_twice(uid: str) -> str:
    return f"the vendor named {uid} for this row and for another one, so that one of them cannot have been paid"
