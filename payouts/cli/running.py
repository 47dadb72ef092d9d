"""`payouts run`: a file of rewards in, every row settled exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import typer
from attrs import frozen

from payouts import money
from payouts.charts import duration
from payouts.checking import Checked, check_rows
from payouts.cli.connections import Listening, client_of, completions_of, target_of
from payouts.cli.display import Display, JsonLines, MovingLine
from payouts.cli.following import follow
from payouts.cli.judging import Judge
from payouts.cli.options import check_place, per_second
from payouts.cli.terminal import Exit, with_exit_codes
from payouts.files import form_of, is_piped, read_rows, rereadable
from payouts.ledger import Ledger
from payouts.ledger_lock import LedgerLock
from payouts.ledger_reader import LedgerReader
from payouts.ledger_schema import connect_to_write
from payouts.lines import Layout, Mistake
from payouts.report import write_report
from payouts.results import write_results
from payouts.runner import RunOptions, run_payouts
from payouts.states import State
from vendor_http.arguments import check_name
from webhooks import StoreError
from webhooks.cli.options import KeysOption
from webhooks.cli.sources import DEFAULT_PATH
from webhooks.cli.terminal import Output, fail, tell

_GOING_ON = (State.PLANNED, State.SENT, State.ACCEPTED)
_TROUBLE = frozenset({State.FAILED, State.MISMATCH, State.REJECTED, State.UNKNOWN})

_LONG = 60.0

VendorName = Literal["original", "enkash"]


@frozen(kw_only=True)
class Job:
    """What a run is told.

    Attributes:
        vendor: Who pays.
        campaign: Its name.
        ledger: Where it is remembered.
        options: How to go about it.
        listening: Where news comes from.
        may_repeat: Whether EnKash is known to pay a repeated request id once only.
        report: Where the report goes, None for none.
        results: Where the rows go as CSV, None for nowhere.
    """

    vendor: str
    campaign: str
    ledger: Path
    options: RunOptions
    listening: Listening
    may_repeat: bool = False
    report: Path | None = None
    results: Path | None = None


@with_exit_codes
def run(
    file: Annotated[str, typer.Argument(help="CSV or JSONL; - is standard input.", metavar="FILE")],
    vendor: Annotated[VendorName, typer.Option(help="Who pays.")],
    campaign: Annotated[str, typer.Option(help="A name for this payout; part of every key.")],
    ledger: Annotated[Path, typer.Option(help="The file that remembers every row.")] = Path("payouts.db"),
    form: Annotated[Literal["csv", "jsonl"] | None, typer.Option("--format", help="By default as the file's name says.")] = None,
    delimiter: Annotated[str, typer.Option(help="What stands between the cells of a CSV line.")] = ",",
    id_column: Annotated[str | None, typer.Option(help="The column of the row's id.")] = None,
    reward_uid_column: Annotated[str | None, typer.Option(help="Original: the column of the reward.")] = None,
    to_user_uid_column: Annotated[str | None, typer.Option(help="Original: the column of the user.")] = None,
    amount_column: Annotated[str | None, typer.Option(help="Original: the column of the amount.")] = None,
    nonce_column: Annotated[str | None, typer.Option(help="Original: the column of the nonce, if the file brings one.")] = None,
    user_id_column: Annotated[str | None, typer.Option(help="EnKash: the column of the user.")] = None,
    event_column: Annotated[str | None, typer.Option(help="EnKash: the column of the event.")] = None,
    request_id_column: Annotated[str | None, typer.Option(help="EnKash: the column of the request id, if there is one.")] = None,
    ids_from_line: Annotated[
        bool, typer.Option("--ids-from-line", help="Take the line number for the id: never insert a line afterwards.")
    ] = False,
    concurrency: Annotated[int, typer.Option(help="Requests under way at once.", min=1, max=1000)] = 20,
    rate: Annotated[
        float,
        typer.Option(
            help="Rows sent per second; 0 is as many as there are.", parser=per_second, metavar="N/s", show_default="20/s"
        ),
    ] = 20.0,
    max_pending: Annotated[int, typer.Option(help="Rows accepted and not settled at one time.", min=1)] = 20_000,
    limit: Annotated[int | None, typer.Option(help="Rows sent at most in this run.", min=0)] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for accepted rows; the next run does.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for each accepted row.", min=0)] = 900.0,
    lookup_timeout: Annotated[
        float, typer.Option(help="Seconds to look for a row without an answer before it is left unknown.", min=0)
    ] = 60.0,
    patience: Annotated[float, typer.Option(help="Seconds for which an absent vendor is tried.", min=0)] = 120.0,
    grace: Annotated[float, typer.Option(help="Seconds to wait for accepted rows once interrupted.", min=0)] = 30.0,
    most_refused: Annotated[
        int, typer.Option(help="End after so many refused rows in a row, since none would fare better; 0 is never.", min=0)
    ] = 100,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row, send nothing.")] = False,
    webhook_port: Annotated[
        int | None, typer.Option(help="Take webhooks on this port; keys in ORIGINAL_WEBHOOK_KEYS.", min=0, max=65_535)
    ] = None,
    webhook_host: Annotated[str, typer.Option(help="Address of that port.")] = "127.0.0.1",
    webhook_path: Annotated[str, typer.Option(help="Path of that port.")] = DEFAULT_PATH,
    keys_file: KeysOption = None,
    store: Annotated[
        str | None, typer.Option(help="The store of a running webhook-listener, instead of a port: FILE or sqlite:///FILE.")
    ] = None,
    poll_after: Annotated[float, typer.Option(help="Seconds before a row is first asked about.", min=0.01)] = 15.0,
    polls_per_second: Annotated[float, typer.Option(help="Questions per second at most.", min=0.01, max=100_000)] = 20.0,
    repeat_is_safe: Annotated[
        bool, typer.Option("--repeat-is-safe", help="EnKash is known to pay a repeated request id once only.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write the report there: one HTML file.")] = None,
    results: Annotated[Path | None, typer.Option(help="Write all rows there as CSV.")] = None,
) -> None:
    """Pay every row of a file once, however often this is broken off and started again.

    Columns for Original: id,reward_uid,to_user_uid,amount[,nonce]; for EnKash: id,user_id,event[,request_id]. Credentials come
    from the environment, as for the clients. The whole file is checked first; nothing is sent while anything is wrong.

    For example:

      payouts run rewards.csv --vendor original --campaign diwali-2026 --dry-run

      payouts run rewards.csv --vendor original --campaign diwali-2026 --webhook-port 8480 --report report.html

      export-rewards | payouts run - --format jsonl --vendor enkash --campaign diwali-2026 --id-column order_no --rate 5
    """
    check_place("--report", report, ledger=ledger, rows=Path(file))
    check_place("--results", results, ledger=ledger, rows=Path(file), report=report)
    try:
        check_name(campaign, "--campaign")
        listening = Listening(
            host=webhook_host,
            port=webhook_port,
            path=webhook_path,
            keys_file=keys_file,
            store=store,
            poll_after=poll_after,
            polls_per_second=polls_per_second,
        )
    except ValueError as problem:
        fail(str(problem), Exit.USAGE)
    if vendor == "enkash" and (store, webhook_port) != (None, None):
        fail("EnKash answers at once and sends no webhooks; leave --store and --webhook-port out", Exit.USAGE)
    if vendor == "original" and repeat_is_safe:
        fail("--repeat-is-safe is for EnKash; Original's nonce makes every repetition safe, leave it out", Exit.USAGE)
    names = {
        "id": id_column,
        "reward_uid": reward_uid_column,
        "to_user_uid": to_user_uid_column,
        "amount": amount_column,
        "nonce": nonce_column,
        "user_id": user_id_column,
        "event": event_column,
        "request_id": request_id_column,
    }
    job = Job(
        vendor=vendor,
        campaign=campaign,
        ledger=ledger,
        options=RunOptions(
            concurrency=concurrency,
            rate=rate or None,
            max_pending=max_pending,
            wait=not no_wait,
            timeout=timeout,
            lookup_timeout=lookup_timeout,
            limit=limit,
            patience=patience,
            grace=grace,
            most_refused=most_refused or None,
        ),
        listening=listening,
        may_repeat=repeat_is_safe,
        report=report,
        results=results,
    )
    output = Output()
    with ExitStack() as stack:
        lock = None if dry_run else _taken(ledger, stack)
        try:
            stream = stack.enter_context(rereadable(file))
            layout = _layout(file, stream, vendor, names, form, delimiter, ids_from_line=ids_from_line)
            checked = _check(stream, layout, job, output)
        except KeyboardInterrupt:
            fail("interrupted before anything was sent", Exit.INTERRUPTED)
        if lock is None:
            _tell_checked(checked, output)
            return
        stream.seek(0)
        raise typer.Exit(asyncio.run(_run(job, stream, layout, checked, lock, output)))


def _taken(ledger: Path, stack: ExitStack) -> LedgerLock:
    lock = LedgerLock(ledger)
    lock.acquire()
    stack.callback(lock.release)
    if _is_begun(ledger):  # an older one, or one whose making was broken off, cannot be read before it is brought up to date
        connect_to_write(ledger).close()
    return lock


def _is_begun(ledger: Path) -> bool:
    return ledger.is_file() and ledger.stat().st_size > 0


def _layout(
    file: str,
    stream: BinaryIO,
    vendor: str,
    names: Mapping[str, str | None],
    form: str | None,
    delimiter: str,
    *,
    ids_from_line: bool,
) -> Layout:
    if ids_from_line:
        if names["id"] is not None:
            fail("expected --ids-from-line or --id-column, got both; give the one that names a row for ever", Exit.USAGE)
        tell("--ids-from-line: ids are line numbers; a line inserted or removed later would pay rows twice or never", "yellow")
    if len(delimiter) != 1 or (not delimiter.isprintable() and delimiter != "\t"):
        fail(f"--delimiter: expected one character, got {len(delimiter)}", Exit.USAGE)
    start = stream.read(1024)
    stream.seek(0)
    given = {name: column for name, column in names.items() if column is not None}
    layout = Layout(
        vendor=vendor,
        names=given,
        form=form or form_of(file, start),
        delimiter=delimiter,
        ids_from_line=ids_from_line,
        piped=is_piped(file),
    )
    strange = [name for name in given if name not in layout.fields]
    if strange:
        fail(f"--{strange[0].replace('_', '-')}-column: there is no such column for {vendor}; leave it out", Exit.USAGE)
    return layout


def _check(stream: BinaryIO, layout: Layout, job: Job, output: Output) -> Checked:
    """Look over the whole file; end the command if anything is wrong."""

    def say(mistake: Mistake) -> None:
        place = {"line": mistake.line, "column": mistake.column, "name": mistake.name}
        output.record({"event": "mistake", **place, "message": mistake.message}, text=str(mistake))

    with ExitStack() as stack:
        if not output.as_json:
            stack.enter_context(output.console.status("checking every row; nothing is sent yet"))
        judge = _judge(job, stack)
        checked = check_rows(stream, layout, on_mistake=say, judge=judge)
    if checked.ignored:
        tell(f"columns that are not read: {', '.join(checked.ignored[:20])}", "yellow")
    if checked.mistakes:
        mistakes = "1 mistake" if checked.mistakes == 1 else f"{checked.mistakes:,} mistakes"
        fail(f"{mistakes}, nothing was sent; mend the file and run again", Exit.USAGE)
    for doubt in judge.doubts() if judge is not None else ():
        tell(doubt, "bold yellow")
    listening = job.listening
    asking = checked.rows / listening.polls_per_second
    if job.vendor == "original" and job.options.wait and not listening.hears and asking > _LONG:
        tell(
            f"no webhooks come in: asking about {checked.rows:,} rows takes {duration(asking)} at least; "
            "see --webhook-port, --store, --polls-per-second",
            "yellow",
        )
    return checked


def _judge(job: Job, stack: ExitStack) -> Judge | None:
    """Return what compares a row with the ledger, None if there is none yet."""
    if not _is_begun(job.ledger):
        return None
    return Judge(stack.enter_context(LedgerReader(job.ledger)), job.vendor, job.campaign)


def _tell_checked(checked: Checked, output: Output) -> None:
    if output.as_json:
        totals = {item: money.text(total) for item, total in checked.totals.items()}
        output.record({"event": "checked", "rows": checked.rows, "counts": checked.counts, "totals": totals})
        return
    rows = [
        (item, f"{count:,}", money.text(checked.totals[item]) if item in checked.totals else "")
        for item, count in checked.counts.items()
    ]
    output.draw(
        f"{checked.rows:,} rows, no mistake; nothing was sent", ("item", "rows", "amount"), rows, right=("rows", "amount")
    )


async def _run(job: Job, stream: BinaryIO, layout: Layout, checked: Checked, lock: LedgerLock, output: Output) -> int:
    """Pay, and return the exit code."""

    def tell_url(url: str) -> None:
        output.record({"event": "listening", "url": url}, text=f"webhooks come in at {url}")

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
        paying = run_payouts(
            read_rows(stream, layout),
            client=client,
            completions=completions,
            ledger=ledger,
            options=job.options,
            may_repeat=job.may_repeat,
        )
        paying.progress.total = checked.rows
        broken_off = await follow(paying, display, output)
        counts = await ledger.counts()
    not_read = checked.rows - paying.progress.read
    written = True
    if broken_off is None or not broken_off.at_once:
        try:
            await asyncio.to_thread(_write_files, job, output)
        except OSError as problem:
            tell(f"{problem.filename or 'a file'}: {problem.strerror}; `payouts report` writes it from the ledger", "bold red")
            written = False
    _tell_end(job, counts, not_read, output)
    if broken_off is not None:
        return broken_off.code
    if any(counts.get(state) for state in _TROUBLE):
        return Exit.NOT_PAID
    if not_read or counts.get(State.DONE, 0) != sum(counts.values()):
        return Exit.NOT_YET
    return Exit.OK if written else Exit.FAULT


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
        output.say(f"see which: payouts status --ledger {job.ledger} --campaign {job.campaign}")
    going_on = sum(counts.get(state, 0) for state in _GOING_ON) + not_read
    if going_on:
        output.say(f"{'1 row has' if going_on == 1 else f'{going_on:,} rows have'} no end yet: run the same command again")
