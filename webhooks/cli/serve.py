"""`webhook-listener serve`: take deliveries until told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from original_async.settings import has_credentials
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.logs import LogFormatOption, LogLevelOption, LogSettings, log_to_stderr
from rewards_core.cli.output import JsonOption, Output, check_finite, exit_on_errors
from webhooks.cli.errors import ERRORS
from webhooks.cli.options import (
    DEFAULT_STORE,
    DEFAULT_UNIX_MODE,
    ForwardOption,
    KeysOption,
    SourceOption,
    StoreOption,
    TlsCertOption,
    TlsKeyOption,
    TrustedProxyOption,
    UnixGroupOption,
    UnixModeOption,
    UnixOption,
    source_specs,
    unix_settings,
)
from webhooks.cli.service import Listener
from webhooks.cli.settings import (
    FORWARD_ATTEMPTS,
    MAX_WORKERS,
    AdminSettings,
    ForwardSettings,
    ListenerSettings,
    PollSettings,
    TlsSettings,
)
from webhooks.cli.sources import SourceSpec
from webhooks.cli.stopping import end_on_signals
from webhooks.cli.supervisor import Supervisor
from webhooks.cli.tuning import leave_lasting_objects_alone
from webhooks.early_signals import HAD_TERMINAL, has_terminal, take_hang_ups
from webhooks.ingress.limits import ArmourLimits
from webhooks.store.records import DEAD_DAYS, UNSERVED_DAYS

logger = logging.getLogger("webhooks.listener")

_LIMITS = ArmourLimits()
_OLDEST_TLS = "1.2"


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65_535)] = 8480,
    unix: UnixOption = None,
    unix_mode: UnixModeOption = DEFAULT_UNIX_MODE,
    unix_group: UnixGroupOption = None,
    source: SourceOption = None,
    keys_file: KeysOption = None,
    store: StoreOption = DEFAULT_STORE,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    tls_min: Annotated[str, typer.Option(help="Oldest TLS version: 1.2 or 1.3.")] = _OLDEST_TLS,
    admin_host: Annotated[
        str, typer.Option(help="Address for health and metrics; outside this machine it needs a token.")
    ] = "127.0.0.1",
    admin_port: Annotated[
        int, typer.Option(help="Port for health and metrics; 0 takes a free one, -1 none.", min=-1, max=65_535)
    ] = 8481,
    admin_token_file: Annotated[
        Path | None, typer.Option(help="File of the token for what the admin port shows beside health.")
    ] = None,
    admin_allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Name, or name:port, that the admin port is asked by beside its addresses; may be given again."),
    ] = None,
    forward_to: ForwardOption = None,
    forward_insecure: Annotated[bool, typer.Option("--forward-insecure", help="Allow plain http to another machine.")] = False,
    forward_attempts: Annotated[
        int | None,
        typer.Option(
            help=f"Tries before a delivery becomes a dead letter: {FORWARD_ATTEMPTS}, or without limit where --forward-for is "
            "given alone. Pauses double from 1 s up to 5 min, so that 20 tries take about an hour.",
            min=1,
        ),
    ] = None,
    forward_for: Annotated[
        float | None,
        typer.Option(
            help="Seconds after the first try at which a delivery becomes a dead letter; with --forward-attempts whichever comes "
            "first.",
            callback=check_finite,
            min=0.01,
        ),
    ] = None,
    forward_timeout: Annotated[float, typer.Option(help="Seconds one try may take.", callback=check_finite, min=0.01)] = 20.0,
    poll: Annotated[
        bool | None,
        typer.Option("--poll/--no-poll", help="Ask the vendor about pending operations; by default if ORIGINAL_API_KEY is set."),
    ] = None,
    poll_scope: Annotated[
        str | None, typer.Option(help="The scope that the API credentials belong to; by default that of the only source.")
    ] = None,
    poll_first_after: Annotated[
        float, typer.Option(help="Seconds before an operation is polled first.", callback=check_finite, min=0.01)
    ] = 15.0,
    polls_per_second: Annotated[
        float, typer.Option(help="Polls per second at most.", callback=check_finite, min=0.01, max=100_000)
    ] = 20.0,
    api_insecure: Annotated[
        bool, typer.Option("--api-insecure", help="Allow an API on plain http outside this machine.")
    ] = False,
    trusted_proxy: TrustedProxyOption = None,
    allow: Annotated[list[str] | None, typer.Option(help="Address or CIDR range that may deliver; may be given again.")] = None,
    max_body: Annotated[int, typer.Option(help="Bytes of the longest body.", min=1)] = 262_144,
    header_timeout: Annotated[
        float, typer.Option(help="Seconds for the headers.", callback=check_finite, min=0.01)
    ] = _LIMITS.header_seconds,
    body_timeout: Annotated[float, typer.Option(help="Seconds for the body.", callback=check_finite, min=0.01)] = 20.0,
    idle_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds a connection is kept between requests. Less than the proxy in front keeps it gives its clients a 502 "
            "now and then.",
            callback=check_finite,
            min=0.01,
        ),
    ] = _LIMITS.idle_seconds,
    max_connections: Annotated[int, typer.Option(help="Connections at a time, of each worker.", min=1)] = _LIMITS.connections,
    max_per_peer: Annotated[
        int, typer.Option(help="Connections of one address at a time, of each worker.", min=1)
    ] = _LIMITS.connections_per_peer,
    drain: Annotated[float, typer.Option(help="Seconds that stopping may take.", callback=check_finite, min=0.1)] = 20.0,
    keep_days: Annotated[
        float, typer.Option(help="Days that events which are done with, and outcomes, are kept.", callback=check_finite, min=0.01)
    ] = 30.0,
    workers: Annotated[int, typer.Option(help="Processes that take deliveries, sharing the store.", min=1, max=MAX_WORKERS)] = 1,
    keep_bodies: Annotated[
        float | None,
        typer.Option(
            help="Days after which the bodies of done events are erased; by default they stay with their events.",
            callback=check_finite,
            min=0.01,
        ),
    ] = None,
    keep_dead: Annotated[
        float,
        typer.Option(
            help="Days after their receipt that dead letters are kept for a look and a retry; an event that no process serves "
            f"becomes one after {UNSERVED_DAYS} days.",
            callback=check_finite,
            min=UNSERVED_DAYS,
        ),
    ] = DEAD_DAYS,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = "text",
    verbose: Annotated[bool, typer.Option("--verbose", hidden=True, help="The same as --log-level info.")] = False,
    as_json: JsonOption = None,
) -> None:
    """Take deliveries until told to stop.

    A delivery is answered 200 once it is durable in the store. SIGTERM or SIGINT: answer what is under way and end; a second
    one: end now. SIGHUP: reload keys and certificate, all of them or none.

    With --workers this process starts others, replaces those that end, and answers on the admin port for all of them. SIGTERM
    to a worker replaces it: it answers what it has, and no connection is lost.

    For example:

      ORIGINAL_WEBHOOK_KEYS=4o3vfxtcmo7b:SECRET webhook-listener serve --host 0.0.0.0

      webhook-listener serve --source /a,scope=a,keys=a.keys --source /b,scope=b,keys=b.keys

      webhook-listener serve --workers 4 --store sqlite:////var/lib/rewards/inbox.db

      webhook-listener serve --forward-to http://127.0.0.1:9000/hooks --trusted-proxy 10.0.0.0/8
    """
    log_to_stderr(LogSettings(level=log_level or ("info" if verbose else "warning"), format=log_format))
    if poll is None:
        poll = has_credentials(os.environ)
    sources = source_specs(source, keys_file)
    settings = ListenerSettings(
        sources=sources,
        store=store,
        host=host,
        port=port,
        unix=unix_settings(unix, unix_mode, unix_group),
        tls=None if tls_cert is None else TlsSettings(certificate=tls_cert, key=tls_key, minimum=tls_min),
        admin=None
        if admin_port < 0
        else AdminSettings(host=admin_host, port=admin_port, token_file=admin_token_file, allowed_hosts=admin_allow_host or ()),
        forward=None
        if forward_to is None
        else ForwardSettings(
            url=forward_to,
            allow_insecure=forward_insecure,
            attempts=forward_attempts,
            timeout=forward_timeout,
            give_up_after=forward_for,
        ),
        poll=PollSettings(
            scope=_polled(poll_scope, sources),
            first_after=poll_first_after,
            max_per_second=polls_per_second,
            allow_insecure=api_insecure,
        )
        if poll
        else None,
        limits=ArmourLimits(
            header_seconds=header_timeout,
            idle_seconds=idle_timeout,
            connections=max_connections,
            connections_per_peer=max_per_peer,
        ),
        max_body=max_body,
        body_timeout=body_timeout,
        trusted=trusted_proxy or (),
        allowed=allow or (),
        drain_seconds=drain,
        keep_days=keep_days,
        keep_bodies_days=keep_bodies,
        keep_dead_days=keep_dead,
        workers=workers,
    )
    if tls_cert is None and (tls_key is not None or tls_min != _OLDEST_TLS):
        raise typer.BadParameter("--tls-key and --tls-min need a certificate. Give --tls-cert too, or none of them.")
    output = Output(as_json)
    with exit_on_errors(ERRORS):
        code = asyncio.run(_serve(settings, output))
    raise typer.Exit(code)


def _polled(given: str | None, sources: Sequence[SourceSpec]) -> str:
    """Return whose operations are polled; a scope without a source would be polled in vain."""
    scopes = sorted({spec.scope for spec in sources})
    scope = scopes[0] if given is None and len(scopes) == 1 else given
    if scope not in scopes:
        wrong = "it is not said whose API credentials these are" if scope is None else f"no source has the scope {scope}"
        give = f"{'one of ' if len(scopes) > 1 else ''}{', '.join(scopes)}"
        raise typer.BadParameter(f"--poll-scope: {wrong}. Give {give}, or --no-poll.")
    return scope


async def _serve(settings: ListenerSettings, output: Output) -> Exit:
    listener = Listener(settings) if settings.workers == 1 else Supervisor(settings)

    def drain() -> None:
        logger.info("draining; a second signal ends at once")
        listener.stop()

    stop = end_on_signals(drain, listener.abort)

    def hung_up() -> None:
        if HAD_TERMINAL and not has_terminal():
            stop()
        else:
            listener.reload()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hung_up)
    take_hang_ups()

    def started(where: Mapping[str, Any]) -> None:
        place = where.get("url") or where.get("unix")
        paths = ", ".join(where["paths"])
        leave_lasting_objects_alone()
        output.record({"listening": True, **where}, text=f"listening on {place} for {paths}; events go to {where['store']}")

    return await listener.run(started)
