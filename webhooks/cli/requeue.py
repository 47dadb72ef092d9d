"""Run handlers again for chosen events, and report the events that were skipped."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import Output, fail
from rewards_core.text import counted
from webhooks.store.base import Store
from webhooks.store.records import UNSERVED_DAYS, HandlerStatus

NO_EVENT = "there is no such event"
ERASED = "its body was erased"

BATCH_SIZE = 200
_MAX_NAMED = 20


async def requeue(store: Store, event_ids: Sequence[int], *, every_handler: bool) -> list[int]:
    """Queue handlers again, in batches so that deliveries do not wait for long; return the events that got no job."""
    skipped = []
    for start in range(0, len(event_ids), BATCH_SIZE):
        batch = event_ids[start : start + BATCH_SIZE]
        answers = await asyncio.gather(  # they share one commit
            *(store.requeue([event_id], every_handler=every_handler) for event_id in batch), return_exceptions=True
        )
        for event_id, answer in zip(batch, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            if not answer:
                skipped.append(event_id)
    return skipped


async def report(store: Store, output: Output, verb: str, event_ids: Sequence[int], skipped: Mapping[int, str]) -> None:
    """Say how many events were requeued, such as `"replayed"`; if some were skipped, say why and end the command."""
    count = len(event_ids) - len(skipped)
    left = [{"id": event_id, "why": skipped[event_id]} for event_id in event_ids if event_id in skipped]
    words = f"{count:,} of {counted(len(event_ids), 'event')}" if left else counted(count, "event")
    output.record({verb: count, "passed_over": left}, text=f"{words} {verb}")
    if count:
        note_unserved(output, await store.list_handlers())
    if left:
        reasons = [f"Event {one['id']}: {str(one['why']).rstrip('.')}." for one in left[:_MAX_NAMED]]
        if len(left) > _MAX_NAMED:
            reasons.append(f"{counted(len(left) - _MAX_NAMED, 'more event')} skipped; --json lists all of them.")
        fail(" ".join(reasons), Exit.NOT_FOUND)


def note_unserved(output: Output, found: Sequence[HandlerStatus]) -> None:
    """Name the handlers that have jobs but no process to run them."""
    names = sorted({one.subscription.handler for one in found if one.ready and not one.served})
    if names:
        one = len(names) == 1
        output.note(
            f"No running process serves {', '.join(names)}. {'Its' if one else 'Their'} jobs become dead letters after "
            f"{UNSERVED_DAYS} days. Start the process that runs {'it' if one else 'them'}, or retire {'it' if one else 'them'} "
            "with `webhook-listener handlers retire`."
        )
