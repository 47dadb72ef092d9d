"""Commands about dead letters: list, retry, purge."""

from __future__ import annotations

from typing import Annotated

import typer

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail, finite
from rewards_core.clock import DAY
from rewards_core.text import counted
from webhooks.cli.ending import run
from webhooks.cli.event_list import EventFilter, show_events
from webhooks.cli.lists import pages
from webhooks.cli.options import (
    DEFAULT_LIMIT,
    DEFAULT_STORE,
    LARGEST_ID,
    BeforeOption,
    EventOption,
    EventScopeOption,
    EventUidOption,
    LimitOption,
    StoreOption,
)
from webhooks.cli.requeue import ERASED, NO_EVENT, report, requeue
from webhooks.cli.stores import opened
from webhooks.store.base import Store
from webhooks.store.records import EventState, StoredEvent

dead_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="List, retry and purge dead letters: events that could not be read or handled.",
)


@dead_app.command("list")
def list_dead(
    store: StoreOption = DEFAULT_STORE,
    event: EventOption = None,
    uid: EventUidOption = None,
    scope: EventScopeOption = None,
    before: BeforeOption = None,
    limit: LimitOption = DEFAULT_LIMIT,
    as_json: JsonOption = None,
) -> None:
    """List dead letters with their reasons, newest first, and whether the operations they speak of have settled.

    Nothing more is done with a dead letter by itself: `dead-letters retry` and `events replay` try again.

    Example: webhook-listener dead-letters list --event reward.allocated
    """
    output = Output(as_json)
    which = EventFilter(event=event, uid=uid, state=EventState.DEAD, scope=scope)
    run(lambda: show_events(store, output, which, limit=limit, before=before, dead=True))


@dead_app.command("retry")
def retry_dead(
    event_ids: Annotated[list[int] | None, typer.Argument(help="The events' ids.", min=0, max=LARGEST_ID)] = None,
    every: Annotated[bool, typer.Option("--all", help="All dead letters whose handlers failed.")] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Run the handlers again that gave up on events; those that succeeded do not run again.

    They run in the processes that serve them: now, or when such a process starts.

    Example: webhook-listener dead-letters retry --all
    """
    output = Output(as_json)
    ids = list(dict.fromkeys(event_ids or ()))

    async def work() -> None:
        if bool(ids) == every:
            fail("Name events by their ids, or all dead letters with --all. Nothing was retried.", Exit.USAGE)
        async with opened(store) as inbox:
            meant = await _failed(inbox) if every else ids
            left = await requeue(inbox, meant, every_handler=False)
            passed_over = {event_id: _why_not(await inbox.get_event(event_id)) for event_id in left}
            await report(inbox, output, "retried", meant, passed_over)

    run(work, interrupted="Interrupted. Some of the dead letters may be retried already.")


@dead_app.command("purge")
def purge_dead(
    older_than_days: Annotated[
        float,
        typer.Option("--older-than-days", help="Only dead letters received more than so many days ago.", callback=finite, min=0),
    ],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Remove old dead letters for good; their identities stay, so that a repeated delivery is still a duplicate.

    Example: webhook-listener dead-letters purge --older-than-days 30
    """
    output = Output(as_json)

    async def work() -> None:
        async with opened(store) as inbox:
            count = await inbox.purge(older_than_days * DAY, state=EventState.DEAD)
        output.record({"purged": count}, text=f"{counted(count, 'dead letter')} removed")

    run(work, interrupted="Interrupted. Some dead letters may be removed already.")


async def _failed(store: Store) -> list[int]:
    """Return the dead letters with a handler that gave up and can run again."""
    dead = pages(
        lambda last, most: store.list_events(state=EventState.DEAD, before_id=last, limit=most),
        lambda stored: stored.id,
    )
    return [stored.id async for stored in dead if stored.jobs and stored.event.body]


def _why_not(stored: StoredEvent | None) -> str:
    if stored is None:
        return NO_EVENT
    if not stored.event.body:
        return ERASED
    if stored.event.problem is not None:
        return "it could not be read; `webhook-listener events replay` reads it again"
    return "no handler of it has given up"
