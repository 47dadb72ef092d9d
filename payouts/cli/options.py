"""Options that several commands have."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

import typer

from payouts.cli.terminal import Exit
from webhooks.cli.terminal import fail

LedgerOption = Annotated[Path, typer.Option(help="The file that remembers every row.")]
CampaignOption = Annotated[str | None, typer.Option(help="Which campaign; not needed where the ledger has one only.")]
VendorOption = Annotated[
    Literal["original", "enkash"] | None, typer.Option(help="Which vendor's, where two campaigns share a name.")
]


def check_place(option: str, path: Path | None, **kept: Path | None) -> None:
    """End the command if a file could not be written there, before there is anything to write.

    Args:
        option: Who names it, for messages.
        path: Where it is to be written, None for nowhere.
        kept: What must not be written over, by the word for it.
    """
    if path is None:
        return
    if path.is_dir():
        fail(f"{option}: expected the name of a file, got the folder {path}; name a file in it", Exit.USAGE)
    if path.exists() and not path.is_file():
        fail(f"{option}: expected the name of a file, got the device {path}, whose place a file would take", Exit.USAGE)
    folder = path.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        fail(f"{option}: expected a folder that can be written, got {folder} in {path}; make it, or name another", Exit.USAGE)
    for word, other in kept.items():
        if other is not None and path.resolve() == other.resolve():
            fail(f"{option}: expected a file of its own, got that of the {word}: {path}; name another", Exit.USAGE)


def per_second(value: str | float) -> float:
    """Read `20` or `20/s`.

    Raises:
        typer.BadParameter: it is neither.
    """
    with suppress(ValueError):
        number = float(str(value).removesuffix("/s"))
        if number >= 0:
            return number
    raise typer.BadParameter(f"expected rows per second such as 20 or 20/s, got {value!a}")
