"""Pay rows: each is in the ledger before it leaves, and is led to a known end, in this run or in the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from attrs import field, frozen

from payouts.asking import paced
from payouts.pipeline.recording import Recorder
from payouts.pipeline.sending import Paying
from payouts.pipeline.settling import Settling
from payouts.progress import Progress, Stop
from payouts.source.groups import Rows, groups
from payouts.states import SETTLED, Entry, State
from payouts.vendors import vendor_of
from rewards_core.errors import RewardsError
from rewards_core.rate import Limiter
from rewards_core.validation import check_flag, check_iterable, check_methods, flag, number, optional, setting, whole

if TYPE_CHECKING:
    from types import TracebackType

    from payouts.ledger.sqlite import Ledger
    from payouts.vendors import Vendor
    from webhooks import Completions

_GROUPS_AHEAD = 2
_MOST_UNREAD = 1_000
_AHEAD = 6
"""Times the concurrency, rows may be marked as sent, so that requests need not wait for the disk."""


class PayoutsStopped(RewardsError):
    """A run ended before its rows did, because no other row would have fared better; run again once the cause is gone.

    Attributes:
        cause: What the vendor said last.
    """

    def __init__(self, message: str, *, cause: RewardsError) -> None:
        super().__init__(message)
        self.cause = cause


@frozen(kw_only=True)
class RunOptions:
    """How a run goes about it; times in seconds.

    Args:
        concurrency: Requests under way at once, 1 or more.
        rate: Rows sent per second, above 0; None for as many as there are.
        max_pending: Rows accepted and not settled at one time, 1 or more.
        wait: Whether accepted rows are waited for.
        timeout: How long each accepted row is waited for, 0 or more; None for as long as it takes.
        lookup_timeout: How long a row without an answer is looked for, 0 or more, before it is left unknown, for the next run to
            repeat.
        limit: Rows sent at most, 0 or more; None for all.
        patience: How long a vendor that cannot be reached is tried before the run ends, 0 or more.
        grace: How long accepted rows are waited for after `stop()`, 0 or more.
        most_refused: The run ends after so many refused rows in a row, 1 or more, since none would fare better; None for never.

    Raises:
        TypeError: an option is of another type.
        ValueError: a number is out of range.
    """

    concurrency: int = field(default=20, validator=whole(at_least=1))
    rate: float | None = field(default=20.0, validator=optional(number(at_least=1e-6)))
    max_pending: int = field(default=20_000, validator=whole(at_least=1))
    wait: bool = field(default=True, validator=flag())
    timeout: float | None = field(default=900.0, validator=optional(number(at_least=0)))
    lookup_timeout: float = field(default=60.0, validator=number(at_least=0))
    limit: int | None = field(default=None, validator=optional(whole(at_least=0)))
    patience: float = field(default=120.0, validator=number(at_least=0))
    grace: float = field(default=30.0, validator=number(at_least=0))
    most_refused: int | None = field(default=100, validator=optional(whole(at_least=1)))


def run_payouts(
    rows: Rows,
    *,
    client: Any,
    completions: Completions | None = None,
    ledger: Ledger,
    options: RunOptions | None = None,
    may_repeat: bool = False,
) -> PayoutRun:
    """Pay rows, and yield each as the ledger holds it when this run is done with it.

    Rows that an earlier run left `sent` are looked up first, rows it left `accepted` are waited for first; settled ones cost no
    request. `async for entry in run_payouts(...)` is all it takes; with `async with` around it, leaving the loop early ends it.

    Args:
        rows: An iterable, read in a thread, or an async one, closed at the end. Both are read no faster than rows leave, and a
            little ahead: a row that was taken from them may not be in the ledger yet.
        client: An `OriginalClient` or an `EnkashClient`.
        completions: What accepted rows are waited for with; not needed for EnKash, nor where nobody waits.
        ledger: An open ledger of the same vendor.
        options: How to go about it.
        may_repeat: Whether EnKash is known to pay a repeated request id once only.

    Raises:
        TypeError: an argument is of another type.
        ValueError: ledger and client are not of one vendor, or there are no completions to wait with.
        LedgerInUse: from the iteration: another run of this process pays from the ledger, or another process from a copy of it.
        AuditNeeded: from the iteration: the ledger may be an older copy; nothing was sent. See `payouts audit`.
        PayoutsStopped: from the iteration, at its end: credentials were refused, or the vendor could not be reached.
        TypeError: from the iteration: a row is none of the ledger's vendor.
        RowChanged: from the iteration: a row is known with other content.
        KeyTaken: from the iteration: a row brings the key of another.
        LedgerError: from the iteration: the ledger cannot be written.
    """
    if not isinstance(rows, AsyncIterable):
        check_iterable(rows, "rows", "an iterable of rows")
    vendor = vendor_of(client, may_repeat=check_flag(may_repeat, "may_repeat"))
    check_methods(ledger, "ledger", "Ledger(...)", ("plan", "move_all", "one_run"))
    if vendor.name != ledger.vendor:
        raise ValueError(f"client: give a client of {ledger.vendor}, as the ledger is, not of {vendor.name}.")
    options = setting(options, "options", RunOptions)
    if completions is not None:
        check_methods(completions, "completions", "Completions(...)", ("as_completed",))
    elif vendor.later is not None and options.wait:
        raise ValueError("completions: give Completions(...) to wait with, or RunOptions(wait=False).")
    return PayoutRun(rows, vendor, completions, ledger, options)


class PayoutRun:
    """A run under way; iterate over it once.

    Attributes:
        progress: How far it has come.
    """

    _paying: Paying

    def __init__(
        self,
        rows: Rows,
        vendor: Vendor,
        completions: Completions | None,
        ledger: Ledger,
        options: RunOptions,
    ) -> None:
        self.progress = Progress()
        self._rows = rows
        self._vendor = vendor
        self._ledger = ledger
        self._options = options
        self._stop = Stop()
        # what cannot be asked about later is marked as sent when a request can leave at once, and not before
        most_sent = options.concurrency * (_AHEAD if vendor.later is not None else 1)
        self._recorder = Recorder(ledger, plenty=max(1, min(most_sent, options.max_pending) // 2))
        self._settling: Settling | None = None
        if completions is not None and options.wait and vendor.later is not None:
            self._settling = Settling(
                completions,
                self._recorder,
                conclude=vendor.later.conclude,
                timeout=options.timeout,
                lookup_timeout=options.lookup_timeout,
                ended=self._waited,
            )
        self._paying = Paying(
            vendor,
            ledger,
            self._recorder,
            self._settling,
            progress=self.progress,
            stop=self._stop,
            limiter=Limiter(paced(options.rate)),
            most_sent=most_sent,
            max_pending=options.max_pending,
            patience=options.patience,
            most_refused=options.most_refused,
            ended=self._give_out,
        )
        self._work: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue(most_sent)
        self._planned: asyncio.Queue[list[Entry] | None] = asyncio.Queue(_GROUPS_AHEAD)
        self._handed, self._taken_up = _Numbers(), _Numbers()
        self._task: asyncio.Task[None] | None = None
        self._ended: deque[Entry] = deque()
        self._news, self._room = asyncio.Event(), asyncio.Event()

    def stop(self) -> None:
        """Send nothing more, wait for accepted rows as long as `grace` allows, and end."""
        self._stop.wish()

    async def aclose(self) -> None:
        """End now: what is under way stays `sent` or `accepted` in the ledger, for the next run; a second call does nothing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def __aiter__(self) -> AsyncIterator[Entry]:
        """Yield each row as the ledger holds it when this run is done with it."""
        if self._task is not None:
            raise RuntimeError("expected a run that has not begun, got one that has; call run_payouts again")
        self._task = asyncio.get_running_loop().create_task(self._run_alone(), name="payouts")
        self._task.add_done_callback(lambda _: self._news.set())
        try:
            while self._ended or not self._task.done():
                if self._ended:
                    entry = self._ended.popleft()
                    self._room.set()
                    yield entry
                else:
                    self._news.clear()
                    await self._news.wait()
            self._task.result()
        finally:
            await self.aclose()

    async def _give_out(self, entry: Entry) -> None:
        self.progress.count(entry)
        while len(self._ended) >= _MOST_UNREAD:
            self._room.clear()
            await self._room.wait()
        self._ended.append(entry)
        self._news.set()

    async def _waited(self, entry: Entry) -> None:
        await self._paying.waited(entry)

    async def _run_alone(self) -> None:
        async with self._ledger.one_run():
            await self._run()

    async def _run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                settling = None if self._settling is None else tasks.create_task(self._settling.run())
                helpers = [tasks.create_task(self._worker()) for _ in range(self._options.concurrency)]
                helpers += [tasks.create_task(self._end_waiting()), tasks.create_task(self._recorder.run())]
                await self._take_up()
                helpers.append(tasks.create_task(self._plan()))
                await self._send()
                if self._settling is not None and settling is not None:
                    self._settling.no_more()
                    await settling
                for task in helpers:
                    task.cancel()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        cause = self._paying.cause
        if cause is not None:
            raise PayoutsStopped(
                f"Stopped: {self._paying.told}. Nothing is lost: fix the cause, then run the same command again.", cause=cause
            )

    async def _end_waiting(self) -> None:
        await self._stop.wait()
        if self._settling is not None:
            await asyncio.sleep(self._options.grace)
            await self._settling.give_up()

    async def _worker(self) -> None:
        while True:
            action = await self._work.get()
            try:
                await action()
            finally:
                self._work.task_done()

    async def _take_up(self) -> None:
        """Take up what earlier runs left: first rows whose answer was never read, then rows the vendor has accepted."""
        states = [State.SENT, State.UNKNOWN] if self._vendor.later is not None else [State.SENT]
        async for page in self._pages(states):
            by_recipient: dict[str, list[Entry]] = {}
            for entry in page:
                self._taken_up.add(entry.number)
                by_recipient.setdefault(entry.recipient, []).append(entry)
            for entries in by_recipient.values():
                await self._work.put(partial(self._paying.find_out, entries))
        await self._work.join()
        await self._recorder.drain()
        if self._settling is not None:
            async for page in self._pages([State.ACCEPTED]):
                for entry in page:
                    self._taken_up.add(entry.number)
                    if entry.number not in self._paying.accepted_here:
                        await self._paying.wait_for(entry)

    async def _pages(self, states: Sequence[State]) -> AsyncIterator[list[Entry]]:
        last = 0
        while page := await self._ledger.entries(states, after=last):
            yield page
            last = page[-1].number

    async def _plan(self) -> None:
        """Read the file and plan its rows, a little ahead of those that are sent."""
        async with aclosing(groups(self._rows, self._stop)) as source:
            async for group in source:
                entries = await self._ledger.plan(group)
                self.progress.read += len(entries)
                await self._planned.put(entries)
        await self._planned.put(None)

    async def _send(self) -> None:
        """Hand on the rows that are to be sent."""
        left = self._options.limit
        while left != 0 and (group := await self._next_group()) is not None:
            for entry in group:
                if entry.number in self._handed:  # it comes twice, and has moved on since it was read
                    continue
                if entry.state in SETTLED and entry.number not in self._taken_up:
                    self.progress.skipped += 1
                if not self._is_to_be_sent(entry):
                    continue
                if left == 0 or not await self._paying.admit():
                    break
                self._handed.add(entry.number)
                if entry.state is State.PLANNED:
                    self._recorder.put(entry, State.SENT, {}, self._first_time)
                else:
                    self._work.put_nowait(partial(self._paying.pay_again, entry))
                left = None if left is None else left - 1
        await self._recorder.drain()
        await self._work.join()
        await self._recorder.drain()

    async def _first_time(self, entry: Entry) -> None:
        self._work.put_nowait(partial(self._paying.pay, entry))

    async def _next_group(self) -> list[Entry] | None:
        taken: list[list[Entry] | None] = [None]

        async def take() -> None:
            taken[0] = await self._planned.get()

        return taken[0] if not self._stop.wished and await self._stop.before(take()) else None

    def _is_to_be_sent(self, entry: Entry) -> bool:
        if entry.state in {State.SENT, State.UNKNOWN}:  # the vendor was asked, and does not list it
            return self._vendor.may_repeat and entry.uid is None
        return entry.state is State.PLANNED


class _Numbers:
    """A set of small numbers, one bit for each."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def __contains__(self, number: int) -> bool:
        place = number >> 3
        return place < len(self._bits) and bool(self._bits[place] >> (number & 7) & 1)

    def add(self, number: int) -> None:
        """Take a number in, 0 or above."""
        place = number >> 3
        if place >= len(self._bits):
            self._bits.extend(bytes(place + 1024 - len(self._bits)))
        self._bits[place] |= 1 << (number & 7)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group, however deep it lies."""
    problem: BaseException = group
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return problem
