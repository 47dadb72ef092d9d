"""`webhook-listener trigger`: sign sample events and send them."""

from __future__ import annotations

import asyncio
import os
import secrets
import uuid
from typing import Annotated, Any

import typer

from original_async import OriginalWebhooks
from original_async.settings import WEBHOOK_KEYS, WEBHOOK_PATH, app_uid_from
from original_async.signature import SIGNATURE_HEADER
from rewards_core.cli.output import JsonOption, Output, finite
from rewards_core.json import dumps
from rewards_core.keys import webhook_keys
from webhooks.cli.ending import run
from webhooks.cli.options import CaOption, KeysOption
from webhooks.cli.samples import Shape, parse_override, sample_body
from webhooks.cli.sending import sender

_URL = f"http://127.0.0.1:8480{WEBHOOK_PATH}"
_DIGITS = "0123456789abcdef"


def trigger(
    name: Annotated[str, typer.Argument(help="The event's name.")] = "reward.allocated",
    to: Annotated[str, typer.Option(help="Where to send it.")] = _URL,
    cacert: CaOption = None,
    keys_file: KeysOption = None,
    uid: Annotated[str | None, typer.Option(help="The operation's uid; by default a new one.")] = None,
    status: Annotated[str, typer.Option(help="The operation's status.")] = "done",
    amount: Annotated[str, typer.Option(help="The operation's amount.")] = "1.23",
    body: Annotated[Shape, typer.Option(help="How much the event says.")] = Shape.FULL,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="PATH=VALUE to put into the body; may be given again.")
    ] = None,
    bad_signature: Annotated[bool, typer.Option("--bad-signature", help="Sign it wrongly.")] = False,
    duplicate: Annotated[int, typer.Option(help="Send it so many times more.", min=0)] = 0,
    delay: Annotated[float, typer.Option(help="Seconds to wait before each sending.", callback=finite, min=0)] = 0.0,
    as_json: JsonOption = None,
) -> None:
    """Sign a sample event as the vendor does and send it.

    For example:

      webhook-listener trigger reward.allocated --uid 324167489835 --body uid

      webhook-listener trigger --bad-signature || echo refused, as it should be
    """

    async def work() -> None:
        app_uid = app_uid_from(os.environ)
        source = OriginalWebhooks(webhook_keys(keys_file, WEBHOOK_KEYS))
        words = sample_body(
            name,
            shape=body,
            uid=uid or "".join(str(secrets.randbelow(10)) for _ in range(12)),
            status=status,
            amount=amount,
            app_uid=app_uid,
            overrides=[parse_override(text) for text in overrides or ()],
        )
        raw = dumps(words)
        signature = source.sign(raw)
        if bad_signature:
            signature = signature[:-1] + _DIGITS[_DIGITS.index(signature[-1]) - 1]
        output = Output(as_json)
        correlation_id = str(uuid.uuid4())
        async with sender(to, cacert) as target:
            for attempt in range(1, duplicate + 2):
                await asyncio.sleep(delay)
                headers = {
                    "Content-Type": "application/json",
                    SIGNATURE_HEADER: signature,
                    **_app_header(words),
                    "x-webhook-correlation-id": correlation_id,
                    "x-webhook-attempt": str(attempt),
                }
                answered = await target.send(raw, headers)
                record: dict[str, Any] = {"sent": name, "attempt": attempt, "status": answered, "correlation_id": correlation_id}
                output.record(record, text=f"{name}, attempt {attempt}: {answered}")
        target.judge()

    run(work)


def _app_header(words: dict[str, Any]) -> dict[str, str]:
    """Return the header that names the app, where the body names one that a header can hold."""
    value: Any = words
    for step in ("data", "app", "uid"):
        value = value.get(step) if isinstance(value, dict) else None
    return {"x-app-uid": value} if isinstance(value, str) and value.isascii() and value.isprintable() else {}
