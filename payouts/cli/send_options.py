"""The options of sending rows and of waiting for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from attrs import frozen

from original_async.settings import WEBHOOK_KEYS, WEBHOOK_PATH
from payouts.cli.connections import Listening, listener_store
from payouts.cli.options import per_second
from payouts.runner import RunOptions
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.logs import LogFormatOption, LogLevel, LogSettings, log_to_stderr
from rewards_core.cli.output import check_finite, exit_on_value_error, fail, keys_option, option_parser
from webhooks.store import StoreUrl


@frozen(kw_only=True)
class SendOptions:
    """How rows are sent, and how long they are waited for."""

    concurrency: Annotated[int, typer.Option(help="Maximum requests at once.", min=1, max=1000)] = 20
    rate: Annotated[
        float,
        typer.Option(help="Maximum rows sent per second; 0 for no limit.", parser=per_second, metavar="N/s", show_default="20/s"),
    ] = 20.0
    max_pending: Annotated[int, typer.Option(help="Maximum rows accepted but not settled.", min=1)] = 20_000
    limit: Annotated[int | None, typer.Option(help="Maximum rows sent by this run.", min=0)] = None
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for accepted rows; the next run does.")] = False
    timeout: Annotated[float, typer.Option(help="Seconds to wait for each accepted row.", callback=check_finite, min=0)] = 900.0
    lookup_timeout: Annotated[
        float,
        typer.Option(
            help="Seconds to keep looking up a row that got no answer, before it is left unknown.", callback=check_finite, min=0
        ),
    ] = 60.0
    outage_timeout: Annotated[
        float, typer.Option(help="Seconds to retry while the vendor cannot be reached.", callback=check_finite, min=0)
    ] = 120.0
    grace: Annotated[
        float, typer.Option(help="Seconds to wait for accepted rows after an interrupt.", callback=check_finite, min=0)
    ] = 30.0
    max_refused: Annotated[int, typer.Option(help="Stop after this many consecutive refusals; 0 for no limit.", min=0)] = 100

    def run_options(self) -> RunOptions:
        """Return the options of a run."""
        return RunOptions(
            concurrency=self.concurrency,
            rate=self.rate or None,
            max_pending=self.max_pending,
            wait=not self.no_wait,
            timeout=self.timeout,
            lookup_timeout=self.lookup_timeout,
            limit=self.limit,
            outage_timeout=self.outage_timeout,
            grace=self.grace,
            max_refused=self.max_refused or None,
        )


@frozen(kw_only=True)
class ListenOptions:
    """How a command learns that accepted rows have settled."""

    webhook_port: Annotated[
        int | None, typer.Option(help="Receive webhooks on this port; keys from ORIGINAL_WEBHOOK_KEYS.", min=0, max=65_535)
    ] = None
    webhook_host: Annotated[str, typer.Option(help="Address to listen on with --webhook-port.")] = "127.0.0.1"
    webhook_path: Annotated[str, typer.Option(help="Path that webhooks are sent to.")] = WEBHOOK_PATH
    keys_file: Annotated[Path | None, keys_option(WEBHOOK_KEYS)] = None
    store: Annotated[
        StoreUrl | None,
        typer.Option(
            help="Store of a running webhook-listener, instead of a port: FILE, or its URL.",
            metavar="STORE",
            parser=option_parser(listener_store, "--store"),
        ),
    ] = None
    poll_after: Annotated[
        float, typer.Option(help="Seconds before the first poll of a row.", callback=check_finite, min=0.01)
    ] = 15.0
    polls_per_second: Annotated[
        float, typer.Option(help="Maximum polls per second.", callback=check_finite, min=0.01, max=100_000)
    ] = 20.0
    repeat_is_safe: Annotated[
        bool, typer.Option("--repeat-is-safe", help="Declare that EnKash pays a repeated request id only once.")
    ] = False

    def listening(self, vendor: str) -> Listening:
        """Return where webhooks arrive; end the command if the options contradict each other or the vendor."""
        if vendor == "enkash" and (self.store, self.webhook_port) != (None, None):
            fail("--store and --webhook-port are for Original; EnKash sends no webhooks. Nothing was sent.", Exit.USAGE)
        if vendor == "original" and self.repeat_is_safe:
            fail("--repeat-is-safe is for EnKash; Original's nonce makes every repeat safe. Nothing was sent.", Exit.USAGE)
        if vendor != "enkash" and self.repeat_is_safe:
            fail("--repeat-is-safe is for EnKash; an asset is never minted again under one key. Nothing was sent.", Exit.USAGE)
        with exit_on_value_error():
            return Listening(
                host=self.webhook_host,
                port=self.webhook_port,
                path=self.webhook_path,
                keys_file=self.keys_file,
                store=self.store,
                poll_after=self.poll_after,
                polls_per_second=self.polls_per_second,
            )


@frozen(kw_only=True)
class LogOptions:
    """What is logged."""

    log_level: Annotated[
        LogLevel | None,
        typer.Option(
            help="Log at this level and above, with timestamps; info logs every delivery.",
            show_default="warning; in text, without those about single calls",
        ),
    ] = None
    log_format: LogFormatOption = "text"

    def begin(self) -> None:
        """Log to standard error if that was asked for."""
        if self.log_level is not None or self.log_format == "json":
            log_to_stderr(LogSettings(level=self.log_level or "warning", format=self.log_format))
