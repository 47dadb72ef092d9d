"""`payouts run`: pay every row of a file exactly once."""

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
from payouts.cli.connections import Listening, check_environment, listener_store, locked, webhook_source
from payouts.cli.job import Job, pay
from payouts.cli.options import LedgerOption, check_output_file, per_second, with_exit_codes
from payouts.cli.preflight import Terms, has_ledger, prepare
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
from rewards_core.cli.output import (
    JsonOption,
    Output,
    check_finite,
    exit_on_value_error,
    fail,
    keys_option,
    option_parser,
    print_stderr,
)
from rewards_core.operations import DEFAULT_SCOPE
from rewards_core.validation import check_name
from webhooks.store import StoreUrl

_LONG_POLLING = 60.0

VendorName = Literal["original", "enkash"]


@with_exit_codes
def run(
    file: Annotated[str, typer.Argument(help="CSV or JSONL file; - for standard input.", metavar="FILE")],
    vendor: Annotated[VendorName, typer.Option(help="The vendor that pays.")],
    campaign: Annotated[str, typer.Option(help="Name of this payout; part of every key.")],
    ledger: LedgerOption = Path("payouts.db"),
    form: Annotated[
        Literal["csv", "jsonl"] | None, typer.Option("--format", help="Format of the file; by default from its name.")
    ] = None,
    delimiter: Annotated[str | None, typer.Option(help="Delimiter of CSV cells.", show_default="detected in the header")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of the row's id.")] = None,
    reward_uid_column: Annotated[str | None, typer.Option(help="Original: column of the reward.")] = None,
    to_user_uid_column: Annotated[str | None, typer.Option(help="Original: column of the user.")] = None,
    amount_column: Annotated[str | None, typer.Option(help="Original: column of the amount.")] = None,
    nonce_column: Annotated[str | None, typer.Option(help="Original: column of the nonce, if there is one.")] = None,
    user_id_column: Annotated[str | None, typer.Option(help="EnKash: column of the user.")] = None,
    event_column: Annotated[str | None, typer.Option(help="EnKash: column of the event.")] = None,
    request_id_column: Annotated[str | None, typer.Option(help="EnKash: column of the request id, if there is one.")] = None,
    ids_from_line: Annotated[
        bool, typer.Option("--ids-from-line", help="Use line numbers as ids; never insert or remove lines later.")
    ] = False,
    concurrency: Annotated[int, typer.Option(help="Maximum requests at once.", min=1, max=1000)] = 20,
    rate: Annotated[
        float,
        typer.Option(help="Maximum rows sent per second; 0 for no limit.", parser=per_second, metavar="N/s", show_default="20/s"),
    ] = 20.0,
    max_pending: Annotated[int, typer.Option(help="Maximum rows accepted but not settled.", min=1)] = 20_000,
    limit: Annotated[int | None, typer.Option(help="Maximum rows sent by this run.", min=0)] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for accepted rows; the next run does.")] = False,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for each accepted row.", callback=check_finite, min=0)] = 900.0,
    lookup_timeout: Annotated[
        float,
        typer.Option(help="Seconds to look up a row without an answer before it is left unknown.", callback=check_finite, min=0),
    ] = 60.0,
    outage_timeout: Annotated[
        float, typer.Option(help="Seconds to retry while the vendor cannot be reached.", callback=check_finite, min=0)
    ] = 120.0,
    grace: Annotated[
        float, typer.Option(help="Seconds to wait for accepted rows after an interrupt.", callback=check_finite, min=0)
    ] = 30.0,
    max_refused: Annotated[int, typer.Option(help="Stop after this many refusals in a row; 0 for no limit.", min=0)] = 100,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row; send nothing.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask for confirmation. Rows that were paid before still need --repeats-of.")
    ] = False,
    max_total: Annotated[
        str | None, typer.Option(help="Send nothing if the rows of one reward add up to more.", metavar="AMOUNT")
    ] = None,
    repeats_of: Annotated[
        list[str] | None,
        typer.Option(
            help="Campaign whose rows may be paid again, or a pattern such as 'salary-*'. Repeat for more.",
            metavar="CAMPAIGN",
        ),
    ] = None,
    all_errors: Annotated[bool, typer.Option("--all-errors", help="Show every mistake in the file separately.")] = False,
    webhook_port: Annotated[
        int | None, typer.Option(help="Receive webhooks on this port; keys from ORIGINAL_WEBHOOK_KEYS.", min=0, max=65_535)
    ] = None,
    webhook_host: Annotated[str, typer.Option(help="Address to listen on with --webhook-port.")] = "127.0.0.1",
    webhook_path: Annotated[str, typer.Option(help="Path that webhooks are sent to.")] = WEBHOOK_PATH,
    keys_file: Annotated[Path | None, keys_option(WEBHOOK_KEYS)] = None,
    store: Annotated[
        StoreUrl | None,
        typer.Option(
            help="Store of a running webhook-listener, instead of a port: FILE, or its URL.",
            metavar="STORE",
            parser=option_parser(listener_store, "--store"),
        ),
    ] = None,
    poll_after: Annotated[
        float, typer.Option(help="Seconds before the first poll of a row.", callback=check_finite, min=0.01)
    ] = 15.0,
    polls_per_second: Annotated[
        float, typer.Option(help="Maximum polls per second.", callback=check_finite, min=0.01, max=100_000)
    ] = 20.0,
    repeat_is_safe: Annotated[
        bool, typer.Option("--repeat-is-safe", help="Declare that EnKash pays a repeated request id only once.")
    ] = False,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="EnKash: store the users' balances first, for payouts audit.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write the report to this HTML file.")] = None,
    results: Annotated[Path | None, typer.Option(help="Write all rows to this CSV file.")] = None,
    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            help="Log at this level and above, with timestamps; info logs every delivery.",
            show_default="warning, without warnings about single calls; warning with --log-format json",
        ),
    ] = None,
    log_format: LogFormatOption = "text",
    as_json: JsonOption = None,
) -> None:
    """Pay every row of a file exactly once; to resume, run the same command again.

    Columns for Original: id,reward_uid,to_user_uid,amount[,nonce]; for EnKash: id,user_id,event[,request_id]. Credentials
    are read from the environment. The whole file is checked first; nothing is sent if anything is wrong.

    For example:

      payouts run rewards.csv --vendor original --campaign diwali --dry-run

      payouts run rewards.csv --vendor original --campaign diwali --webhook-port 8480

      export | payouts run - --format jsonl --vendor enkash --campaign diwali --yes
    """
    if log_level is not None or log_format == "json":
        log_to_stderr(LogSettings(level=log_level or "warning", format=log_format))
    check_output_file("--report", report, ledger=ledger, rows=Path(file))
    check_output_file("--results", results, ledger=ledger, rows=Path(file), report=report)
    most = _amount_of(max_total, vendor)
    with exit_on_value_error():
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
        fail("--store and --webhook-port are for Original; EnKash sends no webhooks. Nothing was sent.", Exit.USAGE)
    if vendor == "original" and snapshot:
        fail("--snapshot is for EnKash; payouts audit looks up Original's allocations. Nothing was sent.", Exit.USAGE)
    if vendor == "original" and repeat_is_safe:
        fail("--repeat-is-safe is for EnKash; Original's nonce makes every repeat safe. Nothing was sent.", Exit.USAGE)
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
            outage_timeout=outage_timeout,
            grace=grace,
            max_refused=max_refused or None,
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
        lock = None if dry_run else _lock(ledger, stack)
        try:
            stream = stack.enter_context(rereadable(file))
            layout = _layout(file, stream, vendor, names, form, delimiter, ids_from_line=ids_from_line)
            prepared = prepare(stream, layout, terms, output, before_asking=partial(_check_environment, job))
        except (KeyboardInterrupt, typer.Abort):
            fail("Interrupted. Nothing was sent.", Exit.INTERRUPTED)
        _warn_of_polling(job, prepared.checked)
        if lock is None:
            return
        stream.seek(0)
        raise typer.Exit(asyncio.run(pay(job, stream, layout, prepared, lock, output)))


def _amount_of(max_total: str | None, vendor: str) -> Decimal | None:
    if max_total is None:
        return None
    if vendor == "enkash":
        fail("--max-total is for Original; EnKash sets the coins of each event. Nothing was sent.", Exit.USAGE)
    fault = misspelled_amount(max_total)
    if fault is not None:
        fail(f"--max-total: {fault.message}. Nothing was sent.", Exit.USAGE)
    return Decimal(max_total)


def _check_environment(job: Job) -> None:
    """End the command before it asks for confirmation, if it could not pay afterwards."""
    with exit_on_value_error():
        check_environment(job.vendor)
        if job.listening.port is not None:
            webhook_source(job.listening.keys_file, scope=DEFAULT_SCOPE)


def _lock(ledger: Path, stack: ExitStack) -> LedgerLock:
    lock = stack.enter_context(locked(ledger))
    if has_ledger(ledger):
        connect_to_write(ledger).close()  # brings an older or unfinished layout up to date, which could not be read
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
            told = "--ids-from-line and --id-column contradict each other. Use the column if its ids never change."
            fail(f"{told} Nothing was sent.", Exit.USAGE)
        print_stderr(
            "--ids-from-line: ids are line numbers; inserting or removing a line later would pay rows twice or never", "yellow"
        )
    given = {name: column for name, column in names.items() if column is not None}
    for name, column in given.items():
        option = f"--{name.replace('_', '-')}-column"
        if name not in COLUMNS[vendor]:
            fail(f"{option}: {vendor} has no such column. Nothing was sent.", Exit.USAGE)
        if not column:
            fail(f"{option}: give the name of a column, not an empty text. Nothing was sent.", Exit.USAGE)
    start = stream.read(1024)
    stream.seek(0)
    with exit_on_value_error():
        return Layout(
            vendor=vendor,
            names=given,
            form=form or form_of(file, start),
            delimiter=None if delimiter is None else check_delimiter(delimiter, "--delimiter"),
            ids_from_line=ids_from_line,
            piped=is_piped(file),
        )


def _warn_of_polling(job: Job, checked: Checked) -> None:
    seconds = checked.rows / job.listening.polls_per_second
    if job.vendor == "original" and job.options.wait and not job.listening.receives and seconds > _LONG_POLLING:
        print_stderr(
            f"Without webhooks, polling {checked.rows:,} rows takes at least {duration(seconds)}; "
            "see --webhook-port, --store, --polls-per-second",
            "yellow",
        )
