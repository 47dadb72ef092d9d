"""`payouts work`, `pause`, `resume` and `stop`: the workers of a shared ledger."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from attrs import frozen

from payouts.cli.connections import check_environment
from payouts.cli.job import Job, pay
from payouts.cli.options import CampaignOptions, SharedLedgerOption, check_output_file, require_database, with_exit_codes
from payouts.cli.send_options import ListenOptions, LogOptions, SendOptions
from rewards_core.cli.option_groups import with_option_groups
from rewards_core.cli.output import JsonOption, Output, exit_on_value_error

if TYPE_CHECKING:
    from payouts.ledger.postgres import PostgresLedger

_DONE = {
    "pause": "Campaign {name} is paused: no worker sends a row until `payouts resume`. Answers under way are stored.",
    "resume": "Campaign {name} is resumed: running workers send its rows. To start more: payouts work.",
    "stop": "Campaign {name} is stopped: its workers end. Rows that are planned stay so until `payouts resume` and new workers.",
}


@frozen(kw_only=True)
class _WorkerOptions(SendOptions):
    limit: Annotated[int | None, typer.Option(help="Maximum rows sent by this worker.", min=0)] = None
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for accepted rows; another worker does.")] = False


@frozen(kw_only=True)
class _SharedCampaign(CampaignOptions):
    ledger: SharedLedgerOption


@with_exit_codes
@with_option_groups
def work(
    sending: _WorkerOptions,
    listen: ListenOptions,
    log: LogOptions,
    *,
    which: _SharedCampaign,
    report: Annotated[Path | None, typer.Option(help="Write the report to this HTML file at the end.")] = None,
    as_json: JsonOption = None,
) -> None:
    """Pay the planned rows of a PostgreSQL ledger, beside any number of other workers, until every row has ended.

    --rate limits all workers together; the lowest --rate of a running worker applies. Rows of a worker that died are taken over;
    those that it may have sent are looked up first. Credentials are read from the environment.

    For example:

      export PAYOUTS_LEDGER=postgresql://pay@db/payouts

      payouts work --campaign diwali --rate 200

      payouts work --campaign diwali --store postgresql://hook@db/events
    """
    log.begin()
    require_database(which.ledger)
    chosen = which.chosen()
    check_output_file("--report", report)
    listening = listen.listening(chosen.vendor)
    with exit_on_value_error():
        check_environment(chosen.vendor)
    which.ledger.check_newest()
    job = Job(
        vendor=chosen.vendor,
        campaign=chosen.name,
        place=which.ledger,
        options=sending.run_options(),
        listening=listening,
        may_repeat=listen.repeat_is_safe,
        report=report,
    )
    raise typer.Exit(asyncio.run(pay(job, Output(as_json))))


@with_exit_codes
@with_option_groups
def pause(
    *,
    which: _SharedCampaign,
    as_json: JsonOption = None,
) -> None:
    """Stop all workers from sending rows of a campaign, until `payouts resume`.

    For example:

      payouts pause --campaign diwali --ledger postgresql://pay@db/payouts
    """
    _change("pause", which, Output(as_json))


@with_exit_codes
@with_option_groups
def resume(
    *,
    which: _SharedCampaign,
    as_json: JsonOption = None,
) -> None:
    """Let workers send rows of a campaign again, after `payouts pause` or `payouts stop`.

    For example:

      payouts resume --campaign diwali --ledger postgresql://pay@db/payouts
    """
    _change("resume", which, Output(as_json))


@with_exit_codes
@with_option_groups
def stop(
    *,
    which: _SharedCampaign,
    as_json: JsonOption = None,
) -> None:
    """Stop all workers of a campaign, after the vendor has answered the rows that they sent.

    For example:

      payouts stop --campaign diwali --ledger postgresql://pay@db/payouts
    """
    _change("stop", which, Output(as_json))


def _change(verb: str, which: _SharedCampaign, output: Output) -> None:
    require_database(which.ledger)
    chosen = which.chosen()

    async def change() -> None:
        ledger = cast("PostgresLedger", which.ledger.ledger(vendor=chosen.vendor, campaign=chosen.name))
        async with ledger:
            await {"pause": ledger.pause, "resume": ledger.resume, "stop": ledger.stop}[verb]()

    asyncio.run(change())
    output.record({"event": verb, "campaign": chosen.name}, text=_DONE[verb].format(name=chosen.name))
