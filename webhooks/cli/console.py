"""`webhook-listener console`: a live page about a store, beside the listeners and applications that use it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Annotated, Any, NoReturn

import typer

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, check_not_empty
from webhooks.cli.admin import open_admin
from webhooks.cli.errors import CannotStart, run_command
from webhooks.cli.inbox import store_families
from webhooks.cli.metric_families import as_text
from webhooks.cli.options import DEFAULT_STORE, StoreOption
from webhooks.cli.settings import AdminSettings
from webhooks.cli.signals import run_until_signalled
from webhooks.cli.stores import open_existing
from webhooks.console.console import Console
from webhooks.console.store_watch import StoreWatch
from webhooks.refusals import Refusals
from webhooks.store.urls import StoreUrl

logger = logging.getLogger("webhooks.console")


def console(
    store: StoreOption = DEFAULT_STORE,
    host: Annotated[
        str,
        typer.Option(
            "--console-host", help="Address to serve the page on; the page always requires its token.", callback=check_not_empty
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--console-port", help="Port of the page; 0 picks a free one.", min=0, max=65_535)] = 8482,
    admin_allow_host: Annotated[
        list[str] | None,
        typer.Option(help="Another host name, or name:port, by which the page may be addressed. Repeat for more."),
    ] = None,
    as_json: JsonOption = None,
) -> None:
    """Show a store in a browser, live: events as they arrive, pending operations, dead letters. Stop with ctrl-c.

    The page is read-only; it shows the command for each action. Open the link that is printed: it holds a token, new at each
    start. Listeners and applications keep running. Refused and repeated deliveries are seen only by the listener itself:
    `webhook-listener serve --console`.

    Example: webhook-listener console --store sqlite:///inbox.db
    """
    output = Output(as_json)
    settings = AdminSettings(host=host, port=port, allowed_hosts=admin_allow_host or ())

    async def work() -> None:
        def started(where: Mapping[str, Any]) -> None:
            output.record({"listening": True, **where}, text=f"watching {where['store']}")
            if not output.as_json:
                output.say(f"console: {where['console']}")

        code = await run_until_signalled(_StoreConsole(store, settings), started)
        raise typer.Exit(code)

    run_command(work, interrupt_code=Exit.OK)


class _Watch(StoreWatch):
    """A store with its metrics, for the admin port."""

    async def metrics(self) -> bytes | None:
        """Return the metrics of the store; None if the extra `metrics` is not installed."""
        families = await store_families(self.store)
        return None if families is None else as_text([families])


class _StoreConsole:
    """The console of a store, until it is stopped; a `Service`."""

    def __init__(self, url: StoreUrl, settings: AdminSettings) -> None:
        self._url = url
        self._settings = settings
        self._stop = asyncio.Event()
        self._refusals = Refusals(logger)

    async def run(self, started: Callable[[Mapping[str, Any]], None]) -> Exit:
        async with open_existing(self._url) as store, AsyncExitStack() as stack:
            watch = _Watch(store, self._refusals)
            page = Console(watch, store, self._url)
            try:
                where = await open_admin(stack, watch, self._settings, page.token, self._refusals, page)
            except OSError as problem:
                raise CannotStart(f"could not start: {problem}", Exit.UNAVAILABLE) from None
            started({"store": str(self._url), **where})
            await self._stop.wait()
        return Exit.OK

    def stop(self) -> None:
        self._stop.set()

    def abort(self) -> NoReturn:
        os._exit(Exit.OK)

    async def reload(self) -> None:
        """Do nothing: there are no keys and no certificate."""
