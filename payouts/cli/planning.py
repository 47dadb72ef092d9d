"""Check a file, and plan its rows in a ledger that workers share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO

import typer
from attrs import frozen

from payouts.audit.balances import snapshot as take_snapshot
from payouts.cli.connections import enkash_client, target_of
from payouts.cli.display import counting_bar
from payouts.cli.preflight import PreparedFile, Terms, prepare
from payouts.cli.supervision import Supervision
from payouts.pipeline.planning import plan_rows
from payouts.pipeline.preflight import record_repeats
from payouts.progress import Progress, Stop
from payouts.source.files import read_rows, rereadable
from payouts.vendors.coin_payer import CoinPayer
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import Output, fail, print_stderr
from rewards_core.errors import VendorError
from rewards_core.text import counted

if TYPE_CHECKING:
    from payouts.cli.file_options import CheckOptions, FileOptions
    from payouts.ledger.campaign import CampaignLedger
    from payouts.ledger.place import LedgerPlace, Lock
    from payouts.source.layout import Layout


@frozen(kw_only=True)
class Source:
    """A file that was checked and may be paid."""

    file: FileOptions
    stream: BinaryIO
    layout: Layout
    prepared: PreparedFile

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.prepared.checked.rows


def prepared(
    file: FileOptions, checks: CheckOptions, output: Output, stack: ExitStack, *, before_asking: Callable[[], None]
) -> tuple[Source, Lock | None]:
    """Check the whole file and ask a person; return it with the ledger's lock, which the stack releases; None in a dry run."""
    total = checks.total_for(file.grants)
    terms = Terms(
        vendor=file.grants,
        campaign=file.campaign,
        ledger=file.ledger,
        repeats_of=checks.repeats_of or (),
        max_total=total,
        yes=checks.yes,
        dry_run=checks.dry_run,
        all_errors=checks.all_errors,
    )
    lock = None if checks.dry_run else stack.enter_context(file.ledger.lock())
    try:
        stream = stack.enter_context(rereadable(file.file))
        layout = file.layout(stream)
        found = prepare(stream, layout, terms, output, before_asking=before_asking)
    except (KeyboardInterrupt, typer.Abort):
        fail("Interrupted. Nothing was sent.", Exit.INTERRUPTED)
    stream.seek(0)
    return Source(file=file, stream=stream, layout=layout, prepared=found), lock


def planned(source: Source, place: LedgerPlace, lock: Lock | None, output: Output, *, snapshot: bool = False) -> None:
    """Plan the rows; end the command if that is interrupted."""
    read, signals = asyncio.run(_plan(source, place, lock, output, snapshot=snapshot))
    if signals:
        print_stderr(
            f"Interrupted: {read:,} of {source.rows:,} rows are planned. Run the same command again for the rest.", "yellow"
        )
        raise typer.Exit(Exit(128 + signals[0]))


async def _plan(
    source: Source, place: LedgerPlace, lock: Lock | None, output: Output, *, snapshot: bool
) -> tuple[int, list[int]]:
    file, progress, stop = source.file, Progress(), Stop()
    display = _PlanningDisplay(progress, source.rows, output)
    async with place.ledger(vendor=file.grants, campaign=file.campaign, target=target_of(file.grants), lock=lock) as ledger:
        await record_terms(ledger, source, output, snapshot=snapshot)
        supervision = Supervision(
            display,
            stop.wish,
            interrupted="Stopping: the rows planned so far are kept.",
            lost="Cannot show the progress ({reason}); the rows planned so far are kept.",
        )
        async with supervision.until_end(display.begin):
            await plan_rows(read_rows(source.stream, source.layout), ledger, stop, progress)
    return progress.read, supervision.signals


async def record_terms(ledger: CampaignLedger, source: Source, output: Output, *, snapshot: bool) -> None:
    """Record which campaigns may be repeated, and the users' balances if they are wanted, before anything is sent."""
    await record_repeats(ledger, source.prepared.repeats, ledger.now())
    if snapshot:
        await _store_balances(ledger, source, output)


async def _store_balances(ledger: CampaignLedger, source: Source, output: Output) -> None:
    """Store the balance of each user of the file; end the command if EnKash cannot be reached."""

    def read() -> dict[str, None]:
        users = dict.fromkeys(row.recipient for row in read_rows(source.stream, source.layout))
        source.stream.seek(0)
        return users

    users = await asyncio.to_thread(read)
    print_stderr(f"Storing {counted(len(users), 'balance')} first, 20 a second.")
    try:
        async with enkash_client() as client:
            stored, failed = await take_snapshot(ledger, CoinPayer(client), users)
    except VendorError as problem:
        fail(f"The balances could not be read: {problem}. Nothing was sent.", Exit.UNAVAILABLE)
    output.record(
        {"event": "snapshot", "stored": stored, "unchecked": failed}, text=f"{stored:,} balances stored, {failed:,} not read"
    )


class _PlanningDisplay:
    """A bar for people; programs get the end."""

    def __init__(self, progress: Progress, total: int, output: Output) -> None:
        self._bar = counting_bar("planning rows", output)
        self._task = self._bar.add_task("", total=total)
        self._progress = progress

    def begin(self) -> None:
        self._bar.start()

    def refresh(self) -> None:
        self._bar.update(self._task, completed=self._progress.read)

    def end(self) -> None:
        self._bar.stop()
