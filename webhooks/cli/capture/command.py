"""`webhook-listener capture`: keep the next deliveries as they arrive, and say how they read."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from original_async.settings import WEBHOOK_KEYS, WEBHOOK_PATH, app_uid_from
from original_async.signature_readings import SignatureReader
from rewards_core.cli.ending import ending
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.logs import LogFormatOption, LogLevelOption, LogSettings, log_to_stderr
from rewards_core.cli.output import JsonOption, Output, finite
from rewards_core.keys import webhook_keys
from rewards_core.operations import DEFAULT_SCOPE
from rewards_core.validation import check_id
from webhooks.cli.capture.capturing import CaptureOptions, Capturing
from webhooks.cli.capture.files import CaptureFiles
from webhooks.cli.capture.redaction import Redaction, parse_redaction
from webhooks.cli.ending import ENDS
from webhooks.cli.options import (
    DEFAULT_STORE,
    DEFAULT_UNIX_MODE,
    KeysOption,
    StoreOption,
    TlsCertOption,
    TlsKeyOption,
    TrustedProxyOption,
    UnixGroupOption,
    UnixModeOption,
    UnixOption,
    unix_of,
)
from webhooks.cli.service import Listener
from webhooks.cli.settings import ListenerSettings, TlsSettings
from webhooks.cli.sources import ReloadableSource, SourceSpec, checked_path
from webhooks.cli.stopping import ENDING, end_on_signals

logger = logging.getLogger("webhooks.listener")

_NOT_THE_UPKEEP = 1
"""Of workers, all but number 0 leave the upkeep of the store to others: how long it keeps what is for `serve` to say."""


def capture(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65_535)] = 8480,
    unix: UnixOption = None,
    unix_mode: UnixModeOption = DEFAULT_UNIX_MODE,
    unix_group: UnixGroupOption = None,
    path: Annotated[str, typer.Option(help="Where deliveries arrive.")] = WEBHOOK_PATH,
    scope: Annotated[str, typer.Option(help="The scope of their operations, as for serve.")] = DEFAULT_SCOPE,
    keys_file: KeysOption = None,
    store: StoreOption = DEFAULT_STORE,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    trusted_proxy: TrustedProxyOption = None,
    out: Annotated[Path, typer.Option(help="Folder for what is captured; made if it is not there.")] = Path("captured"),
    redact: Annotated[
        list[str] | None,
        typer.Option(
            help="Take out a member of the body, such as data.user.email, or header:NAME; * stands for any name. May be given "
            "again. Headers of credentials are always taken out."
        ),
    ] = None,
    refuse_first: Annotated[
        bool,
        typer.Option("--refuse-first", help="Keep the first attempt of each event, answer it 503, and compare it with the next."),
    ] = False,
    count: Annotated[
        int, typer.Option(help="End after so many deliveries, with --refuse-first those that came again; 0 goes on.", min=0)
    ] = 1,
    seconds: Annotated[float | None, typer.Option("--for", help="End after so many seconds.", callback=finite, min=0.01)] = None,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = "text",
    as_json: JsonOption = None,
) -> None:
    """Keep the next deliveries as they arrive, and say how they read.

    For the first hour with the vendor, before or instead of serve. What verifies is kept in the store before it is answered 200,
    as by serve; the rest is answered 401, and written down all the same. Each signature is read in every way that is known: which
    key, hex or base64, over the raw body or another form of it.

    It reads the bodies of deliveries that no configured key can have signed, so strangers can make it read: use it for the first
    contact only, and serve from then on.

    Each delivery becomes a private file, and one that ends in .sample.json: the same with made-up ids, names, addresses, amounts
    and times, to be filed with a report. `jq -j .body FILE` gives its body.

    Exit code 6 if a configured key signed a delivery in a way that is not accepted, 7 if one could not be written down, 4 if
    --for ran out before --count.

    For example:

      webhook-listener capture --host 0.0.0.0 --port 8080 --refuse-first

      webhook-listener capture --count 0 --for 3600 --redact data.user.email
    """
    log_to_stderr(LogSettings(level=log_level or "warning", form=log_format))
    if tls_cert is None and tls_key is not None:
        raise typer.BadParameter("--tls-key needs a certificate. Give --tls-cert too, or neither.")
    output = Output(as_json)
    options = CaptureOptions(refuse_first=refuse_first, wanted=count)
    with ending(ENDS):
        spec = SourceSpec(
            path=checked_path(path, "--path"),
            scope=check_id(scope, "--scope"),
            app_uid=app_uid_from(os.environ),
            keys_file=keys_file,
        )
        settings = ListenerSettings(
            sources=[spec],
            store=store,
            host=host,
            port=port,
            unix=unix_of(unix, unix_mode, unix_group),
            tls=None if tls_cert is None else TlsSettings(certificate=tls_cert, key=tls_key),
            trusted=trusted_proxy or (),
        )
        code = asyncio.run(_capture(settings, options, out, parse_redaction(redact or ()), seconds, output))
    raise typer.Exit(code)


async def _capture(
    settings: ListenerSettings, options: CaptureOptions, out: Path, redaction: Redaction, seconds: float | None, output: Output
) -> Exit:
    (spec,) = settings.sources
    reader = SignatureReader(webhook_keys(spec.keys_file, WEBHOOK_KEYS))
    files = CaptureFiles(out, redaction, reader.without_secrets)

    def enough() -> None:
        listener.stop()

    capturing = Capturing(ReloadableSource(spec), reader, files, output, options, enough)
    listener = Listener(settings, number=_NOT_THE_UPKEEP, armoured=capturing.server)
    ran_out = False
    keeps_on = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # nohup stays what it is
    end_on_signals(listener.stop, listener.abort, ENDING if keeps_on else (*ENDING, signal.SIGHUP))

    def run_out() -> None:
        nonlocal ran_out
        ran_out = True
        listener.stop()

    def started(where: Mapping[str, Any]) -> None:
        if seconds is not None:
            asyncio.get_running_loop().call_later(seconds, run_out)
        place = where.get("url") or where.get("unix")
        words = {"listening": True, "store": settings.store, "path": spec.path, "folder": str(out)}
        words |= {name: where[name] for name in ("url", "unix") if name in where}
        output.record(words, text=f"listening on {place} for {spec.path}; events go to {settings.store}, files to {out}")

    code = await listener.run(started)
    output.note(capturing.summary())
    if code is Exit.OK and capturing.misread:
        return Exit.REFUSED
    if code is Exit.OK and capturing.unwritten:
        return Exit.UNAVAILABLE
    if code is Exit.OK and ran_out and options.wanted and not capturing.has_enough:
        return Exit.NOT_YET
    return code
