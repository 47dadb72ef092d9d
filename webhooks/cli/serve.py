"""`webhook-listener serve`: receive deliveries until stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.logs import LogFormatOption, LogLevelOption, LogSettings, log_to_stderr
from rewards_core.cli.output import JsonOption, Output, exit_on_errors
from webhooks.cli.errors import ERRORS
from webhooks.cli.listener import Listener
from webhooks.cli.options import (
    DEFAULT_STORE,
    DEFAULT_UNIX_MODE,
    AdminAllowHostOption,
    AdminHostOption,
    AdminPortOption,
    AdminTokenOption,
    ApiInsecureOption,
    DrainOption,
    ForwardAttemptsOption,
    ForwardForOption,
    ForwardInsecureOption,
    ForwardOption,
    ForwardTimeoutOption,
    KeepBodiesOption,
    KeepDaysOption,
    KeepDeadOption,
    KeysOption,
    PollFirstAfterOption,
    PollOption,
    PollScopeOption,
    PollsPerSecondOption,
    SourceOption,
    StoreOption,
    TlsCertOption,
    TlsKeyOption,
    TrustedProxyOption,
    UnixGroupOption,
    UnixModeOption,
    UnixOption,
    admin_settings,
    forward_settings,
    number_option,
    poll_settings,
    source_specs,
    unix_settings,
)
from webhooks.cli.process_tuning import freeze_garbage_collection
from webhooks.cli.settings import (
    MAX_WORKERS,
    ListenerSettings,
    TlsSettings,
)
from webhooks.cli.signals import run_until_signalled
from webhooks.cli.supervisor import Supervisor
from webhooks.ingress.limits import ServerLimits
from webhooks.store.records import DEAD_DAYS

logger = logging.getLogger("webhooks.listener")

_LIMITS = ServerLimits()
_OLDEST_TLS = "1.2"


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
    admin_host: AdminHostOption = "127.0.0.1",
    admin_port: AdminPortOption = 8481,
    admin_token_file: AdminTokenOption = None,
    admin_allow_host: AdminAllowHostOption = None,
    console: Annotated[
        bool,
        typer.Option("--console", help="Show a live, read-only page on the admin port. Its link, with a token, is printed once."),
    ] = False,
    forward_to: ForwardOption = None,
    forward_insecure: ForwardInsecureOption = False,
    forward_attempts: ForwardAttemptsOption = None,
    forward_for: ForwardForOption = None,
    forward_timeout: ForwardTimeoutOption = 20.0,
    poll: PollOption = None,
    poll_scope: PollScopeOption = None,
    poll_first_after: PollFirstAfterOption = 15.0,
    polls_per_second: PollsPerSecondOption = 20.0,
    api_insecure: ApiInsecureOption = False,
    trusted_proxy: TrustedProxyOption = None,
    allow: Annotated[
        list[str] | None, typer.Option(help="Address or CIDR range that may deliver; default: all. Repeat for more.")
    ] = None,
    max_body: Annotated[int, typer.Option(help="Maximum size of a body in bytes.", min=1)] = 262_144,
    header_timeout: Annotated[
        float, number_option("Seconds in which the headers of a request must arrive.")
    ] = _LIMITS.header_seconds,
    body_timeout: Annotated[float, number_option("Seconds in which a request's body must arrive.")] = 20.0,
    idle_timeout: Annotated[
        float,
        number_option(
            "Seconds that an idle connection is kept. If a proxy is in front, give more than the proxy's idle timeout, or its "
            "clients get a 502 now and then."
        ),
    ] = _LIMITS.idle_seconds,
    max_connections: Annotated[int, typer.Option(help="Maximum connections, per worker.", min=1)] = _LIMITS.connections,
    max_per_peer: Annotated[
        int, typer.Option(help="Maximum connections of one address, per worker.", min=1)
    ] = _LIMITS.connections_per_peer,
    drain: DrainOption = 20.0,
    keep_days: KeepDaysOption = 30.0,
    workers: Annotated[
        int, typer.Option(help="Number of processes that receive deliveries and share the store.", min=1, max=MAX_WORKERS)
    ] = 1,
    keep_bodies: KeepBodiesOption = None,
    keep_dead: KeepDeadOption = DEAD_DAYS,
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

      export ORIGINAL_WEBHOOK_KEYS=4o3vfxtcmo7b:SECRET

      webhook-listener serve --host 0.0.0.0

      webhook-listener serve --source /a,scope=a,keys=a --source /b,scope=b,keys=b

      webhook-listener serve --workers 4 --store sqlite:////var/lib/inbox.db

      webhook-listener serve --console

      webhook-listener serve --forward-to http://127.0.0.1:9000/hooks

      webhook-listener serve --trusted-proxy 10.0.0.0/8
    """
    log_to_stderr(LogSettings(level=log_level or ("info" if verbose else "warning"), format=log_format))
    sources = source_specs(source, keys_file)
    settings = ListenerSettings(
        sources=sources,
        store=store,
        host=host,
        port=port,
        unix=unix_settings(unix, unix_mode, unix_group),
        tls=None if tls_cert is None else TlsSettings(certificate=tls_cert, key=tls_key, minimum=tls_min),
        admin=admin_settings(admin_host, admin_port, admin_token_file, admin_allow_host),
        forward=forward_settings(forward_to, forward_attempts, forward_for, forward_timeout, allow_insecure=forward_insecure),
        poll=poll_settings(sources, poll_scope, poll_first_after, polls_per_second, poll=poll, allow_insecure=api_insecure),
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
        console=console,
        workers=workers,
    )
    if console and settings.admin is None:
        raise typer.BadParameter("--console needs the admin port. Leave out --admin-port -1, or --console.")
    if tls_cert is None and (tls_key is not None or tls_min != _OLDEST_TLS):
        raise typer.BadParameter("--tls-key and --tls-min need a certificate. Give --tls-cert too, or remove them.")
    output = Output(as_json)
    with exit_on_errors(ERRORS):
        code = asyncio.run(_serve(settings, output))
    raise typer.Exit(code)


async def _serve(settings: ListenerSettings, output: Output) -> Exit:
    listener = Listener(settings) if settings.workers == 1 else Supervisor(settings)

    def started(where: Mapping[str, Any]) -> None:
        place = where.get("url") or where.get("unix")
        paths = ", ".join(where["paths"])
        freeze_garbage_collection()
        output.record({"listening": True, **where}, text=f"listening on {place} for {paths}; events go to {where['store']}")
        if "console" in where and not output.as_json:
            output.say(f"console: {where['console']}")

    return await run_until_signalled(listener, started)
