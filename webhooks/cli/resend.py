"""`webhook-listener events resend`: send kept events to a URL, as the vendor sent them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from original_async import OriginalWebhooks
from original_async.settings import WEBHOOK_KEYS
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import Output, fail
from rewards_core.keys import webhook_keys
from rewards_core.validation import check_base_url
from webhooks.cli.requeue import ERASED, NO_EVENT
from webhooks.cli.sending import delivery_headers, sender
from webhooks.cli.stores import opened
from webhooks.store.outcomes import CONFLICT_EVENT

if TYPE_CHECKING:
    from webhooks.store.records import StoredEvent

_MADE_HERE = "it was made here of two outcomes that differ, and no delivery brought it"
_UNSIGNED = "its signature was not kept; give keys with --keys-file to sign it"


async def resend(
    store: str,
    output: Output,
    event_ids: Sequence[int],
    *,
    to: str,
    cacert: Path | None,
    keys_file: Path | None,
    allow_insecure: bool,
) -> None:
    """Send events to a URL, and end the command by the worst answer; where one cannot be sent, none is.

    Args:
        store: The store's URL.
        output: Where to.
        event_ids: The events.
        to: Where they are sent; plain http only to this machine, unless `allow_insecure`.
        cacert: Whom to trust for https, None for the system's authorities.
        keys_file: Keys to sign with; without it and without those of the environment the signatures go as they came.
        allow_insecure: Whether plain http may leave this machine.

    Raises:
        ValueError: the URL or a file cannot be used.
        typer.Exit: an event cannot be sent, or was not taken.
    """
    url = check_base_url(to, name="--to", allow_insecure=allow_insecure, allowed_by="--insecure")
    signed = keys_file is not None or bool(os.environ.get(WEBHOOK_KEYS))
    signer = OriginalWebhooks(webhook_keys(keys_file, WEBHOOK_KEYS)) if signed else None
    async with opened(store) as inbox:
        found = {event_id: await inbox.get_event(event_id) for event_id in event_ids}
    wrong = {event_id: why for event_id, stored in found.items() if (why := _why_not(stored, signed=signed)) is not None}
    if wrong:
        reasons = " ".join(f"Event {event_id}: {why}." for event_id, why in wrong.items())
        fail(f"{reasons} Nothing was sent.", Exit.NOT_FOUND)
    async with sender(url, cacert) as target:
        for stored in filter(None, found.values()):
            event = stored.event
            signature = event.signature if signer is None else signer.sign(event.body)
            status = await target.send(event.body, delivery_headers(event, signature))
            output.record(
                {"id": stored.id, "sent": event.name, "status": status},
                text=f"event {stored.id}, {event.name or 'unread'}: {status}",
            )
    target.judge("Run the same command again to send it once more.")


def _why_not(stored: StoredEvent | None, *, signed: bool) -> str | None:
    if stored is None:
        return NO_EVENT
    if not stored.event.body:
        return ERASED
    if stored.event.name == CONFLICT_EVENT:
        return _MADE_HERE
    return _UNSIGNED if stored.event.signature is None and not signed else None
