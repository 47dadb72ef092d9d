"""`webhook-listener capture`: record the next deliveries and analyze their signatures."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from original_async.settings import WEBHOOK_KEYS, WEBHOOK_PATH, app_uid_from
from original_async.signature_readings import SignatureReader
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.logs import LogFormatOption, LogLevelOption, LogSettings, log_to_stderr
from rewards_core.cli.output import JsonOption, Output, check_finite, exit_on_errors
from rewards_core.keys import webhook_keys
from rewards_core.operations import DEFAULT_SCOPE
from rewards_core.validation import check_id
from webhooks.cli.capture.files import CaptureFiles
from webhooks.cli.capture.recorder import Recorder
from webhooks.cli.capture.redaction import parse_redaction
from webhooks.cli.errors import ERRORS
from webhooks.cli.listener import Listener
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
    unix_settings,
)
from webhooks.cli.settings import ListenerSettings, TlsSettings
from webhooks.cli.signals import ENDING, end_on_signals
from webhooks.cli.sources import ReloadableSource, SourceSpec, checked_path

_WITHOUT_UPKEEP = 1
"""Only worker 0 removes old events from the store; a capture leaves that to `serve`, whose options say how long they are kept."""


def capture(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.", min=0, max=65_535)] = 8480,
    unix: UnixOption = None,
    unix_mode: UnixModeOption = DEFAULT_UNIX_MODE,
    unix_group: UnixGroupOption = None,
    path: Annotated[str, typer.Option(help="Path that receives deliveries.")] = WEBHOOK_PATH,
    scope: Annotated[str, typer.Option(help="Scope of the operations, as for serve.")] = DEFAULT_SCOPE,
    keys_file: KeysOption = None,
    store: StoreOption = DEFAULT_STORE,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    trusted_proxy: TrustedProxyOption = None,
    out: Annotated[Path, typer.Option(help="Folder for the files; created if it does not exist.")] = Path("captured"),
    redact: Annotated[
        list[str] | None,
        typer.Option(
            help="Redact a member of the body, such as data.user.email or data.*.email, or a header, as header:NAME. Repeat for "
            "more. Credentials in headers are always redacted."
        ),
    ] = None,
    refuse_first: Annotated[
        bool,
        typer.Option(
            "--refuse-first", help="Store the first attempt of each event but answer it 503, to compare it with the next attempt."
        ),
    ] = False,
    count: Annotated[
        int,
        typer.Option(
            help="Exit after this many deliveries; 0 for no limit. With --refuse-first only repeated deliveries count.", min=0
        ),
    ] = 1,
    seconds: Annotated[
        float | None, typer.Option("--for", help="Exit after this many seconds.", callback=check_finite, min=0.01)
    ] = None,
    log_level: LogLevelOption = None,
    log_format: LogFormatOption = "text",
    as_json: JsonOption = None,
) -> None:
    """Record the next deliveries and analyze their signatures.

    Use it for the first contact with the vendor, before or instead of serve. As with serve, a delivery that verifies is stored
    before it is answered 200, and any other is answered 401; all are written to files. Each signature is read in every known way:
    with each key, as hex or base64, over the raw body or another form of the body.

    Do not leave it running: it reads the whole body of every request, even if no configured key can have signed it. Use serve
    after the first contact.

    Each delivery is written to a private file and to a sample that is safe to share, whose name ends in .sample.json: its ids,
    names, addresses, amounts and times are made up. Attach samples to bug reports. `jq -j .body FILE` prints the body.

    Exit code 4 if the time of --for ended before --count was reached, 6 if a configured key signed a delivery in a way that is
    not accepted, 7 if a file could not be written.

    For example:

      webhook-listener capture --host 0.0.0.0 --port 8080 --refuse-first

      webhook-listener capture --count 0 --for 3600 --redact data.user.email
    """
    log_to_stderr(LogSettings(level=log_level or "warning", format=log_format))
    if tls_cert is None and tls_key is not None:
        raise typer.BadParameter("--tls-key needs a certificate. Give --tls-cert too, or neither.")
    output = Output(as_json)

    async def work() -> Exit:
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
            unix=unix_settings(unix, unix_mode, unix_group),
            tls=None if tls_cert is None else TlsSettings(certificate=tls_cert, key=tls_key),
            trusted=trusted_proxy or (),
        )
        reader = SignatureReader(webhook_keys(spec.keys_file, WEBHOOK_KEYS))
        files = CaptureFiles(out, parse_redaction(redact or ()), reader.without_secrets)
        recorder = Recorder(
            source=ReloadableSource(spec),
            reader=reader,
            files=files,
            output=output,
            refuse_first=refuse_first,
            count=count,
            on_enough=lambda: listener.stop(),  # noqa: PLW0108 - the listener is created below
        )
        listener = Listener(settings, number=_WITHOUT_UPKEEP, make_server=recorder.server)
        keeps_on = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # started by nohup
        end_on_signals(listener.stop, listener.abort, ENDING if keeps_on else (*ENDING, signal.SIGHUP))
        timed_out = False

        def time_out() -> None:
            nonlocal timed_out
            timed_out = True
            listener.stop()

        def started(where: Mapping[str, Any]) -> None:
            if seconds is not None:
                asyncio.get_running_loop().call_later(seconds, time_out)
            place = where.get("url") or where.get("unix")
            record = {"listening": True, "store": store, "path": spec.path, "folder": str(out)}
            record |= {name: where[name] for name in ("url", "unix") if name in where}
            output.record(record, text=f"listening on {place} for {spec.path}; events go to {store}, files to {out}")

        code = await listener.run(started)
        output.note(recorder.summary())
        if code is Exit.OK and recorder.misread:
            return Exit.REFUSED
        if code is Exit.OK and recorder.unwritten:
            return Exit.UNAVAILABLE
        if code is Exit.OK and timed_out and count and not recorder.has_enough:
            return Exit.NOT_YET
        return code

    with exit_on_errors(ERRORS):
        code = asyncio.run(work())
    raise typer.Exit(code)
