"""One run or one worker: pay rows, show the progress, write the files."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, cast

from attrs import frozen

from payouts.cli.connections import Listening, VendorClient, client_of, completions_of, target_of
from payouts.cli.display import Display, JsonLines, MovingLine
from payouts.cli.planning import Source, record_terms
from payouts.cli.supervision import run_to_end
from payouts.ledger.place import LedgerPlace, Lock
from payouts.report.page import write_report
from payouts.report.results import write_results
from payouts.runner import PayoutRun, RunOptions, run_payouts, work_payouts
from payouts.source.files import read_rows
from payouts.states import State
from payouts.vendors import ROW_TYPES
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import Output, fail, print_stderr
from rewards_core.text import counted
from webhooks import StoreError

if TYPE_CHECKING:
    from original_async import OriginalClient
    from payouts.ledger.postgres import PostgresLedger
    from payouts.ledger.sqlite import Ledger
    from webhooks import Completions

_UNFINISHED = (State.PLANNED, State.SENT, State.ACCEPTED)
_TROUBLE = frozenset({State.FAILED, State.MISMATCH, State.REJECTED, State.UNKNOWN})


@frozen(kw_only=True)
class Job:
    """The settings of a run or a worker."""

    vendor: str
    campaign: str
    place: LedgerPlace
    options: RunOptions
    listening: Listening
    may_repeat: bool = False
    report: Path | None = None
    results: Path | None = None


async def pay(
    job: Job,
    output: Output,
    *,
    source: Source | None = None,
    total: int | None = None,
    lock: Lock | None = None,
    snapshot: bool = False,
) -> int:
    """Pay, and return the exit code.

    Args:
        job: The settings.
        output: Where the progress is shown.
        source: The file, for a ledger in a file; without it, rows that are planned are paid, beside other workers.
        total: How many rows there are, if that is known without a source.
        lock: The ledger's lock.
        snapshot: Whether the users' balances are stored first.
    """

    def tell_url(url: str) -> None:
        output.record({"event": "listening", "url": url}, text=f"receiving webhooks at {url}")

    display: Display = JsonLines(output) if output.as_json else MovingLine(output)
    async with AsyncExitStack() as stack:
        try:
            client = client_of(job.vendor, job.options.concurrency, may_repeat=job.may_repeat)
            stack.push_async_callback(client.aclose)
            completions = None
            if ROW_TYPES[job.vendor].has_lookup and job.options.wait:
                settling = completions_of(cast("OriginalClient", client), job.listening, tell_url)
                completions = await stack.enter_async_context(settling)
        except (ValueError, OSError, StoreError) as problem:
            fail(str(problem), Exit.USAGE)
        ledger = job.place.ledger(vendor=job.vendor, campaign=job.campaign, target=target_of(job.vendor), lock=lock)
        await stack.enter_async_context(ledger)
        if source is not None:
            await record_terms(ledger, source, output, snapshot=snapshot)
        run = _run_of(job, client, completions, ledger, source)
        run.progress.total = total if source is None else source.rows
        ended_early = await run_to_end(run, display)
        counts = await ledger.counts()
        stopped = source is None and await cast("PostgresLedger", ledger).condition() == "stopped"
    not_read = 0 if source is None else source.rows - run.progress.read
    written = True
    if ended_early is None or not ended_early.at_once:
        try:
            await asyncio.to_thread(_write_files, job, output)
        except OSError as problem:
            print_stderr(
                f"{problem.filename or 'a file'}: {problem.strerror}. Write it later from the ledger: payouts report", "bold red"
            )
            written = False
    _tell_end(job, counts, not_read, output)
    if stopped:
        again = f"payouts resume --campaign {job.campaign} --ledger {job.place}"
        print_stderr(f"Campaign {job.campaign} is stopped, for all workers. To go on: {again}", "yellow")
    if ended_early is not None:
        return ended_early.code
    if any(counts.get(state) for state in _TROUBLE):
        return Exit.FAILED
    if not_read or counts.get(State.DONE, 0) != sum(counts.values()):
        return Exit.NOT_YET
    return Exit.OK if written else Exit.FAULT


def _run_of(
    job: Job,
    client: VendorClient,
    completions: Completions | None,
    ledger: Ledger | PostgresLedger,
    source: Source | None,
) -> PayoutRun:
    if source is None:
        shared = cast("PostgresLedger", ledger)
        return work_payouts(client=client, completions=completions, ledger=shared, options=job.options)
    rows = read_rows(source.stream, source.layout)
    return run_payouts(rows, client=client, completions=completions, ledger=ledger, options=job.options)


def _write_files(job: Job, output: Output) -> None:
    if job.report is not None:
        write_report(job.place, job.report, campaign=job.campaign, vendor=job.vendor)
        output.record({"event": "report", "path": str(job.report)}, text=f"report: {job.report}")
    if job.results is not None:
        with job.place.reader() as reader:
            write_results(reader, reader.campaign(job.campaign, job.vendor), job.results)
        output.record({"event": "results", "path": str(job.results)}, text=f"results: {job.results}")


def _tell_end(job: Job, counts: Mapping[State, int], not_read: int, output: Output) -> None:
    if output.as_json:
        states = {state.value: counts.get(state, 0) for state in State}
        output.record({"event": "summary", "campaign": job.campaign, **states, "not_read": not_read})
        return
    told = ", ".join(f"{counts[state]:,} {state}" for state in State if counts.get(state)) or "no rows"
    output.say(f"{job.campaign}: {told}", "bold")
    if any(counts.get(state) for state in _TROUBLE):
        output.say(f"to list them: payouts status --ledger {job.place} --campaign {job.campaign}")
    unfinished = sum(counts.get(state, 0) for state in _UNFINISHED) + not_read
    if unfinished:
        output.say(f"{counted(unfinished, 'row is', 'rows are')} unfinished: run the same command again")
