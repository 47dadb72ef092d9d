"""`webhook-listener trigger`: send sample events, signed as the vendor signs."""

from __future__ import annotations

import asyncio
import os
import secrets
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

import typer

from original_async import OriginalWebhooks
from original_async.settings import WEBHOOK_KEYS, WEBHOOK_PATH, app_uid_from
from original_async.signature import SIGNATURE_HEADER
from rewards_core.cli.output import JsonOption, Output, check_finite
from rewards_core.errors import UnexpectedResponse
from rewards_core.json import dumps, loads
from rewards_core.keys import webhook_keys
from rewards_core.validation import shown
from webhooks.cli.errors import run_command
from webhooks.cli.options import CaOption, KeysOption
from webhooks.cli.sending import sender

_URL = f"http://127.0.0.1:8480{WEBHOOK_PATH}"
_DIGITS = "0123456789abcdef"
SAMPLE_APP = {"uid": "UB2DG8MW5KBQ", "name": "App name567", "region": "EU", "environment": "Development"}

_RESOURCES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "reward.allocated": ("allocation", {"to_user_uid": "754566475542", "nonce": "sample_nonce"}),
    "reward.claimed": ("claim", {"from_user_uid": "754566475542", "to_address": "0x4881ab2f73c48a54b907a8b697b270f490768e6d"}),
}


_SHOWN = {
    "name": "Dave Starbelly",
    "image": "https://storage.googleapis.com/opensea-prod.appspot.com/puffs/3.png",
    "original_id": "1ca4a4b0-0f2c-4b0e-8a5a-5d6ae2a0b7f6",
    "org_image_url": "https://storage.googleapis.com/opensea-prod.appspot.com/puffs/3.png",
    "attributes": [{"trait_type": "Base", "value": "Starfish"}],
}
_OTHERS: Mapping[str, Mapping[str, Any]] = {
    "asset": {"name": "Dave Starbelly", "metadata": _SHOWN},
    "collection": {
        "name": "Test Collection",
        "type": "ERC721",
        "symbol": "SYM",
        "description": "",
        "contract_address": "0x124a6755ee787153bb6228463d5dc3a02890a7db",
    },
}
"""What the vendor's documented samples show of resources that no event settles."""


class Shape(StrEnum):
    """How much of the resource a sample holds: all, its uid only, or nothing."""

    FULL = "full"
    UID = "uid"
    OPAQUE = "opaque"


def trigger(
    name: Annotated[str, typer.Argument(help="The event's name.")] = "reward.allocated",
    to: Annotated[str, typer.Option(help="The URL to send the event to.")] = _URL,
    cacert: CaOption = None,
    keys_file: KeysOption = None,
    uid: Annotated[str | None, typer.Option(help="The operation's uid. Default: a random uid.")] = None,
    status: Annotated[str, typer.Option(help="The operation's status.")] = "done",
    amount: Annotated[str, typer.Option(help="The operation's amount.")] = "1.23",
    body: Annotated[
        Shape, typer.Option(help="How much of the operation the body holds: full, only its uid, or (opaque) nothing.")
    ] = Shape.FULL,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Set a value in the body, such as data.user.uid=7. Repeat for more."),
    ] = None,
    bad_signature: Annotated[bool, typer.Option("--bad-signature", help="Send a wrong signature.")] = False,
    duplicate: Annotated[int, typer.Option(help="Send the event this many more times.", min=0)] = 0,
    delay: Annotated[float, typer.Option(help="Seconds to wait before each request.", callback=check_finite, min=0)] = 0.0,
    as_json: JsonOption = None,
) -> None:
    """Send a sample event, signed as the vendor signs its events.

    For example:

      webhook-listener trigger reward.allocated --uid 324167489835 --body uid

      webhook-listener trigger --bad-signature || echo "refused, as expected"
    """

    async def work() -> None:
        app_uid = app_uid_from(os.environ)
        source = OriginalWebhooks(webhook_keys(keys_file, WEBHOOK_KEYS))
        content = sample_body(
            name,
            shape=body,
            uid=uid or "".join(str(secrets.randbelow(10)) for _ in range(12)),
            status=status,
            amount=amount,
            app_uid=app_uid,
            overrides=[parse_override(text) for text in overrides or ()],
        )
        found = _value(content, "data", _resource_of(name)[0], "uid")
        told = "" if found is None else f" (uid {found})"
        raw = dumps(content)
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
                    **_app_header(content),
                    "x-webhook-correlation-id": correlation_id,
                    "x-webhook-attempt": str(attempt),
                }
                answer = await target.send(raw, headers)
                record: dict[str, Any] = {"sent": name, "attempt": attempt, "status": answer, "correlation_id": correlation_id}
                record |= {"uid": None if found is None else str(found)}
                output.record(record, text=f"{name}, attempt {attempt}: {answer}{told}")
        target.check_answers()

    run_command(work)


def _app_header(content: dict[str, Any]) -> dict[str, str]:
    """Return the header with the app's uid, if the body has one that fits into a header."""
    value = _value(content, "data", "app", "uid")
    return {"x-app-uid": value} if isinstance(value, str) and value.isascii() and value.isprintable() else {}


def _value(content: Any, *steps: str) -> Any:
    for step in steps:
        content = content.get(step) if isinstance(content, dict) else None
    return content


def sample_body(
    name: str, *, shape: Shape, uid: str, status: str, amount: str, app_uid: str | None, overrides: Sequence[tuple[str, Any]]
) -> dict[str, Any]:
    """Return the body of a sample event, with values put at dotted paths; without an app uid, that of the vendor's documentation.

    Raises:
        ValueError: a path leads through a value that is not an object.
    """
    now = datetime.now(UTC).isoformat()
    data: dict[str, Any] = {"app": {**SAMPLE_APP, **({} if app_uid is None else {"uid": app_uid})}}
    key, more = _resource_of(name)
    if shape is Shape.UID:
        data[key] = {"uid": uid}
    elif shape is Shape.FULL and key in _OTHERS:
        data[key] = {"uid": uid, **_OTHERS[key]}
    elif shape is Shape.FULL:
        data[key] = {
            "uid": uid,
            "status": status,
            "reward_uid": "151854912345",
            **more,
            "amount": amount,
            "created_at": "2023-08-10T14:07:14.494142Z",
        }
    body: dict[str, Any] = {"data": data, "event": name, "event_time": now, "sent_at": now}
    for path, value in overrides:
        _put(body, path, value)
    return body


def _resource_of(name: str) -> tuple[str, Mapping[str, Any]]:
    return _RESOURCES.get(name, (name.partition(".")[0] or "resource", {}))


def parse_override(text: str) -> tuple[str, Any]:
    """Parse `PATH=VALUE`, the value as JSON or else as text.

    Raises:
        ValueError: there is no `=`, or no path before it.
    """
    path, equals, value = text.partition("=")
    if not equals or not path or "" in path.split("."):
        raise ValueError(f"--set: give PATH=VALUE such as data.allocation.nonce=n1, not {shown(text)}.")
    try:
        return path, loads(value.encode("utf-8", "surrogatepass"))
    except UnexpectedResponse:
        return path, value


def _put(body: dict[str, Any], path: str, value: Any) -> None:
    *steps, last = path.split(".")
    place = body
    for step in steps:
        inner = place.setdefault(step, {})
        if not isinstance(inner, dict):
            raise ValueError(  # noqa: TRY004 - the path is wrong, not a type
                f"--set: {shown(path)} leads through {step!a}, which is not an object in this event. Give another path."
            )
        place = inner
    place[last] = value
