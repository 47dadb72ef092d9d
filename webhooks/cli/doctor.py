"""`webhook-listener doctor`: check everything that a listener needs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer
from attrs import asdict

from original_async.settings import base_url_from, has_credentials
from rewards_core.cli.columns import Column
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, check_finite, fail
from webhooks.cli.checks import (
    Finding,
    check_clock,
    check_integrity,
    check_keys,
    check_permissions,
    check_port,
    check_queue,
    check_reachability,
    check_space,
    check_sqlite,
    check_store,
    existing_secret_files,
)
from webhooks.cli.errors import run_command
from webhooks.cli.options import (
    DEFAULT_STORE,
    EndpointInsecureOption,
    EndpointOption,
    KeysOption,
    RegionOption,
    SourceOption,
    StoreOption,
    source_specs,
)
from webhooks.cli.settings import ConsumerSettings
from webhooks.cli.socket_access import check_unix
from webhooks.store.urls import StoreUrl

_COLUMNS = (Column(heading="check"), Column(heading="ok"), Column(heading="found"))


def doctor(
    source: SourceOption = None,
    keys_file: KeysOption = None,
    store: StoreOption = DEFAULT_STORE,
    host: Annotated[str, typer.Option(help="The listener's address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The listener's port.", min=1, max=65_535)] = 8480,
    unix: Annotated[Path | None, typer.Option(help="The listener's unix socket, instead of its port.")] = None,
    proxy_user: Annotated[
        str | None, typer.Option(help="The user of the proxy that connects to the unix socket, such as www-data.")
    ] = None,
    admin: Annotated[str, typer.Option(help="URL of the listener's admin port.")] = "http://127.0.0.1:8481",
    public_url: Annotated[
        str | None,
        typer.Option(help="The URL that the vendor sends to. The check sends an unsigned delivery there, which must be refused."),
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="The listener's TLS key, or the certificate file that holds it.")] = None,
    admin_token_file: Annotated[Path | None, typer.Option(help="The file with the listener's admin token.")] = None,
    queue: Annotated[
        str | None, typer.Option(metavar="QUEUE", help="The queue of a consumer: sqs://NAME?region=REGION, or its https URL.")
    ] = None,
    region: RegionOption = None,
    endpoint: EndpointOption = None,
    endpoint_insecure: EndpointInsecureOption = False,
    api: Annotated[
        bool | None, typer.Option("--api/--no-api", help="Check the vendor's API. Default: if ORIGINAL_API_KEY is set.")
    ] = None,
    keep_days: Annotated[
        float, typer.Option(help="The listener's --keep-days, to forecast disk space.", callback=check_finite, min=0.01)
    ] = 30.0,
    as_json: JsonOption = None,
) -> None:
    """Check keys, clock, store, disk, port, permissions and reachability. Exit code 6 if a check fails.

    It reads every page of a store's file, for a minute at most, while listeners keep running, and forecasts when the disk will be
    full. For PostgreSQL, it checks version, rights, durability, standbys, notifications, connections and clock; it creates
    nothing.

    Example: webhook-listener doctor --public-url https://example.com/hooks
    """
    if proxy_user is not None and unix is None:
        raise typer.BadParameter("--proxy-user needs a unix socket. Give --unix PATH too.")

    async def work() -> None:
        consumed = None
        if queue is not None:
            consumed = ConsumerSettings(url=queue, region=region, endpoint=endpoint, allow_insecure=endpoint_insecure)
            consumed.check("--queue")
        specs = source_specs(source, keys_file)
        secrets = [*(spec.keys_file for spec in specs), tls_key, admin_token_file]
        url = base_url_from(os.environ, allow_insecure=True) if (has_credentials(os.environ) if api is None else api) else None
        findings = [
            check_keys(specs),
            check_permissions(existing_secret_files(secrets, store.file)),
            *await _check_store(store, keep_days),
            *await asyncio.gather(
                check_port(host, port, admin) if unix is None else check_unix(unix, proxy_user),
                *([] if consumed is None else [check_queue(consumed)]),
                check_clock(url),
                check_reachability(url, public_url),
            ),
        ]
        output = Output(as_json)
        if output.as_json:
            for one in findings:
                output.record(asdict(one))
        else:
            words = ["NO" if not one.ok else "yes, but" if one.advice else "yes" for one in findings]
            rows = [([one.check, ok, one.found], one.advice) for one, ok in zip(findings, words, strict=True)]
            output.listing(_COLUMNS, rows)
        failed = [one.check for one in findings if not one.ok]
        if failed:
            fail(f"Failed checks: {', '.join(failed)}.", Exit.REFUSED)

    run_command(work)


async def _check_store(url: StoreUrl, keep_days: float) -> list[Finding]:
    if url.database is not None:
        from webhooks.cli.postgres_checks import check_postgres  # noqa: PLC0415 - needs an extra

        return [*await check_postgres(url, url.database)]
    space, integrity = await asyncio.gather(check_space(url.file, keep_days), check_integrity(url.file))
    # the store is closed last: its log files would stay behind if a reader outlived it
    return [check_sqlite(), space, integrity, await check_store(url.file)]
