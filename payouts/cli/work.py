"""`payouts work`, `pause`, `resume` and `stop`: the workers of a shared ledger."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from payouts.cli.connections import check_environment
from payouts.cli.job import Job, pay
from payouts.cli.options import (
    DEFAULT_LEDGER,
    CampaignOption,
    LedgerOption,
    VendorOption,
    check_output_file,
    require_database,
    with_exit_codes,
)
from payouts.cli.send_options import ListenOptions, LogOptions, SendOptions
from rewards_core.cli.option_groups import with_option_groups
from rewards_core.cli.output import JsonOption, Output, exit_on_value_error

if TYPE_CHECKING:
    from payouts.ledger.place import LedgerPlace
    from payouts.ledger.reader import Campaign

_DONE = {
    "pause": "Campaign {name} is paused: no worker sends a row until `payouts resume`. Answers under way are stored.",
    "resume": "Campaign {name} is resumed: workers that run send its rows. To start more: payouts work.",
    "stop": "Campaign {name} is stopped: its workers end. Rows that are planned stay so until `payouts resume` and new workers.",
}


@with_exit_codes
@with_option_groups
def work(
    sending: SendOptions,
    listen: ListenOptions,
    log: LogOptions,
    ledger: LedgerOption = DEFAULT_LEDGER,
    campaign: CampaignOption = None,
    vendor: VendorOption = None,
    report: Annotated[Path | None, typer.Option(help="Write the report to this HTML file at the end.")] = None,
    as_json: JsonOption = None,
) -> None:
    """Pay the planned rows of a PostgreSQL ledger, beside any number of other workers, until every row has ended.

    --rate is the rate of all workers together; the lowest that a living worker gives holds. What a lost worker left is taken
    over: rows that it may have sent are looked up first. Credentials are read from the environment.

    For example:

      export PAYOUTS_LEDGER=postgresql://pay@db/payouts

      payouts work --campaign diwali --rate 200

      payouts work --campaign diwali --store postgresql://hook@db/events
    """
    log.begin()
    chosen = _campaign(ledger, campaign, vendor)
    check_output_file("--report", report)
    listening = listen.listening(chosen.vendor)
    with exit_on_value_error():
        check_environment(chosen.vendor)
    ledger.check_newest()
    job = Job(
        vendor=chosen.vendor,
        campaign=chosen.name,
        place=ledger,
        options=sending.run_options(),
        listening=listening,
        may_repeat=listen.repeat_is_safe,
        report=report,
    )
    raise typer.Exit(asyncio.run(pay(job, Output(as_json))))


@with_exit_codes
def pause(
    ledger: LedgerOption = DEFAULT_LEDGER,
    campaign: CampaignOption = None,
    vendor: VendorOption = None,
    as_json: JsonOption = None,
) -> None:
    """Let no worker send a row of a campaign until payouts resume.

    For example:

      payouts pause --campaign diwali --ledger postgresql://pay@db/payouts
    """
    _change("pause", ledger, campaign, vendor, Output(as_json))


@with_exit_codes
def resume(
    ledger: LedgerOption = DEFAULT_LEDGER,
    campaign: CampaignOption = None,
    vendor: VendorOption = None,
    as_json: JsonOption = None,
) -> None:
    """Let workers send rows of a campaign again, after payouts pause or stop.

    For example:

      payouts resume --campaign diwali --ledger postgresql://pay@db/payouts
    """
    _change("resume", ledger, campaign, vendor, Output(as_json))


@with_exit_codes
def stop(
    ledger: LedgerOption = DEFAULT_LEDGER,
    campaign: CampaignOption = None,
    vendor: VendorOption = None,
    as_json: JsonOption = None,
) -> None:
    """Let all workers of a campaign end, once the rows that they have sent are answered.

    For example:

      payouts stop --campaign diwali --ledger postgresql://pay@db/payouts
    """
    _change("stop", ledger, campaign, vendor, Output(as_json))


def _campaign(place: LedgerPlace, campaign: str | None, vendor: str | None) -> Campaign:
    require_database(place)
    with place.reader() as reader:
        return reader.campaign(campaign, vendor)


def _change(verb: str, place: LedgerPlace, campaign: str | None, vendor: str | None, output: Output) -> None:
    chosen = _campaign(place, campaign, vendor)

    async def change() -> None:
        opened: Any = place.ledger(vendor=chosen.vendor, campaign=chosen.name)  # a PostgresLedger
        async with opened as ledger:
            await getattr(ledger, verb)()

    asyncio.run(change())
    output.record({"event": verb, "campaign": chosen.name}, text=_DONE[verb].format(name=chosen.name))
