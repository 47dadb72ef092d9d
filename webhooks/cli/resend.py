"""Send stored events to a URL, as the vendor sent them: the work of `webhook-listener events resend`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from original_async import OriginalWebhooks
from original_async.settings import WEBHOOK_KEYS
from rewards_core.base_urls import check_base_url
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import Output, fail
from rewards_core.keys import webhook_keys
from webhooks.cli.requeue import ERASED, NO_EVENT
from webhooks.cli.sending import delivery_headers, sender
from webhooks.cli.stores import open_existing
from webhooks.store.outcomes import CONFLICT_EVENT

if TYPE_CHECKING:
    from webhooks.store.records import StoredEvent
    from webhooks.store.urls import StoreUrl


async def resend(
    store: StoreUrl,
    output: Output,
    event_ids: Sequence[int],
    *,
    to: str,
    cacert: Path | None,
    keys_file: Path | None,
    allow_insecure: bool,
) -> None:
    """Send events to a URL; the worst answer decides the exit code. Nothing is sent if one event cannot be sent.

    Without a file of keys, and without keys in the environment, events keep their signatures.

    Raises:
        ValueError: the URL or a file is invalid.
        typer.Exit: an event cannot be sent, or was not accepted.
    """
    url = check_base_url(to, name="--to", allow_insecure=allow_insecure, allowed_by="--insecure")
    signed = keys_file is not None or bool(os.environ.get(WEBHOOK_KEYS))
    signer = OriginalWebhooks(webhook_keys(keys_file, WEBHOOK_KEYS)) if signed else None
    async with open_existing(store) as inbox:
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
    target.check_answers("Run the same command again to send it again.")


def _why_not(stored: StoredEvent | None, *, signed: bool) -> str | None:
    if stored is None:
        return NO_EVENT
    if not stored.event.body:
        return ERASED
    if stored.event.name == CONFLICT_EVENT:
        return "it reports a conflict between two outcomes and was created here, not by the vendor"
    if stored.event.signature is None and not signed:
        return "its signature was not stored; give --keys-file to sign it"
    return None
