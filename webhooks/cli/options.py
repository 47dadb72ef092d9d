"""Options that several commands share."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, TextIO

import typer

from original_async.settings import WEBHOOK_KEYS, app_uid_from
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import fail, keys_option, not_empty
from rewards_core.text import one_line
from webhooks.cli.sources import SourceSpec, parse_source
from webhooks.cli.unix_socket import UnixSettings, mode_from
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
UnixOption = Annotated[Path | None, typer.Option("--unix", help="Listen on a unix socket instead.")]
UnixModeOption = Annotated[
    str,
    typer.Option(
        "--unix-mode", help="Who may connect to the unix socket: 0600 its user, 0660 its group too, 0666 everybody here."
    ),
]
UnixGroupOption = Annotated[str | None, typer.Option("--unix-group", help="Group of the unix socket, such as that of the proxy.")]
TlsCertOption = Annotated[Path | None, typer.Option("--tls-cert", help="PEM file of the certificate with its chain.")]
TlsKeyOption = Annotated[Path | None, typer.Option("--tls-key", help="PEM file of its key, if apart.")]
TrustedProxyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--trusted-proxy",
        help="Address or CIDR range whose X-Forwarded-For is believed, or 'unix'; may be given again.",
    ),
]
ForwardOption = Annotated[
    str | None,
    typer.Option(
        "--forward-to", help="Hand deliveries on to this URL, unchanged, as long as --forward-attempts and --forward-for say."
    ),
]
EventOption = Annotated[str | None, typer.Option("--event", "--name", help="Only events of this name.", callback=not_empty)]
StateOption = Annotated[EventState | None, typer.Option("--state", help="Only events whose handlers are so far.")]
EventUidOption = Annotated[
    str | None, typer.Option("--uid", help="Only events that speak of the operation with this uid.", callback=not_empty)
]
EventScopeOption = Annotated[str | None, typer.Option("--scope", help="Only events of this scope.", callback=not_empty)]
UidOption = Annotated[
    str | None, typer.Option("--uid", help="Only the operation with this uid, of whatever kind.", callback=not_empty)
]
KindOption = Annotated[
    str | None, typer.Option("--kind", help="Only operations of this kind, such as allocation.", callback=not_empty)
]
ScopeOption = Annotated[str | None, typer.Option("--scope", help="Only operations of this scope.", callback=not_empty)]
BeforeOption = Annotated[int | None, typer.Option("--before", help="Only those with a lower id.", min=0, max=LARGEST_ID)]
LimitOption = Annotated[int, typer.Option("--limit", help="The most to list.", min=1, max=LARGEST_LIST)]
CaOption = Annotated[
    Path | None, typer.Option("--cacert", help="PEM file of the authorities to trust for https, in place of the system's.")
]
DEFAULT_STORE = "sqlite:///inbox.db"
DEFAULT_UNIX_MODE = "0660"
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


def unix_of(path: Path | None, mode: str, group: str | None) -> UnixSettings | None:
    """Return the unix socket a command means, None if it means none.

    Raises:
        typer.BadParameter: its path, mode or group makes no sense, or there is a mode or group but no path.
    """
    if path is None:
        if group is not None or mode != DEFAULT_UNIX_MODE:
            raise typer.BadParameter("--unix-mode and --unix-group are for a unix socket. Give --unix PATH too, or none of them.")
        return None
    try:
        return UnixSettings(path=path, mode=mode_from(mode), group=group)
    except ValueError as problem:
        raise typer.BadParameter(str(problem)) from None
