"""Options that several commands share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from attrs import evolve

from original_async.settings import WEBHOOK_KEYS, app_uid_from
from rewards_core.cli.output import check_not_empty, keys_option
from webhooks.cli.sources import SourceSpec, parse_source
from webhooks.cli.unix_socket import UnixSettings, mode_from
from webhooks.store.records import EventState

MAX_LIST = 1_000_000
_MAX_ID = 10**15


def _check_ids(ids: Any) -> Any:
    """Refuse ids beyond those of a store; `max=` would show the limit, all 16 digits of it, in the help."""
    if any(each > _MAX_ID for each in ([ids] if isinstance(ids, int) else ids or ())):
        raise typer.BadParameter(f"give an id up to {_MAX_ID:,}.")
    return ids


def _text_filter(*names: str, only: str) -> Any:
    return typer.Option(*names, help=f"Only {only}.", callback=check_not_empty)


StoreOption = Annotated[str, typer.Option("--store", help="The store: sqlite:///FILE, or sqlite:////FILE for an absolute path.")]
KeysOption = Annotated[Path | None, keys_option(WEBHOOK_KEYS)]
SourceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--source",
        metavar="SOURCE",
        help="Path that receives deliveries, then ,scope=NAME ,app=UID ,keys=FILE as needed: /a,scope=shop. Repeat for more.",
    ),
]
UnixOption = Annotated[Path | None, typer.Option("--unix", help="Listen on this unix socket instead of a port.")]
UnixModeOption = Annotated[
    str,
    typer.Option("--unix-mode", help="Who may connect to the unix socket: 0600 its user, 0660 also its group, 0666 everybody."),
]
UnixGroupOption = Annotated[str | None, typer.Option("--unix-group", help="Group of the unix socket, such as the proxy's.")]
TlsCertOption = Annotated[Path | None, typer.Option("--tls-cert", help="PEM file of the certificate and its chain.")]
TlsKeyOption = Annotated[Path | None, typer.Option("--tls-key", help="PEM file of the key, if it is not in --tls-cert.")]
TrustedProxyOption = Annotated[
    list[str] | None,
    typer.Option(
        "--trusted-proxy",
        help="Address or CIDR range of a proxy whose X-Forwarded-For is trusted, or 'unix'. Repeat for more.",
    ),
]
ForwardOption = Annotated[
    str | None,
    typer.Option(
        "--forward-to", help="Forward every delivery unchanged to this URL. --forward-attempts and --forward-for limit retries."
    ),
]
EventOption = Annotated[str | None, _text_filter("--event", "--name", only="events with this name")]
StateOption = Annotated[EventState | None, typer.Option("--state", help="Only events whose handlers are in this state.")]
EventUidOption = Annotated[str | None, _text_filter("--uid", only="events about the operation with this uid")]
EventScopeOption = Annotated[str | None, _text_filter("--scope", only="events of this scope")]
UidOption = Annotated[str | None, _text_filter("--uid", only="operations of any kind with this uid")]
KindOption = Annotated[str | None, _text_filter("--kind", only="operations of this kind, such as allocation")]
ScopeOption = Annotated[str | None, _text_filter("--scope", only="operations of this scope")]
BeforeOption = Annotated[int | None, typer.Option("--before", help="Only records with a lower id.", min=0, callback=_check_ids)]
EventIdArgument = Annotated[int, typer.Argument(help="The event's id.", min=0, callback=_check_ids)]
EventIdsArgument = Annotated[list[int], typer.Argument(help="Ids of events.", min=0, callback=_check_ids)]
OptionalEventIdsArgument = Annotated[list[int] | None, typer.Argument(help="Ids of events.", min=0, callback=_check_ids)]
LimitOption = Annotated[int, typer.Option("--limit", help="List at most this many records.", min=1, max=MAX_LIST)]
CaOption = Annotated[
    Path | None, typer.Option("--cacert", help="PEM file of certificates to trust for https, instead of the system's.")
]
DEFAULT_STORE = "sqlite:///inbox.db"
DEFAULT_UNIX_MODE = "0660"
DEFAULT_LIMIT = 50


def source_specs(given: list[str] | None, keys_file: Path | None) -> list[SourceSpec]:
    """Return the sources of a command; without `--source` one at the default path."""
    try:
        if not given:
            return [SourceSpec(app_uid=app_uid_from(os.environ), keys_file=keys_file)]
        specs = [parse_source(text) for text in given]
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return [evolve(spec, keys_file=spec.keys_file or keys_file) for spec in specs]


def unix_settings(path: Path | None, mode: str, group: str | None) -> UnixSettings | None:
    """Return the unix socket of a command, None if it has none."""
    if path is None:
        if group is not None or mode != DEFAULT_UNIX_MODE:
            raise typer.BadParameter("--unix-mode and --unix-group need a unix socket. Give --unix PATH too, or none of them.")
        return None
    try:
        return UnixSettings(path=path, mode=mode_from(mode), group=group)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
