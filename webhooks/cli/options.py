"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from attrs import evolve

from original_async.settings import WEBHOOK_KEYS, app_uid_from, has_credentials
from rewards_core.cli.output import check_finite, check_not_empty, keys_option, option_parser
from webhooks.cli.settings import FORWARD_ATTEMPTS, AdminSettings, ForwardSettings, PollSettings, store_url
from webhooks.cli.sources import SourceSpec, parse_source
from webhooks.cli.unix_socket import UnixSettings, mode_from
from webhooks.store.records import UNSERVED_DAYS, EventState
from webhooks.store.urls import StoreUrl

MAX_LIST = 1_000_000
_MAX_ID = 10**15


def _check_ids(ids: Any) -> Any:
    """Refuse ids beyond those of a store; `max=` would show the limit, all 16 digits of it, in the help."""
    if any(each > _MAX_ID for each in ([ids] if isinstance(ids, int) else ids or ())):
        raise typer.BadParameter(f"give an id up to {_MAX_ID:,}.")
    return ids


def number_option(text: str, *, minimum: float = 0.01, max: float | None = None) -> Any:  # noqa: A002 - typer's name
    """Return an option that takes a finite number."""
    return typer.Option(help=text, callback=check_finite, min=minimum, max=max)


def _text_filter(*names: str, only: str) -> Any:
    return typer.Option(*names, help=f"Only {only}.", callback=check_not_empty)


StoreOption = Annotated[
    StoreUrl,
    typer.Option(
        "--store",
        help="The store: sqlite:///FILE, sqlite:////FILE for an absolute path, or postgresql://USER@HOST/DATABASE.",
        metavar="URL",
        parser=option_parser(store_url, "--store"),
    ),
]
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
QueueArgument = Annotated[str, typer.Argument(metavar="QUEUE", help="The queue: sqs://NAME?region=REGION, or its https URL.")]
RegionOption = Annotated[
    str | None, typer.Option("--region", help="Region of the queue, if its URL does not name it. Default: AWS_REGION.")
]
EndpointOption = Annotated[str | None, typer.Option("--endpoint", help="URL of a private endpoint of SQS.")]
EndpointInsecureOption = Annotated[
    bool, typer.Option("--endpoint-insecure", help="Allow plain http to an endpoint on another machine.")
]
AdminHostOption = Annotated[
    str,
    typer.Option(help="Address of the admin port (health and metrics); needs --admin-token-file if other machines can reach it."),
]
AdminPortOption = Annotated[int, typer.Option(help="Admin port; 0 picks a free one, -1 disables it.", min=-1, max=65_535)]
AdminTokenOption = Annotated[
    Path | None, typer.Option(help="File with the token that the admin port requires, except for health and readiness.")
]
AdminAllowHostOption = Annotated[
    list[str] | None,
    typer.Option(help="Another host name, or name:port, by which the admin port may be addressed. Repeat for more."),
]
ForwardInsecureOption = Annotated[bool, typer.Option("--forward-insecure", help="Allow plain http to another machine.")]
ForwardAttemptsOption = Annotated[
    int | None,
    typer.Option(
        help=f"Attempts before a delivery becomes a dead letter: {FORWARD_ATTEMPTS}, or no limit if only --forward-for is "
        "given. Pauses double from 1 s up to 5 min, so that 20 attempts take about an hour.",
        min=1,
    ),
]
ForwardForOption = Annotated[
    float | None,
    number_option(
        "Seconds after the first attempt at which a delivery becomes a dead letter; with --forward-attempts, whichever "
        "comes first."
    ),
]
ForwardTimeoutOption = Annotated[float, number_option("Seconds to wait for the answer to one attempt.")]
PollOption = Annotated[
    bool | None,
    typer.Option("--poll/--no-poll", help="Poll the vendor for pending operations; the default if ORIGINAL_API_KEY is set."),
]
PollScopeOption = Annotated[
    str | None, typer.Option(help="The scope of the API credentials. Default: the scope of the source, if there is only one.")
]
PollFirstAfterOption = Annotated[float, number_option("Seconds before the first poll of an operation.")]
PollsPerSecondOption = Annotated[float, number_option("Maximum polls per second.", max=100_000)]
ApiInsecureOption = Annotated[bool, typer.Option("--api-insecure", help="Allow plain http to an API on another machine.")]
DrainOption = Annotated[float, number_option("Seconds that a shutdown may take.", minimum=0.1)]
KeepDaysOption = Annotated[float, number_option("Days that finished events and outcomes are kept.")]
KeepBodiesOption = Annotated[
    float | None,
    number_option("Days after which the bodies of done events are deleted; by default they are kept with their events."),
]
KeepDeadOption = Annotated[
    float,
    number_option(
        "Days after receipt that dead letters are kept for a retry. An event without a running handler becomes a dead "
        f"letter after {UNSERVED_DAYS} days.",
        minimum=UNSERVED_DAYS,
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
DEFAULT_STORE = StoreUrl("sqlite:///inbox.db")
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


def admin_settings(host: str, port: int, token_file: Path | None, allowed_hosts: list[str] | None) -> AdminSettings | None:
    """Return the admin port of a command, None if it has none."""
    return None if port < 0 else AdminSettings(host=host, port=port, token_file=token_file, allowed_hosts=allowed_hosts or ())


def forward_settings(
    url: str | None, attempts: int | None, give_up_after: float | None, timeout: float, *, allow_insecure: bool
) -> ForwardSettings | None:
    """Return the forwarding settings of a command, None if it does not forward."""
    if url is None:
        return None
    return ForwardSettings(
        url=url, allow_insecure=allow_insecure, attempts=attempts, timeout=timeout, give_up_after=give_up_after
    )


def poll_settings(
    sources: Sequence[SourceSpec],
    scope: str | None,
    first_after: float,
    max_per_second: float,
    *,
    poll: bool | None,
    allow_insecure: bool,
) -> PollSettings | None:
    """Return the polling settings of a command, None if it does not poll; by default it does if there are API credentials."""
    if not (has_credentials(os.environ) if poll is None else poll):
        return None
    return PollSettings(
        scope=_poll_scope(scope, sources),
        first_after=first_after,
        max_per_second=max_per_second,
        allow_insecure=allow_insecure,
    )


def _poll_scope(given: str | None, sources: Sequence[SourceSpec]) -> str:
    """Return the scope to poll; it must be that of a source."""
    scopes = sorted({spec.scope for spec in sources})
    scope = scopes[0] if given is None and len(scopes) == 1 else given
    if scope not in scopes:
        wrong = (
            "there are several sources, so the API credentials need a scope"
            if scope is None
            else f"no source has the scope {scope}"
        )
        give = f"{'one of ' if len(scopes) > 1 else ''}{', '.join(scopes)}"
        raise typer.BadParameter(f"--poll-scope: {wrong}. Give {give}, or --no-poll.")
    return scope
