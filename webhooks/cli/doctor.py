"""`webhook-listener doctor`: look at everything a listener needs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from original_async.settings import base_url_from, has_credentials
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail, finite
from webhooks.cli.checks import (
    check_clock,
    check_integrity,
    check_keys,
    check_permissions,
    check_port,
    check_reachability,
    check_space,
    check_sqlite,
    check_store,
    run_checks,
    secret_files,
)
from webhooks.cli.ending import run
from webhooks.cli.options import DEFAULT_STORE, KeysOption, SourceOption, StoreOption, sources_of
from webhooks.cli.socket_access import check_unix
from webhooks.store import store_file


def doctor(
    source: SourceOption = None,
    keys_file: KeysOption = None,
    store: StoreOption = DEFAULT_STORE,
    host: Annotated[str, typer.Option(help="Address the listener listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port the listener listens on.", min=1, max=65_535)] = 8480,
    unix: Annotated[Path | None, typer.Option(help="The listener's unix socket, in place of its port.")] = None,
    proxy_user: Annotated[
        str | None, typer.Option(help="The user as which the proxy runs that opens the unix socket, such as www-data.")
    ] = None,
    admin: Annotated[str, typer.Option(help="Where the listener serves its health.")] = "http://127.0.0.1:8481",
    public_url: Annotated[
        str | None, typer.Option(help="The URL the vendor sends to; an unsigned delivery is sent there.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The listener's TLS key, or the certificate that holds it.")] = None,
    admin_token_file: Annotated[Path | None, typer.Option(help="The listener's file of the admin token.")] = None,
    api: Annotated[
        bool | None, typer.Option("--api/--no-api", help="Look at the vendor's API; by default if ORIGINAL_API_KEY is set.")
    ] = None,
    keep_days: Annotated[
        float, typer.Option(help="Days that the listener keeps events, for the forecast of space.", callback=finite, min=0.01)
    ] = 30.0,
    as_json: JsonOption = None,
) -> None:
    """Look at keys, clock, store, disk, SQLite, port, permissions and reachability; exit code 6 if something is wrong.

    Reads every page of the store, for a minute at most, and says when its disk will be full. Listeners go on meanwhile.

    Webhooks of several machines: a waiter on another machine than the store's learns of outcomes by polling alone.

    Example: webhook-listener doctor --public-url https://example.com/webhooks/original
    """
    if proxy_user is not None and unix is None:
        raise typer.BadParameter("--proxy-user is about a unix socket. Give --unix PATH too.")

    async def work() -> None:
        specs = sources_of(source, keys_file)
        path = store_file(store, "--store")
        url = base_url_from(os.environ, allow_insecure=True) if (has_credentials(os.environ) if api is None else api) else None
        findings = [
            check_keys(specs),
            check_permissions(secret_files([*(spec.keys_file for spec in specs), tls_key, admin_token_file], path)),
            check_sqlite(),
            *await run_checks([check_space(path, keep_days), check_integrity(path)]),
            *await run_checks(  # the store is closed last, so that nothing is left beside it
                [
                    check_store(path),
                    check_port(host, port, admin) if unix is None else check_unix(unix, proxy_user),
                    check_clock(url),
                    check_reachability(url, public_url),
                ]
            ),
        ]
        output = Output(as_json)
        rows = [{"check": one.check, "ok": one.ok, "found": one.found, "advice": one.advice} for one in findings]
        if output.as_json:
            output.table("", (), rows)
        else:
            shown = [{**row, "ok": "NO" if not row["ok"] else "soon" if row["advice"] else "yes"} for row in rows]
            output.table("what a listener needs", ("check", "ok", "found", "advice"), shown)
        wrong = [one.check for one in findings if not one.ok]
        if wrong:
            fail(f"something is wrong with: {', '.join(wrong)}", Exit.REFUSED)

    run(work)
