"""The way of rows, wherever they come from: send them, wait for what was accepted, and end where going on is pointless."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import frozen

from payouts.pipeline.sending import Sender
from payouts.pipeline.settling import Settlement
from rewards_core.errors import RewardsError

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from payouts.ledger.base import RowLedger
    from payouts.payer import Payer
    from payouts.pipeline.options import RunOptions
    from payouts.pipeline.slots import Slots
    from payouts.progress import Progress, Stop
    from payouts.states import Entry
    from webhooks import Completions

_SENT_PER_REQUEST = 6
"""Times the concurrency, rows may be marked as sent, so that requests need not wait for the disk."""


class PayoutsStopped(RewardsError):
    """A run stopped early, because its cause affects every row. Fix the cause, then run again.

    Attributes:
        cause: The vendor's last error.
    """

    def __init__(self, message: str, *, cause: RewardsError) -> None:
        super().__init__(message)
        self.cause = cause


@frozen(kw_only=True)
class RunSetup:
    """What every run is made of, wherever its rows come from.

    Attributes:
        payer: The vendor that pays.
        completions: Waits for accepted rows; None if the run does not wait.
        options: How to run.
        progress: Counts.
        stop: The request to end the run.
        room: Set while the reader of the run keeps up with it.
        ended: Called with each row that the run is done with.
    """

    payer: Payer
    completions: Completions | None
    options: RunOptions
    progress: Progress
    stop: Stop
    room: asyncio.Event
    ended: Callable[[Entry], None]


class Pipeline(ABC):
    """Take rows until they are settled.

    Args:
        setup: What the run is made of.
        ledger: The ledger in which every step is stored.
    """

    _retry_store_errors = False
    """Whether a store of the completions that fails delays the run, instead of ending it."""

    def __init__(self, setup: RunSetup, ledger: RowLedger) -> None:
        payer, completions, options = setup.payer, setup.completions, setup.options
        self._payer = payer
        self._lookups = lookups = payer.lookups
        self._ledger = ledger
        self._options = options
        self._progress = setup.progress
        self._stop = setup.stop
        # a row that cannot be looked up later is marked as sent when a request will be free at its turn, and not before
        self._max_sent = options.concurrency * (_SENT_PER_REQUEST if lookups is not None else 1)
        self._settlement: Settlement | None = None
        if completions is not None and options.wait and lookups is not None:
            self._settlement = Settlement(
                completions,
                ledger,
                lookups,
                timeout=options.timeout,
                lookup_timeout=options.lookup_timeout,
                retry_store_errors=self._retry_store_errors,
                ended=self._waited,
            )
        self._slots = self._make_slots(setup.room)
        self._sender = Sender(
            payer,
            ledger,
            self._settlement,
            progress=setup.progress,
            stop=setup.stop,
            slots=self._slots,
            concurrency=options.concurrency,
            outage_timeout=options.outage_timeout,
            max_refused=options.max_refused,
            ended=setup.ended,
        )
        self._left = options.limit

    async def run(self) -> None:
        """Run until every row has ended or a stop was requested.

        Raises:
            PayoutsStopped: an error that affects every row ended the run.
            LedgerError: the ledger cannot be written, or a row contradicts it.
            Exception: an error of the source of the rows.
        """
        try:
            async with self._owning(), asyncio.TaskGroup() as tasks:
                settling = None if self._settlement is None else tasks.create_task(self._settlement.run())
                ending = tasks.create_task(self._end_waiting())
                async with self._sender.running():
                    await self._feed()
                if self._settlement is not None and settling is not None:
                    self._settlement.no_more()
                    await settling
                ending.cancel()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        self._raise_problem()
        cause = self._sender.cause
        if cause is not None:
            raise PayoutsStopped(
                f"Stopped: {self._sender.explanation}. Nothing is lost: fix the cause, then run the same command again.",
                cause=cause,
            )

    def _waited(self, entry: Entry) -> None:
        self._sender.waited(entry)

    async def _end_waiting(self) -> None:
        await self._stop.wait()
        if self._settlement is not None:
            await asyncio.sleep(self._options.grace)
            await self._settlement.give_up()

    @abstractmethod
    def _make_slots(self, room: asyncio.Event) -> Slots:
        """Return the slots of rows under way."""

    @abstractmethod
    def _owning(self) -> AbstractAsyncContextManager[object]:
        """Own rows of the ledger while the block runs."""

    @abstractmethod
    async def _feed(self) -> None:
        """Send every row that is to be sent, and wait for those that were accepted before."""

    def _raise_problem(self) -> None:  # noqa: B027 - most have none
        """Raise an error that ended the feed early."""


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group, however deeply it is nested."""
    problem: BaseException = group
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return problem
