"""Options that several commands share."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, TextIO

import typer

from original_async.settings import WEBHOOK_KEYS, app_uid_from
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import fail, keys_option
from rewards_core.text import one_line
from webhooks.cli.sources import SourceSpec, parse_source
from webhooks.store.records import EventState

LARGEST_ID = 10**15
LARGEST_LIST = 1_000_000

StoreOption = Annotated[
    str,
    typer.Option("--store", help="Where events are kept: sqlite:///FILE (sqlite:////FILE if absolute)."),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Go on without being asked.")]
KeysOption = Annotated[Path | None, keys_option(WEBHOOK_KEYS)]
SourceOption = Annotated[
    list[str] | None,
    typer.Option("--source", help="PATH[,scope=S][,app=UID][,keys=FILE]; give it again for each further source."),
]
ForwardOption = Annotated[
    str | None,
    typer.Option(
        "--forward-to", help="Hand deliveries on to this URL, unchanged, as long as --forward-attempts and --forward-for say."
    ),
]
EventOption = Annotated[str | None, typer.Option("--event", "--name", help="Only events of this name.")]
StateOption = Annotated[EventState | None, typer.Option("--state", help="Only events whose handlers are so far.")]
EventUidOption = Annotated[str | None, typer.Option("--uid", help="Only events that speak of the operation with this uid.")]
EventScopeOption = Annotated[str | None, typer.Option("--scope", help="Only events of this scope.")]
UidOption = Annotated[str | None, typer.Option("--uid", help="Only the operation with this uid, of whatever kind.")]
KindOption = Annotated[str | None, typer.Option("--kind", help="Only operations of this kind, such as allocation.")]
ScopeOption = Annotated[str | None, typer.Option("--scope", help="Only operations of this scope.")]
BeforeOption = Annotated[int | None, typer.Option("--before", help="Only those with a lower id.", min=0, max=LARGEST_ID)]
LimitOption = Annotated[int, typer.Option("--limit", help="The most to list.", min=1, max=LARGEST_LIST)]
CaOption = Annotated[
    Path | None, typer.Option("--cacert", help="PEM file of the authorities to trust for https, in place of the system's.")
]
DEFAULT_STORE = "sqlite:///inbox.db"
DEFAULT_LIMIT = 50


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something that cannot be undone; outside of any event loop, so that an interrupt is heard at once.

    Raises:
        typer.Exit: nobody is at a terminal to be asked, or the answer is not yes; nothing was changed.
    """
    if yes:
        return
    stdin: TextIO | None = sys.stdin
    if stdin is None or not stdin.isatty():
        fail("Nobody is at a terminal to confirm this. Nothing was changed. Add --yes to go on without being asked.", Exit.USAGE)
    typer.echo(f"{one_line(question, 1_000)} [y/N] ", nl=False, err=True)  # `typer.confirm` writes a blank to standard output
    try:
        answer = stdin.readline()
    except KeyboardInterrupt:
        fail("Nothing was changed.", Exit.INTERRUPTED)
    if answer.strip().casefold() not in {"y", "yes"}:
        fail("Nothing was changed.", Exit.REFUSED)


def sources_of(given: list[str] | None, keys_file: Path | None) -> list[SourceSpec]:
    """Return the sources a command means; without `--source` one, at the default path.

    Raises:
        typer.BadParameter: one of them is none, or `ORIGINAL_APP_UID` is no uid.
    """
    try:
        if not given:
            return [SourceSpec(app_uid=app_uid_from(os.environ), keys_file=keys_file)]
        specs = [parse_source(text) for text in given]
    except ValueError as problem:
        raise typer.BadParameter(str(problem)) from None
    return [
        SourceSpec(path=spec.path, scope=spec.scope, app_uid=spec.app_uid, keys_file=spec.keys_file or keys_file)
        for spec in specs
    ]
