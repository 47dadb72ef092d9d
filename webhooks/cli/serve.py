"""`webhook-listener serve`: receive deliveries until stopped."""

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
from webhooks.cli.listener import Listener
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
from webhooks.cli.process_tuning import freeze_garbage_collection
from webhooks.cli.settings import (
    FORWARD_ATTEMPTS,
    MAX_WORKERS,
    AdminSettings,
    ForwardSettings,
    ListenerSettings,
    PollSettings,
    TlsSettings,
)
from webhooks.cli.signals import end_on_signals
from webhooks.cli.sources import SourceSpec
from webhooks.cli.supervisor import Supervisor
from webhooks.early_signals import HAD_TERMINAL, has_terminal, take_hang_ups
from webhooks.ingress.limits import ServerLimits
from webhooks.store.records import DEAD_DAYS, UNSERVED_DAYS

logger = logging.getLogger("webhooks.listener")

_LIMITS = ServerLimits()
_OLDEST_TLS = "1.2"


def _number(text: str, *, minimum: float = 0.01, max: float | None = None) -> Any:  # noqa: A002 - typer's name
    return typer.Option(help=text, callback=check_finite, min=minimum, max=max)


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.", min=0, max=65_535)] = 8480,
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
        str,
        typer.Option(
            help="Address of the admin port (health and metrics); needs --admin-token-file if other machines can reach it."
        ),
    ] = "127.0.0.1",
    admin_port: Annotated[int, typer.Option(help="Admin port; 0 picks a free one, -1 disables it.", min=-1, max=65_535)] = 8481,
    admin_token_file: Annotated[
        Path | None, typer.Option(help="File with the token that the admin port requires, except for health and readiness.")
    ] = None,
    admin_allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another host name, or name:port, by which the admin port may be addressed. Repeat for more."),
    ] = None,
    forward_to: ForwardOption = None,
    forward_insecure: Annotated[bool, typer.Option("--forward-insecure", help="Allow plain http to another machine.")] = False,
    forward_attempts: Annotated[
        int | None,
        typer.Option(
            help=f"Attempts before a delivery becomes a dead letter: {FORWARD_ATTEMPTS}, or no limit if only --forward-for is "
            "given. Pauses double from 1 s up to 5 min, so that 20 attempts take about an hour.",
            min=1,
        ),
    ] = None,
    forward_for: Annotated[
        float | None,
        _number(
            "Seconds after the first attempt at which a delivery becomes a dead letter; with --forward-attempts, whichever "
            "comes first."
        ),
    ] = None,
    forward_timeout: Annotated[float, _number("Seconds to wait for the answer to one attempt.")] = 20.0,
    poll: Annotated[
        bool | None,
        typer.Option("--poll/--no-poll", help="Poll the vendor for pending operations; the default if ORIGINAL_API_KEY is set."),
    ] = None,
    poll_scope: Annotated[
        str | None, typer.Option(help="The scope of the API credentials. Default: the scope of the source, if there is only one.")
    ] = None,
    poll_first_after: Annotated[float, _number("Seconds before the first poll of an operation.")] = 15.0,
    polls_per_second: Annotated[float, _number("Maximum polls per second.", max=100_000)] = 20.0,
    api_insecure: Annotated[bool, typer.Option("--api-insecure", help="Allow plain http to an API on another machine.")] = False,
    trusted_proxy: TrustedProxyOption = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="Address or CIDR range that may deliver; default: all. Repeat for more.")
    ] = None,
    max_body: Annotated[int, typer.Option(help="Maximum size of a body in bytes.", min=1)] = 262_144,
    header_timeout: Annotated[float, _number("Seconds in which the headers of a request must arrive.")] = _LIMITS.header_seconds,
    body_timeout: Annotated[float, _number("Seconds in which the body of a request must arrive.")] = 20.0,
    idle_timeout: Annotated[
        float,
        _number(
            "Seconds that an idle connection is kept. If a proxy is in front, give more than the proxy's idle timeout, or its "
            "clients get a 502 now and then."
        ),
    ] = _LIMITS.idle_seconds,
    max_connections: Annotated[int, typer.Option(help="Maximum connections, per worker.", min=1)] = _LIMITS.connections,
    max_per_peer: Annotated[
        int, typer.Option(help="Maximum connections of one address, per worker.", min=1)
    ] = _LIMITS.connections_per_peer,
    drain: Annotated[float, _number("Seconds that a shutdown may take.", minimum=0.1)] = 20.0,
    keep_days: Annotated[float, _number("Days that finished events and outcomes are kept.")] = 30.0,
    workers: Annotated[
        int, typer.Option(help="Number of processes that receive deliveries and share the store.", min=1, max=MAX_WORKERS)
    ] = 1,
    keep_bodies: Annotated[
        float | None,
        _number("Days after which the bodies of done events are deleted; by default they are kept with their events."),
    ] = None,
    keep_dead: Annotated[
        float,
        _number(
            "Days after receipt that dead letters are kept for a retry. An event without a running handler becomes a dead "
            f"letter after {UNSERVED_DAYS} days.",
            minimum=UNSERVED_DAYS,
        ),
    ] = DEAD_DAYS,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = "text",
    verbose: Annotated[bool, typer.Option("--verbose", hidden=True, help="The same as --log-level info.")] = False,
    as_json: JsonOption = None,
) -> None:
    """Receive deliveries until stopped.

    A delivery is answered 200 once it is durable in the store. SIGTERM or SIGINT: answer deliveries in progress and exit; a
    second signal: exit now. SIGHUP: reload keys and certificate, all of them or none.

    With --workers this process starts worker processes, restarts those that end, and serves the admin port for all of them.
    SIGTERM to a worker replaces it: the old worker answers its deliveries first, and no connection is lost.

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
            scope=_poll_scope(poll_scope, sources),
            first_after=poll_first_after,
            max_per_second=polls_per_second,
            allow_insecure=api_insecure,
        )
        if poll
        else None,
        limits=ServerLimits(
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
        raise typer.BadParameter("--tls-key and --tls-min need a certificate. Give --tls-cert too, or remove them.")
    output = Output(as_json)
    with exit_on_errors(ERRORS):
        code = asyncio.run(_serve(settings, output))
    raise typer.Exit(code)


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


async def _serve(settings: ListenerSettings, output: Output) -> Exit:
    listener = Listener(settings) if settings.workers == 1 else Supervisor(settings)

    def drain() -> None:
        logger.info("draining; a second signal exits at once")
        listener.stop()

    stop = end_on_signals(drain, listener.abort)

    def hang_up() -> None:
        if HAD_TERMINAL and not has_terminal():
            stop()
        else:
            listener.reload()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hang_up)
    take_hang_ups()

    def started(where: Mapping[str, Any]) -> None:
        place = where.get("url") or where.get("unix")
        paths = ", ".join(where["paths"])
        freeze_garbage_collection()
        output.record({"listening": True, **where}, text=f"listening on {place} for {paths}; events go to {where['store']}")

    return await listener.run(started)
