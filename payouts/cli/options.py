"""Options and exit codes that all commands share."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from attrs import frozen

from payouts.ledger.place import LedgerPlace, place_of
from payouts.ledger.reader import Campaign
from payouts.states import CampaignUnclear, LedgerError
from payouts.vendors import vendor_of
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import exit_on_errors, exit_on_value_error, fail, option_parser
from rewards_core.sqlite.connection import SQLiteError
from rewards_core.validation import shown


def ledger_option(help: str, metavar: str) -> Any:  # noqa: A002
    """Return the option `--ledger` with a help of its own."""
    return typer.Option(help=help, parser=option_parser(place_of, "--ledger"), metavar=metavar)


_EITHER = "The ledger, which records every row: a file, or the URL of a PostgreSQL database that many workers share."
LedgerOption = Annotated[LedgerPlace, ledger_option(_EITHER, "LEDGER")]
SharedLedgerOption = Annotated[LedgerPlace, ledger_option("URL of the PostgreSQL ledger.", "URL")]
DEFAULT_LEDGER = place_of("payouts.db")
CampaignOption = Annotated[str | None, typer.Option(help="The campaign; may be left out if the ledger has only one.")]
KindName = Literal["allocation", "mint"]
VendorOption = Annotated[
    Literal["original", "enkash"] | None, typer.Option(help="The vendor, if two campaigns have the same name.")
]


@frozen(kw_only=True)
class CampaignOptions:
    """Which campaign of which ledger a command is about."""

    ledger: LedgerOption = DEFAULT_LEDGER
    campaign: CampaignOption = None
    vendor: VendorOption = None
    kind: Annotated[KindName | None, typer.Option(help="The kind of its rows, if two campaigns have the same name.")] = None

    def chosen(self) -> Campaign:
        """Return the campaign; raises `CampaignUnclear` and `LedgerError`."""
        with self.ledger.reader() as reader:
            return reader.campaign(self.campaign, self.grants)

    @property
    def grants(self) -> str | None:
        """The vendor and what it grants, as the ledger names it; None if any campaign may be meant."""
        return granting(self.vendor, self.kind)


def granting(vendor: str | None, kind: str | None) -> str | None:
    """Return a vendor and what it grants, as the ledger names it; end the command if the vendor does not grant that."""
    with exit_on_value_error():
        return vendor_of(vendor, kind)


_NOTHING = "Nothing was sent or written."
_MIN_RATE, _MAX_RATE = 1e-6, 1e9


def _unclear(problem: CampaignUnclear) -> tuple[str, int]:
    missing = Exit.NOT_FOUND if problem.known else Exit.UNAVAILABLE
    return str(problem), Exit.USAGE if problem.meant else missing


def _unusable(problem: SQLiteError) -> tuple[str, int]:
    words = f"The ledger cannot be read or written: {problem}. Check the disk, then run the same command again."
    return words, Exit.UNAVAILABLE


with_exit_codes = exit_on_errors(
    {CampaignUnclear: _unclear, LedgerError: Exit.UNAVAILABLE, SQLiteError: _unusable},
    interrupted="Interrupted. What was done so far is in the ledger.",
)
"""Decorator: end a command with the documented exit codes."""


def check_output_file(option: str, path: Path | None, **kept: Path | None) -> None:
    """End the command if a file cannot be written, before anything is sent."""
    if path is None:
        return
    if path.is_dir():
        fail(f"{option}: {path} is a folder. Name a file in it. {_NOTHING}", Exit.USAGE)
    if path.exists() and not path.is_file():
        fail(f"{option}: {path} is a device or a pipe, which a file would replace. Name another file. {_NOTHING}", Exit.USAGE)
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        fail(f"{option}: {folder} is not a folder that you can write to. Create it, or name another. {_NOTHING}", Exit.USAGE)
    for word, other in kept.items():
        if other is not None and path.resolve() == other.resolve():
            fail(f"{option}: {path} is the file of the {word} and would be overwritten. Name another. {_NOTHING}", Exit.USAGE)


def require_database(place: LedgerPlace) -> None:
    """End the command if its ledger is a file."""
    if place.path is not None:
        told = f"{place}: workers cannot share a file. Give --ledger postgresql://..., or pay it with `payouts run`."
        fail(f"{told} {_NOTHING}", Exit.USAGE)


def per_second(value: str | float) -> float:
    """Parse `20` or `20/s`.

    Raises:
        typer.BadParameter: it is neither.
    """
    with suppress(ValueError):
        number = float(str(value).removesuffix("/s"))
        if number == 0 or _MIN_RATE <= number <= _MAX_RATE:
            return number
    raise typer.BadParameter(f"{shown(str(value))} is not a rate: give a number per second such as 20 or 20/s, or 0 for no limit")
