"""One run of `payouts run` after the preflight: pay every row, show the progress, write the files."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from attrs import frozen

from payouts.audit.balances import snapshot
from payouts.cli.connections import Listening, client_of, completions_of, target_of
from payouts.cli.display import Display, JsonLines, MovingLine
from payouts.cli.preflight import Prepared
from payouts.cli.supervision import run_to_end
from payouts.ledger.lock import LedgerLock
from payouts.ledger.reader import LedgerReader
from payouts.ledger.sqlite import Ledger
from payouts.pipeline.preflight import record_repeats
from payouts.report.page import write_report
from payouts.report.results import write_results
from payouts.runner import RunOptions, run_payouts
from payouts.source.files import read_rows
from payouts.source.lines import Layout
from payouts.states import State
from payouts.vendors.payers import EnkashPayer
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import Output, fail, print_stderr
from rewards_core.errors import VendorError
from rewards_core.text import counted
from webhooks import StoreError

if TYPE_CHECKING:
    from enkash_async import EnkashClient

_UNFINISHED = (State.PLANNED, State.SENT, State.ACCEPTED)
_TROUBLE = frozenset({State.FAILED, State.MISMATCH, State.REJECTED, State.UNKNOWN})


@frozen(kw_only=True)
class Job:
    """The settings of a run."""

    vendor: str
    campaign: str
    ledger: Path
    options: RunOptions
    listening: Listening
    may_repeat: bool = False
    snapshot: bool = False
    report: Path | None = None
    results: Path | None = None


async def pay(job: Job, stream: BinaryIO, layout: Layout, prepared: Prepared, lock: LedgerLock, output: Output) -> int:
    """Pay, and return the exit code."""

    def tell_url(url: str) -> None:
        output.record({"event": "listening", "url": url}, text=f"receiving webhooks at {url}")

    target = target_of(job.vendor)
    display: Display = JsonLines(output) if output.as_json else MovingLine(output)
    async with AsyncExitStack() as stack:
        try:
            client = client_of(job.vendor, job.options.concurrency, may_repeat=job.may_repeat)
            stack.push_async_callback(client.aclose)
            completions = None
            if job.vendor == "original" and job.options.wait:
                completions = await stack.enter_async_context(completions_of(client, job.listening, tell_url))
        except (ValueError, OSError, StoreError) as problem:
            fail(str(problem), Exit.USAGE)
        ledger = await stack.enter_async_context(
            Ledger(job.ledger, vendor=job.vendor, campaign=job.campaign, target=target, lock=lock)
        )
        await record_repeats(ledger, prepared.repeats, time.time())
        if job.snapshot:
            await _store_balances(ledger, client, stream, layout, output)
        run = run_payouts(
            read_rows(stream, layout),
            client=client,
            completions=completions,
            ledger=ledger,
            options=job.options,
            may_repeat=job.may_repeat,
        )
        run.progress.total = prepared.checked.rows
        ended_early = await run_to_end(run, display)
        counts = await ledger.counts()
    not_read = prepared.checked.rows - run.progress.read
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
    if ended_early is not None:
        return ended_early.code
    if any(counts.get(state) for state in _TROUBLE):
        return Exit.FAILED
    if not_read or counts.get(State.DONE, 0) != sum(counts.values()):
        return Exit.NOT_YET
    return Exit.OK if written else Exit.FAULT


async def _store_balances(ledger: Ledger, client: EnkashClient, stream: BinaryIO, layout: Layout, output: Output) -> None:
    """Store the balance of each user of the file; end the command if EnKash cannot be reached."""

    def read() -> dict[str, None]:
        users = dict.fromkeys(row.recipient for row in read_rows(stream, layout))
        stream.seek(0)
        return users

    users = await asyncio.to_thread(read)
    print_stderr(f"Storing {counted(len(users), 'balance')} first, 20 a second.")
    try:
        stored, failed = await snapshot(ledger, EnkashPayer(client), users)
    except VendorError as problem:
        fail(f"The balances could not be read: {problem}. Nothing was sent.", Exit.UNAVAILABLE)
    output.record(
        {"event": "snapshot", "stored": stored, "unchecked": failed}, text=f"{stored:,} balances stored, {failed:,} not read"
    )


def _write_files(job: Job, output: Output) -> None:
    if job.report is not None:
        write_report(job.ledger, job.report, campaign=job.campaign, vendor=job.vendor)
        output.record({"event": "report", "path": str(job.report)}, text=f"report: {job.report}")
    if job.results is not None:
        with LedgerReader(job.ledger) as reader:
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
        output.say(f"to list them: payouts status --ledger {job.ledger} --campaign {job.campaign}")
    unfinished = sum(counts.get(state, 0) for state in _UNFINISHED) + not_read
    if unfinished:
        output.say(f"{counted(unfinished, 'row is', 'rows are')} unfinished: run the same command again")
