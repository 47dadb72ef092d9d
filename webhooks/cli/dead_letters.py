"""Commands about dead letters: list, retry, purge."""

from __future__ import annotations

from typing import Annotated

import typer

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail, finite
from rewards_core.text import counted
from webhooks.cli.ending import run
from webhooks.cli.inspect import show_events
from webhooks.cli.options import DEFAULT_STORE, LARGEST_ID, LARGEST_LIST, StoreOption
from webhooks.cli.stores import opened
from webhooks.store.base import Store
from webhooks.store.records import EventState

_DAY = 86_400.0

dead_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="List, retry and purge dead letters: events that could not be read or handled.",
)


@dead_app.command("list")
def list_dead(
    store: StoreOption = DEFAULT_STORE,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=LARGEST_LIST)] = 50,
    as_json: JsonOption = None,
) -> None:
    """List dead letters with their reasons, newest first.

    Example: webhook-listener dead-letters list
    """
    show_events(store, Output(as_json), "dead letters", state=EventState.DEAD, limit=limit)


@dead_app.command("retry")
def retry_dead(
    event_ids: Annotated[list[int] | None, typer.Argument(help="The events' ids.", min=0, max=LARGEST_ID)] = None,
    every: Annotated[bool, typer.Option("--all", help="All dead letters whose handlers failed.")] = False,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Run failed handlers again.

    Example: webhook-listener dead-letters retry --all
    """

    async def work() -> None:
        ids = list(event_ids or ())
        if bool(ids) == every:
            fail("Give the ids of events, or --all.", Exit.USAGE)
        async with opened(store) as inbox:
            if every:
                ids = await _all_dead(inbox)
            count = await inbox.requeue(ids)
        Output(as_json).record(
            {"retried": count}, text=f"{count:,} of {counted(len(ids), 'dead letter is', 'dead letters are')} tried again"
        )
        if count < len(ids) and not every:
            fail(f"{len(ids) - count} of them are unknown or have no failed handler; see `events replay`.", Exit.NOT_FOUND)

    run(work)


@dead_app.command("purge")
def purge_dead(
    older_than_days: Annotated[
        float, typer.Option("--older-than-days", help="Only those received so many days ago.", callback=finite, min=0)
    ],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Remove old dead letters; their identities stay, so that a repeated delivery is still a duplicate.

    Example: webhook-listener dead-letters purge --older-than-days 30
    """

    async def work() -> None:
        async with opened(store) as inbox:
            count = await inbox.purge(older_than_days * _DAY, state=EventState.DEAD)
        Output(as_json).record({"purged": count}, text=f"{counted(count, 'dead letter')} removed")

    run(work)


async def _all_dead(store: Store) -> list[int]:
    ids: list[int] = []
    before: int | None = None
    while page := await store.list_events(state=EventState.DEAD, before_id=before, limit=500):
        ids += [stored.id for stored in page if stored.jobs]
        before = page[-1].id
    return ids
