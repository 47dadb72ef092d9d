"""Pay rows: each is in the ledger before it leaves, and is led to a known end, in this run or in the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Self

from payouts.ledger.base import RunLedger
from payouts.ledger.campaign import CampaignLedger
from payouts.pipeline.flow import PayoutsStopped, Pipeline, RunSetup
from payouts.pipeline.options import RunOptions
from payouts.pipeline.row import RowPipeline
from payouts.pipeline.run import RunPipeline
from payouts.pipeline.work import WorkPipeline
from payouts.progress import Progress, Stop
from payouts.states import Entry, LedgerError
from payouts.vendors import ROW_TYPES
from payouts.vendors.payers import payer_of
from rewards_core.validation import check_iterable, check_methods, setting

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import TypeIs

    from payouts.ledger.postgres import PostgresLedger
    from payouts.payer import Payer
    from payouts.rows import Row
    from payouts.vendors.payers import Client
    from webhooks import Completions

__all__ = ["PayoutRun", "PayoutsStopped", "RunOptions", "pay_row", "run_payouts", "work_payouts"]

MAX_UNREAD = 1_000
"""Ended rows that the reader of a run has not taken yet; with more of them no further row is sent."""


def run_payouts(
    rows: Iterable[Row] | AsyncIterable[Row],
    *,
    client: Client,
    completions: Completions | None = None,
    ledger: RunLedger | PostgresLedger,
    options: RunOptions | None = None,
) -> PayoutRun:
    """Pay rows, and yield each as the ledger holds it when this run is done with it.

    Rows that an earlier run left `sent` are looked up first, rows it left `accepted` are waited for first; settled ones cost no
    request. `async for entry in run_payouts(...)` is all it takes; with `async with` around it, leaving the loop early ends it.
    An error of `rows` ends the run as `stop()` does, so that requests under way are answered, and is raised at the end.

    Args:
        rows: An iterable, read in a thread, or an async one, closed at the end. Both are read no faster than rows leave, and a
            little ahead: a row that was taken from them may not be in the ledger yet.
        client: A client of the ledger's vendor, or a `Payer`.
        completions: What accepted rows are waited for with; not needed for a vendor whose answer is final,
            nor with `RunOptions(wait=False)`.
        ledger: An open ledger of the same vendor.
        options: How to go about it.

    Raises:
        TypeError: an argument is of another type, or the client lacks a method that the ledger's vendor needs.
        ValueError: the payer is of another vendor than the ledger, has look-ups where its vendor has none, or none where it has
            them; or there are no completions to wait with.
        LedgerInUse: from the iteration: another run of this process pays from the ledger, or another process from a copy of it.
        AuditNeeded: from the iteration: the ledger may be an older copy; nothing was sent. See `payouts audit`.
        PayoutsStopped: from the iteration, at its end: credentials were refused, or the vendor could not be reached.
        TypeError: from the iteration: a row is none of the ledger's vendor.
        RowChanged: from the iteration: a row is known with other content.
        KeyTaken: from the iteration: a row brings the key of another.
        LedgerError: from the iteration: the ledger cannot be written.
        LeaseLost: from the iteration, with a `PostgresLedger`: as `work_payouts`.
    """
    if not isinstance(rows, AsyncIterable):
        check_iterable(rows, "rows", "an iterable of rows")
    if _is_shared(ledger):
        return _run(partial(WorkPipeline, rows, ledger), client, completions, ledger, options)
    check_methods(ledger, "ledger", "Ledger(...)", RunLedger)
    return _run(partial(RunPipeline, rows, ledger), client, completions, ledger, options)


def work_payouts(
    *,
    client: Client,
    completions: Completions | None = None,
    ledger: PostgresLedger,
    options: RunOptions | None = None,
) -> PayoutRun:
    """Pay rows that are planned in a shared ledger, beside other workers, and yield each that this worker is done with.

    It ends when every row of the campaign is settled, or left unknown. Rows of lost workers are taken over: those that may have
    been sent are looked up, and repeated under the same key only where the vendor does not list them; an asset is left unknown.

    Args:
        client: As for `run_payouts`.
        completions: As for `run_payouts`.
        ledger: The open ledger.
        options: How to go about it; `rate` limits all workers together.

    Raises:
        TypeError: as `run_payouts`.
        ValueError: as `run_payouts`.
        LeaseLost: from the iteration: this worker was silent for too long, and others took its rows. Call this again.
        AuditNeeded: from the iteration: the database may have been restored from an older copy; nothing was sent.
        PayoutsStopped: from the iteration, at its end: credentials were refused, or the vendor could not be reached.
        LedgerError: from the iteration: the database failed, or a command such as `payouts resolve` is changing the campaign.
    """
    _check_shared(ledger)
    return _run(partial(WorkPipeline, None, ledger), client, completions, ledger, options)


async def pay_row(
    row: Row,
    *,
    client: Client,
    completions: Completions | None = None,
    ledger: PostgresLedger,
    options: RunOptions | None = None,
) -> Entry:
    """Pay one row of a shared campaign, and return its entry when it is settled; for a workflow engine that drives rows itself.

    It is idempotent: call it again, on any host and also while an earlier call still runs, until the row is settled. A new row is
    planned, a settled one costs no request. While another call or a worker owns the row, its end is waited for. If a lost one may
    have sent it, it is looked up after the lease and the ledger's `grace`, and repeated under the same key only where the vendor
    does not list it; an asset is left unknown. While the campaign is paused, this waits. A call that is cancelled leaves the row
    for the next one. Any number of calls, and of workers, share one ledger.

    Args:
        row: The row.
        client: As for `run_payouts`.
        completions: As for `run_payouts`.
        ledger: The open ledger.
        options: How to go about it; `rate` limits all calls and workers together; the lowest that one of them gives applies.

    Returns:
        The row as the ledger holds it: settled; or `unknown`, if no trace of it was found within `lookup_timeout`, or `accepted`,
        if its end did not come within `timeout` or is not waited for. Call this again for such a row; an unknown row of a vendor
        without look-up is settled by hand.

    Raises:
        TypeError: as `run_payouts`.
        ValueError: as `run_payouts`.
        RowChanged: the ledger holds the row with other content.
        KeyTaken: the row brings the key of another.
        CampaignStopped: somebody stopped the campaign; the row was not sent.
        PayoutsStopped: credentials were refused, or the vendor could not be reached: no other row would fare better.
        AuditNeeded: the database may have been restored from an older copy; nothing was sent.
        LeaseLost: this process was silent for too long, so that others may look the row up. Call this again.
        LedgerUnavailable: the database failed. Call this again.
    """
    _check_shared(ledger)
    run = _run(partial(RowPipeline, row, ledger), client, completions, ledger, options)
    async with run:
        async for _ in run:
            pass
    entry = await ledger.find(row.id)
    if entry is None:
        raise LedgerError(
            f"Row {row.id} is no longer in the ledger: it was removed from the database. It may have been paid. Ask the vendor "
            "before you pay it again."
        )
    return entry


def _check_shared(ledger: RunLedger | PostgresLedger) -> None:
    if not _is_shared(ledger):
        raise TypeError("ledger: give PostgresLedger(...); one run at a time pays from another ledger, by run_payouts.")


def _is_shared(ledger: RunLedger | PostgresLedger) -> TypeIs[PostgresLedger]:
    return isinstance(ledger, CampaignLedger) and ledger.shared


def _run(
    make_pipeline: Callable[[RunSetup], Pipeline],
    client: Client,
    completions: Completions | None,
    ledger: RunLedger | PostgresLedger,
    options: RunOptions | None,
) -> PayoutRun:
    payer = payer_of(client, ledger.vendor)
    if payer.name != ledger.vendor:
        raise ValueError(f"client: give a payer of {ledger.vendor}, the ledger's vendor, not of {payer.name}.")
    known = ROW_TYPES.get(payer.name)
    if known is not None and known.has_lookup != (payer.lookups is not None):
        wanted = "lookups, because its rows are settled later" if known.has_lookup else "no lookups, because its answer is final"
        raise ValueError(f"client: a payer of {payer.name} must have {wanted}.")
    options = setting(options, "options", RunOptions)
    if completions is not None:
        check_methods(completions, "completions", "Completions(...)", ("as_completed",))
    elif payer.lookups is not None and options.wait:
        raise ValueError("completions: give Completions(...) to wait with, or RunOptions(wait=False).")
    return PayoutRun(make_pipeline, payer, completions, options)


class PayoutRun:
    """A run under way; iterate over it once.

    Attributes:
        progress: The progress of the run.
    """

    def __init__(
        self,
        make_pipeline: Callable[[RunSetup], Pipeline],
        payer: Payer,
        completions: Completions | None,
        options: RunOptions,
    ) -> None:
        self.progress = Progress()
        self._stop = Stop()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._ended: deque[Entry] = deque()
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._room.set()
        setup = RunSetup(
            payer=payer,
            completions=completions,
            options=options,
            progress=self.progress,
            stop=self._stop,
            room=self._room,
            ended=self._hand_out,
        )
        self._pipeline = make_pipeline(setup)

    def stop(self) -> None:
        """Ask the run to send nothing more, wait at most `grace` seconds for accepted rows, and end; returns at once."""
        self._stop.wish()

    async def aclose(self) -> None:
        """End now, also an iteration elsewhere: what is under way stays `sent` or `accepted` in the ledger, for the next run.

        A second call does nothing.
        """
        self._closed = True
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
        if self._task is not None or self._closed:
            raise RuntimeError("This run has already begun or was closed. Call run_payouts again for a new run.")
        self._task = asyncio.get_running_loop().create_task(self._pipeline.run(), name="payouts")
        self._task.add_done_callback(lambda _: self._news.set())
        try:
            while self._ended or not self._task.done():
                if self._ended:
                    entry = self._ended.popleft()
                    if len(self._ended) < MAX_UNREAD:
                        self._room.set()
                    yield entry
                else:
                    self._news.clear()
                    await self._news.wait()
            self._raise_from(self._task)
        finally:
            await self.aclose()

    def _raise_from(self, task: asyncio.Task[None]) -> None:
        """Raise what ended the run, unless `aclose` did."""
        if not (self._closed and task.cancelled()):
            task.result()

    def _hand_out(self, entry: Entry) -> None:
        self.progress.ended[entry.state] += 1
        if entry.settled_by is not None:
            self.progress.settled_by[entry.settled_by] = self.progress.settled_by.get(entry.settled_by, 0) + 1
        self._ended.append(entry)
        if len(self._ended) >= MAX_UNREAD:
            self._room.clear()
        self._news.set()
