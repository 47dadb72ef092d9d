"""`payouts run`: a file of rewards in, every row settled exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import ExitStack
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import typer

from original_async.settings import WEBHOOK_KEYS, WEBHOOK_PATH
from payouts.cli.connections import Listening, locked
from payouts.cli.credentials import check_environment, webhook_source
from payouts.cli.ending import with_exit_codes
from payouts.cli.job import Job, pay
from payouts.cli.options import check_place, per_second
from payouts.cli.preflight import Terms, is_begun, prepare
from payouts.ledger.lock import LedgerLock
from payouts.ledger.schema import connect_to_write
from payouts.report.charts import duration
from payouts.runner import RunOptions
from payouts.source.checks import Checked
from payouts.source.files import form_of, is_piped, rereadable
from payouts.source.lines import COLUMNS, Layout, check_delimiter
from payouts.spelling import misspelled_amount
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.logs import LogFormatOption, LogLevel, LogSettings, log_to_stderr
from rewards_core.cli.output import JsonOption, Output, fail, finite, keys_option, tell, wrong_usage
from rewards_core.operations import DEFAULT_SCOPE
from rewards_core.validation import check_name

_LONG = 60.0

VendorName = Literal["original", "enkash"]


@with_exit_codes
def run(
    file: Annotated[str, typer.Argument(help="CSV or JSONL; - is standard input.", metavar="FILE")],
    vendor: Annotated[VendorName, typer.Option(help="Who pays.")],
    campaign: Annotated[str, typer.Option(help="A name for this payout; part of every key.")],
    ledger: Annotated[Path, typer.Option(help="The file that remembers every row.")] = Path("payouts.db"),
    form: Annotated[Literal["csv", "jsonl"] | None, typer.Option("--format", help="By default as the file's name says.")] = None,
    delimiter: Annotated[
        str | None, typer.Option(help="What stands between the cells of a CSV line.", show_default="found in the header")
    ] = None,
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
    timeout: Annotated[float, typer.Option(help="Seconds to wait for each accepted row.", callback=finite, min=0)] = 900.0,
    lookup_timeout: Annotated[
        float, typer.Option(help="Seconds to look for a row without an answer before it is left unknown.", callback=finite, min=0)
    ] = 60.0,
    patience: Annotated[float, typer.Option(help="Seconds for which an absent vendor is tried.", callback=finite, min=0)] = 120.0,
    grace: Annotated[
        float, typer.Option(help="Seconds to wait for accepted rows once interrupted.", callback=finite, min=0)
    ] = 30.0,
    most_refused: Annotated[
        int, typer.Option(help="End after so many refused rows in a row, since none would fare better; 0 is never.", min=0)
    ] = 100,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row, send nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Pay without asking; never approves rows that were paid before.")] = False,
    max_total: Annotated[
        str | None, typer.Option(help="Send nothing if the rows of one reward come to more than this.", metavar="AMOUNT")
    ] = None,
    repeats_of: Annotated[
        list[str] | None,
        typer.Option(
            help="A campaign whose rows may be paid again, or a pattern such as 'salary-*'; may be given again.",
            metavar="CAMPAIGN",
        ),
    ] = None,
    all_errors: Annotated[bool, typer.Option("--all-errors", help="Show every mistake in the file by itself.")] = False,
    webhook_port: Annotated[
        int | None, typer.Option(help="Take webhooks on this port; keys in ORIGINAL_WEBHOOK_KEYS.", min=0, max=65_535)
    ] = None,
    webhook_host: Annotated[str, typer.Option(help="Address of that port.")] = "127.0.0.1",
    webhook_path: Annotated[str, typer.Option(help="Path of that port.")] = WEBHOOK_PATH,
    keys_file: Annotated[Path | None, keys_option(WEBHOOK_KEYS)] = None,
    store: Annotated[
        str | None, typer.Option(help="The store of a running webhook-listener, instead of a port: FILE or sqlite:///FILE.")
    ] = None,
    poll_after: Annotated[
        float, typer.Option(help="Seconds before a row is first asked about.", callback=finite, min=0.01)
    ] = 15.0,
    polls_per_second: Annotated[
        float, typer.Option(help="Questions per second at most.", callback=finite, min=0.01, max=100_000)
    ] = 20.0,
    repeat_is_safe: Annotated[
        bool, typer.Option("--repeat-is-safe", help="EnKash is known to pay a repeated request id once only.")
    ] = False,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="EnKash: store the users' balances first, for payouts audit to compare with.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write the report there: one HTML file.")] = None,
    results: Annotated[Path | None, typer.Option(help="Write all rows there as CSV.")] = None,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            help="Log this and what is more urgent, each line with its time; info has a line for each delivery.",
            show_default="warnings without it, none about single calls; warning with --log-format json",
        ),
    ] = None,
    log_format: LogFormatOption = "text",
    as_json: JsonOption = None,
) -> None:
    """Pay every row of a file once, however often this is interrupted and started again.

    Columns for Original: id,reward_uid,to_user_uid,amount[,nonce]; for EnKash: id,user_id,event[,request_id]. Credentials come
    from the environment, as for the clients. The whole file is checked first; nothing is sent while anything is wrong.

    For example:

      payouts run rewards.csv --vendor original --campaign diwali-2026 --dry-run

      payouts run rewards.csv --vendor original --campaign diwali-2026 --webhook-port 8480 --report report.html

      export-rewards | payouts run - --format jsonl --vendor enkash --campaign diwali-2026 --id-column order_no --yes
    """
    if log_level is not None or log_format == "json":
        log_to_stderr(LogSettings(level=log_level or "warning", form=log_format))
    check_place("--report", report, ledger=ledger, rows=Path(file))
    check_place("--results", results, ledger=ledger, rows=Path(file), report=report)
    most = _amount_of(max_total, vendor)
    with wrong_usage():
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
    if vendor == "enkash" and (store, webhook_port) != (None, None):
        fail("EnKash answers at once and sends no webhooks; leave --store and --webhook-port out", Exit.USAGE)
    if vendor == "original" and snapshot:
        fail("--snapshot is for EnKash; Original's allocations are looked up by payouts audit, leave it out", Exit.USAGE)
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
            outage_timeout=patience,
            grace=grace,
            max_refused=most_refused or None,
        ),
        listening=listening,
        may_repeat=repeat_is_safe,
        snapshot=snapshot,
        report=report,
        results=results,
    )
    terms = Terms(
        vendor=vendor,
        campaign=campaign,
        ledger=ledger,
        repeats_of=repeats_of or (),
        max_total=most,
        yes=yes,
        dry_run=dry_run,
        all_errors=all_errors,
    )
    output = Output(as_json)
    with ExitStack() as stack:
        lock = None if dry_run else _taken(ledger, stack)
        try:
            stream = stack.enter_context(rereadable(file))
            layout = _layout(file, stream, vendor, names, form, delimiter, ids_from_line=ids_from_line)
            prepared = prepare(stream, layout, terms, output, before_asking=partial(_check_environment, job))
        except (KeyboardInterrupt, typer.Abort):
            fail("Interrupted before anything was sent.", Exit.INTERRUPTED)
        _warn_of_polls(job, prepared.checked)
        if lock is None:
            return
        stream.seek(0)
        raise typer.Exit(asyncio.run(pay(job, stream, layout, prepared, lock, output)))


def _amount_of(max_total: str | None, vendor: str) -> Decimal | None:
    if max_total is None:
        return None
    if vendor == "enkash":
        fail("--max-total is for Original: how many coins a row gives is configured with its event; leave it out", Exit.USAGE)
    fault = misspelled_amount(max_total)
    if fault is not None:
        fail(f"--max-total: {fault.message}", Exit.USAGE)
    return Decimal(max_total)


def _check_environment(job: Job) -> None:
    """End the command before anybody is asked, if it could not go on afterwards."""
    with wrong_usage():
        check_environment(job.vendor)
        if job.listening.port is not None:
            webhook_source(job.listening.keys_file, scope=DEFAULT_SCOPE)


def _taken(ledger: Path, stack: ExitStack) -> LedgerLock:
    lock = stack.enter_context(locked(ledger))
    if is_begun(ledger):  # an older one, or one whose making was interrupted, cannot be read before it is brought up to date
        connect_to_write(ledger).close()
    return lock


def _layout(
    file: str,
    stream: BinaryIO,
    vendor: str,
    names: Mapping[str, str | None],
    form: str | None,
    delimiter: str | None,
    *,
    ids_from_line: bool,
) -> Layout:
    if ids_from_line:
        if names["id"] is not None:
            fail(
                "--ids-from-line and --id-column contradict each other. Use the column if there is one that never changes.",
                Exit.USAGE,
            )
        tell("--ids-from-line: ids are line numbers; a line inserted or removed later would pay rows twice or never", "yellow")
    given = {name: column for name, column in names.items() if column is not None}
    for name, column in given.items():
        option = f"--{name.replace('_', '-')}-column"
        if name not in COLUMNS[vendor]:
            fail(f"{option}: there is no such column for {vendor}; leave it out", Exit.USAGE)
        if not column:
            fail(f"{option}: give the name of a column, not an empty text.", Exit.USAGE)
    start = stream.read(1024)
    stream.seek(0)
    with wrong_usage():
        return Layout(
            vendor=vendor,
            names=given,
            form=form or form_of(file, start),
            delimiter=None if delimiter is None else check_delimiter(delimiter, "--delimiter"),
            ids_from_line=ids_from_line,
            piped=is_piped(file),
        )


def _warn_of_polls(job: Job, checked: Checked) -> None:
    asking = checked.rows / job.listening.polls_per_second
    if job.vendor == "original" and job.options.wait and not job.listening.hears and asking > _LONG:
        tell(
            f"No webhooks come in, so asking about {checked.rows:,} rows takes at least {duration(asking)}; "
            "see --webhook-port, --store, --polls-per-second",
            "yellow",
        )
