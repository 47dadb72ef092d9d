"""How commands let handlers run again, and tell for which events they will not."""

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

_AT_ONCE = 200
_NAMED = 20


async def requeue(store: Store, event_ids: Sequence[int], *, every_handler: bool) -> list[int]:
    """Let handlers run again for events, some at a time, so that no delivery waits long; return those that got no job.

    Args:
        store: The store.
        event_ids: The events.
        every_handler: As for `Store.requeue`.
    """
    left = []
    for start in range(0, len(event_ids), _AT_ONCE):
        some = event_ids[start : start + _AT_ONCE]
        answers = await asyncio.gather(  # they share one commit
            *(store.requeue([event_id], every_handler=every_handler) for event_id in some), return_exceptions=True
        )
        for event_id, answer in zip(some, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            if not answer:
                left.append(event_id)
    return left


async def report(store: Store, output: Output, done: str, event_ids: Sequence[int], passed_over: Mapping[int, str]) -> None:
    """Say for how many events handlers run again, and why not for the others; end the command if there are any.

    Args:
        store: The store.
        output: Where to.
        done: What was done to them, such as `"replayed"`.
        event_ids: The events that were meant.
        passed_over: Those of them for which no handler runs again, with the reason.
    """
    count = len(event_ids) - len(passed_over)
    left = [{"id": event_id, "why": passed_over[event_id]} for event_id in event_ids if event_id in passed_over]
    told = f"{count:,} of {counted(len(event_ids), 'event')}" if left else counted(count, "event")
    output.record({done: count, "passed_over": left}, text=f"{told} {done}")
    if count:
        note_unserved(output, await store.list_handlers())
    if left:
        words = [f"Event {one['id']}: {str(one['why']).rstrip('.')}." for one in left[:_NAMED]]
        if len(left) > _NAMED:
            further = counted(len(left) - _NAMED, "further event was", "further events were")
            words.append(f"{further} passed over; --json names them all.")
        fail(" ".join(words), Exit.NOT_FOUND)


def note_unserved(output: Output, found: Sequence[HandlerStatus]) -> None:
    """Say which handlers have jobs that wait for a process to run them."""
    names = sorted({one.subscription.handler for one in found if one.ready and not one.served})
    if names:
        one = len(names) == 1
        output.note(
            f"No process runs {', '.join(names)} now. {'Its' if one else 'Their'} jobs wait, and become dead letters after "
            f"{UNSERVED_DAYS} days: start the process that runs {'it' if one else 'them'}, or retire {'it' if one else 'them'} "
            "with `webhook-listener handlers retire`."
        )
