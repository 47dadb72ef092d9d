"""`webhook-listener tail`: show events as they arrive."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from attrs import evolve

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output
from webhooks.cli.errors import run_command
from webhooks.cli.event_list import EVENT_COLUMNS, event_record
from webhooks.cli.options import (
    DEFAULT_STORE,
    MAX_LIST,
    EventOption,
    EventScopeOption,
    EventUidOption,
    StateOption,
    StoreOption,
)
from webhooks.cli.stores import open_existing
from webhooks.store.paging import EventFilter, EventFollower
from webhooks.store.standings import reason_of, with_operations

_POLL_SECONDS = 0.25
_WIDTHS = {"id": 4, "received (UTC)": 19, "event": 16, "uid": 12}
_NO_SCOPE = [evolve(column, min_width=_WIDTHS.get(column.heading, 0)) for column in EVENT_COLUMNS if column.heading != "scope"]
_COLUMNS = (*_NO_SCOPE, *(evolve(column, heading="") for column in EVENT_COLUMNS if column.heading == "scope"))
"""As in `events list`, but as wide as the cells usually are; the scope, mostly empty, stands last without a heading."""


def tail(
    store: StoreOption = DEFAULT_STORE,
    last: Annotated[int, typer.Option("--last", help="Start with this many earlier events.", min=0, max=MAX_LIST)] = 10,
    count: Annotated[int | None, typer.Option(help="Exit after this many events.", min=1)] = None,
    event: EventOption = None,
    uid: EventUidOption = None,
    state: StateOption = None,
    scope: EventScopeOption = None,
    as_json: JsonOption = None,
) -> None:
    """Show events as they arrive. Stop with ctrl-c.

    Each event is shown once, with its state when it arrives; with --state, when it reaches the given state.

    Example: webhook-listener tail --event reward.allocated | jq .uid
    """
    output = Output(as_json)
    which = EventFilter(event=event, uid=uid, state=state, scope=scope)

    async def work() -> None:
        left = count
        async with open_existing(store) as inbox:
            follower = EventFollower(inbox, which)
            batch = await follower.start(last)
            headed = False
            if not batch and not output.as_json:
                output.note("No events to show yet. New ones appear here. Stop with ctrl-c.")
            while not output.is_broken():
                for listed in await with_operations(inbox, batch):
                    if output.as_json:
                        output.record(event_record(listed))
                    else:
                        cells = [column.cell(listed) for column in _COLUMNS]
                        output.listing(_COLUMNS, [(cells, reason_of(listed.stored))], headed=not headed)
                        headed = True
                    left = None if left is None else left - 1
                    if left == 0:
                        return
                await asyncio.sleep(_POLL_SECONDS)
                batch = await follower.new_events()

    run_command(work, interrupt_code=Exit.OK)
