"""Options that several commands share."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import fail
from rewards_core.validation import shown

LedgerOption = Annotated[Path, typer.Option(help="The ledger: the file that records every row.")]
CampaignOption = Annotated[str | None, typer.Option(help="The campaign; not needed if the ledger has only one.")]
VendorOption = Annotated[
    Literal["original", "enkash"] | None, typer.Option(help="The vendor of the campaign, if two campaigns share a name.")
]

_NOTHING = "Nothing was sent or written."
_SLOWEST = 1e-6
_FASTEST = 1e9


def check_place(option: str, path: Path | None, **kept: Path | None) -> None:
    """End the command if a file could not be written there, before anything is sent.

    Args:
        option: The option that names it, for messages.
        path: Where it is to be written, None for nowhere.
        kept: The files that must not be written over, by the word for each.
    """
    if path is None:
        return
    if path.is_dir():
        fail(f"{option}: {path} is a folder. Name a file in it. {_NOTHING}", Exit.USAGE)
    if path.exists() and not path.is_file():
        fail(f"{option}: {path} is a device or a pipe, which a file would replace. Name another. {_NOTHING}", Exit.USAGE)
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        fail(f"{option}: {folder} is not a folder that you can write into. Make it, or name another. {_NOTHING}", Exit.USAGE)
    for word, other in kept.items():
        if other is not None and path.resolve() == other.resolve():
            fail(f"{option}: {path} is the file of the {word}, and would be written over. Name another. {_NOTHING}", Exit.USAGE)


def per_second(value: str | float) -> float:
    """Read `20` or `20/s`.

    Raises:
        typer.BadParameter: it is neither.
    """
    with suppress(ValueError):
        number = float(str(value).removesuffix("/s"))
        if number == 0 or _SLOWEST <= number <= _FASTEST:
            return number
    raise typer.BadParameter(f"{shown(str(value))} is not a rate: give a number per second such as 20 or 20/s, or 0 for no limit")
