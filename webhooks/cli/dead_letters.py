"""`webhook-listener dead-letters`: list, retry, purge."""

from __future__ import annotations

from typing import Annotated

import typer

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, check_finite, fail
from rewards_core.cli.program import command_group
from rewards_core.clock import DAY
from rewards_core.text import counted
from webhooks.cli.errors import run_command
from webhooks.cli.event_list import write_events
from webhooks.cli.options import (
    DEFAULT_LIMIT,
    DEFAULT_STORE,
    BeforeOption,
    EventOption,
    EventScopeOption,
    EventUidOption,
    LimitOption,
    OptionalEventIdsArgument,
    StoreOption,
)
from webhooks.cli.requeue import ERASED, NO_EVENT, report, requeue
from webhooks.cli.stores import open_existing
from webhooks.store.base import Store
from webhooks.store.paging import EventFilter, pages
from webhooks.store.records import EventState, StoredEvent

dead_letters_app = command_group("List, retry and purge dead letters: events that could not be read or handled.")


@dead_letters_app.command("list")
def list_dead_letters(
    store: StoreOption = DEFAULT_STORE,
    event: EventOption = None,
    uid: EventUidOption = None,
    scope: EventScopeOption = None,
    before: BeforeOption = None,
    limit: LimitOption = DEFAULT_LIMIT,
    as_json: JsonOption = None,
) -> None:
    """List dead letters, newest first, with the reason for each and the status of its operations.

    A dead letter is not retried automatically. Use `dead-letters retry` or `events replay`.

    Example: webhook-listener dead-letters list --event reward.allocated
    """
    output = Output(as_json)
    which = EventFilter(event=event, uid=uid, state=EventState.DEAD, scope=scope)
    run_command(lambda: write_events(store, output, which, limit=limit, before=before, dead=True))


@dead_letters_app.command("retry")
def retry_dead_letters(
    event_ids: OptionalEventIdsArgument = None,
    every: Annotated[bool, typer.Option("--all", help="Retry all dead letters whose handlers failed.")] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Run the failed handlers of dead letters again; handlers that succeeded do not run again.

    The processes that serve these handlers run them: now if they are running, else when they start.

    Example: webhook-listener dead-letters retry --all
    """
    output = Output(as_json)
    ids = list(dict.fromkeys(event_ids or ()))

    async def work() -> None:
        if bool(ids) == every:
            fail("Give the ids of events, or --all for all dead letters. Nothing was retried.", Exit.USAGE)
        async with open_existing(store) as inbox:
            wanted = await _retryable(inbox) if every else ids
            left = await requeue(inbox, wanted, every_handler=False)
            skipped = {event_id: _why_not(await inbox.get_event(event_id)) for event_id in left}
            await report(inbox, output, "retried", wanted, skipped)

    run_command(work, interrupted="Interrupted. Some dead letters may have been retried.")


@dead_letters_app.command("purge")
def purge_dead_letters(
    older_than_days: Annotated[
        float,
        typer.Option(
            "--older-than-days",
            help="Remove dead letters that arrived more than this many days ago.",
            callback=check_finite,
            min=0,
        ),
    ],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Remove old dead letters permanently. Their identities stay, so that a repeated delivery is still a duplicate.

    Example: webhook-listener dead-letters purge --older-than-days 30
    """
    output = Output(as_json)

    async def work() -> None:
        async with open_existing(store) as inbox:
            count = await inbox.purge(older_than_days * DAY, state=EventState.DEAD)
        output.record({"purged": count}, text=f"{counted(count, 'dead letter')} removed")

    run_command(work, interrupted="Interrupted. Some dead letters may have been removed.")


async def _retryable(store: Store) -> list[int]:
    """Return the dead letters of failed handlers that can run again."""
    dead = pages(
        lambda last, limit: store.list_events(state=EventState.DEAD, before_id=last, limit=limit),
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
    return "none of its handlers has given up"
