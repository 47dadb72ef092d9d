"""`payouts run`: pay every row of a file exactly once."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from payouts.cli.connections import check_environment, webhook_source
from payouts.cli.file_options import CheckOptions, FileOptions
from payouts.cli.job import Job, pay
from payouts.cli.options import check_output_file, with_exit_codes
from payouts.cli.planning import Source, planned, prepared
from payouts.cli.send_options import ListenOptions, LogOptions, SendOptions
from payouts.report.charts import duration
from payouts.vendors import ROW_TYPES
from rewards_core.cli.option_groups import with_option_groups
from rewards_core.cli.output import JsonOption, Output, exit_on_value_error, print_stderr
from rewards_core.operations import DEFAULT_SCOPE

_LONG_POLLING = 60.0


@with_exit_codes
@with_option_groups
def run(
    file: FileOptions,
    sending: SendOptions,
    checks: CheckOptions,
    listen: ListenOptions,
    log: LogOptions,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="EnKash: store the users' balances first, for `payouts audit`.")
    ] = False,
    report: Annotated[Path | None, typer.Option(help="Write the report to this HTML file.")] = None,
    results: Annotated[Path | None, typer.Option(help="Write all rows to this CSV file.")] = None,
    as_json: JsonOption = None,
) -> None:
    """Pay every row of a file exactly once; to resume, run the same command again.

    The whole file is checked first; nothing is sent if anything is wrong. Credentials are read from the environment.

    Columns, with optional ones in brackets:

      Original: id,reward_uid,to_user_uid,amount[,nonce]

      EnKash: id,user_id,event[,request_id]

      --kind mint: id,user_uid,collection_uid,name,image_url[,asset_external_id]

    A mint may also have the columns unique_name, store_image_on_ipfs, description, external_url, sale_price_in_usd and
    attributes.

    For example:

      payouts run rewards.csv --vendor original --campaign diwali --dry-run

      payouts run rewards.csv --vendor original --campaign may --webhook-port 8480

      payouts run users.csv --vendor original --kind mint --campaign badges

      coins | payouts run - --format jsonl --vendor enkash --campaign may --yes
    """
    log.begin()
    place = file.ledger
    check_output_file("--report", report, ledger=place.path, rows=Path(file.file))
    check_output_file("--results", results, ledger=place.path, rows=Path(file.file), report=report)
    file.check(snapshot=snapshot)
    job = Job(
        vendor=file.grants,
        campaign=file.campaign,
        place=place,
        options=sending.run_options(),
        listening=listen.listening(file.grants),
        may_repeat=listen.repeat_is_safe,
        report=report,
        results=results,
    )
    output = Output(as_json)
    with ExitStack() as stack:
        source, lock = prepared(file, checks, output, stack, before_asking=partial(_check_environment, job))
        _warn_of_polling(job, source)
        if checks.dry_run:
            return
        if place.path is None:  # others may plan, and workers send, while this one pays
            planned(source, place, lock, output, snapshot=snapshot)
            stack.close()
            raise typer.Exit(asyncio.run(pay(job, output, total=source.rows)))
        raise typer.Exit(asyncio.run(pay(job, output, source=source, lock=lock, snapshot=snapshot)))


def _check_environment(job: Job) -> None:
    """End the command before it asks for confirmation, if it could not pay afterwards."""
    with exit_on_value_error():
        check_environment(job.vendor)
        if job.listening.port is not None:
            webhook_source(job.listening.keys_file, scope=DEFAULT_SCOPE)


def _warn_of_polling(job: Job, source: Source) -> None:
    seconds = source.rows / job.listening.polls_per_second
    if ROW_TYPES[job.vendor].has_lookup and job.options.wait and not job.listening.receives and seconds > _LONG_POLLING:
        print_stderr(
            f"Without webhooks, polling {source.rows:,} rows takes at least {duration(seconds)}; "
            "see --webhook-port, --store, --polls-per-second",
            "yellow",
        )
