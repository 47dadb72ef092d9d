"""Commands about events: list, show, follow, replay, forget."""

from __future__ import annotations

import asyncio
import base64
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, cell, fail
from rewards_core.errors import UnexpectedResponse
from rewards_core.json import pretty
from rewards_core.text import counted
from rewards_core.validation import check_id
from webhooks.cli.ending import run
from webhooks.cli.options import (
    DEFAULT_STORE,
    LARGEST_ID,
    LARGEST_LIST,
    KeysOption,
    SourceOption,
    StoreOption,
    YesOption,
    confirm,
    sources_of,
)
from webhooks.cli.sources import ReloadableSource
from webhooks.cli.stores import opened
from webhooks.receiver import Receiver
from webhooks.store.base import Store
from webhooks.store.records import EventState, StoredEvent

_COLUMNS = ("id", "received_at", "state", "scope", "name", "uid", "why")
_LOOK_EVERY = 0.25
_OVERLAP = 100

events_app = typer.Typer(no_args_is_help=True, add_completion=False, help="List, show, replay and forget events.")


def told(stored: StoredEvent) -> dict[str, Any]:
    """Return an event as one flat record."""
    event = stored.event
    reasons = [event.problem] if event.problem else [f"{job.handler}: {job.reason}" for job in stored.jobs if job.reason]
    return {
        "id": stored.id,
        "received_at": moment(stored.received_at),
        "state": str(stored.state),
        "scope": event.scope,
        "name": event.name,
        "kind": None if event.ref is None else event.ref.kind,
        "uid": None if event.ref is None else event.ref.uid,
        "occurred_at": event.occurred_at,
        "correlation_id": event.correlation_id,
        "attempt": event.attempt,
        "why": "; ".join(reasons) or None,
    }


@events_app.command("list")
def list_events(
    store: StoreOption = DEFAULT_STORE,
    state: Annotated[EventState | None, typer.Option(help="Only events in this state.")] = None,
    name: Annotated[str | None, typer.Option(help="Only events of this name.")] = None,
    scope: Annotated[str | None, typer.Option(help="Only events of this scope.")] = None,
    before: Annotated[int | None, typer.Option(help="Only events older than this id.", min=0, max=LARGEST_ID)] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=LARGEST_LIST)] = 50,
    as_json: JsonOption = None,
) -> None:
    """List events, newest first.

    Example: webhook-listener events list --state dead --json
    """
    show_events(store, Output(as_json), "events", state=state, name=name, scope=scope, before_id=before, limit=limit)


@events_app.command("show")
def show_event(
    event_id: Annotated[int, typer.Argument(help="The event's id.", min=0, max=LARGEST_ID)],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Show one event with its body.

    Example: webhook-listener events show 17
    """
    output = Output(as_json)

    async def work() -> None:
        async with opened(store) as inbox:
            stored = await inbox.get_event(event_id)
        if stored is None:
            fail(f"There is no event {event_id}.", Exit.NOT_FOUND)
        jobs = [
            {"handler": job.handler, "state": str(job.state), "attempts": job.attempts, "why": job.reason} for job in stored.jobs
        ]
        body = stored.event.body
        if output.as_json:
            try:
                content = {"body": body.decode("utf-8")}
            except UnicodeDecodeError:
                content = {"body_base64": base64.b64encode(body).decode("ascii")}
            output.record({**told(stored), "jobs": jobs, **content})
            return
        output.record(told(stored))
        for job in stored.jobs:
            told_of_it = f"{job.state}, {counted(job.attempts, 'attempt')}, {job.reason or 'no reason yet'}"
            output.record({f"job {job.handler}": told_of_it})
        output.lines(_pretty(body))

    run(work)


@events_app.command("replay")
def replay_events(
    event_ids: Annotated[list[int], typer.Argument(help="The events' ids.", min=0, max=LARGEST_ID)],
    store: StoreOption = DEFAULT_STORE,
    source: SourceOption = None,
    keys_file: KeysOption = None,
    as_json: JsonOption = None,
) -> None:
    """Run the handlers of events again; events that could not be read are read again first.

    The handlers run in the processes that serve them, now or when they start. Only events that could not be read need sources and
    keys here.

    Example: webhook-listener events replay 17 18
    """

    async def work() -> None:
        async with opened(store) as inbox:
            found = [stored for event_id in event_ids if (stored := await inbox.get_event(event_id)) is not None]
            readable = [stored.id for stored in found if stored.event.problem is None]
            count = await inbox.requeue(readable, every_handler=True)
            unread = [stored for stored in found if stored.event.problem is not None]
            if unread:
                sources = [ReloadableSource(spec) for spec in sources_of(source, keys_file)]
                receiver = Receiver(sources, inbox)
                count += await receiver.replay([stored.id for stored in unread])
        Output(as_json).record({"replayed": count}, text=f"{count:,} of {counted(len(event_ids), 'event')} replayed")
        if count < len(event_ids):
            left = counted(len(event_ids) - count, "event is", "events are")
            fail(f"{left} unknown, unreadable, or wanted by no handler (see `handlers list`).", Exit.NOT_FOUND)

    run(work)


@events_app.command("forget")
def forget_events(
    user: Annotated[str, typer.Option(help="The user's uid.")],
    store: StoreOption = DEFAULT_STORE,
    yes: YesOption = False,
    as_json: JsonOption = None,
) -> None:
    """Erase every body and every resource of an outcome that mentions a user, for good.

    Identities and outcomes' statuses stay, so that a repeated delivery is still a duplicate. Backups are not touched. Looking
    through all events of a large store takes a while.

    Example: webhook-listener events forget --user 754566475542 --yes
    """
    confirm(f"Erase everything that mentions user {user} from {store}? This cannot be undone.", yes=yes)

    async def work() -> None:
        async with opened(store) as inbox:
            count = await inbox.forget_user(check_id(user, "--user"))
        Output(as_json).record({"erased": count}, text=f"{counted(count, 'record')} erased")

    run(work)


def tail(
    store: StoreOption = DEFAULT_STORE,
    last: Annotated[int, typer.Option("--last", help="Begin with so many that came before.", min=0, max=LARGEST_LIST)] = 10,
    count: Annotated[int | None, typer.Option(help="End after so many.", min=1)] = None,
    as_json: JsonOption = None,
) -> None:
    """Show events as they come; ctrl-c ends.

    Example: webhook-listener tail | jq .uid
    """
    output = Output(as_json)

    async def work() -> None:
        async with opened(store) as inbox:
            await _follow(inbox, output, last, count)

    run(work, broken_off=Exit.OK)


async def _follow(store: Store, output: Output, last: int, count: int | None) -> None:
    newest = await store.list_events(limit=max(last, _OVERLAP))
    seen = {stored.id for stored in newest}
    batch = list(reversed(newest[:last]))
    shown = 0
    while not output.deserted():
        for stored in batch:
            record = told(stored)
            output.record(record, text="  ".join(cell(record[column]) for column in _COLUMNS if record[column] is not None))
            shown += 1
            if count is not None and shown >= count:
                return
        await asyncio.sleep(_LOOK_EVERY)
        batch = await _unseen(store, seen)


async def _unseen(store: Store, seen: set[int]) -> list[StoredEvent]:
    """Return the events that were not seen, oldest first; ids may come to light later than higher ones."""
    found: list[StoredEvent] = []
    page = await store.list_events(limit=_OVERLAP)
    while page:
        fresh = [stored for stored in page if stored.id not in seen]
        found += fresh
        if len(fresh) < len(page):
            break
        page = await store.list_events(before_id=page[-1].id, limit=_OVERLAP)
    seen.update(stored.id for stored in found)
    for old in sorted(seen)[: -20 * _OVERLAP]:
        seen.discard(old)
    return found[::-1]


def show_events(url: str, output: Output, title: str, **conditions: Any) -> None:
    """List the events that fit."""

    async def work() -> None:
        async with opened(url) as inbox:
            found = await inbox.list_events(**conditions)
        output.table(title, _COLUMNS, (told(stored) for stored in found))

    run(work)


def moment(unix: float) -> str:
    """Return a Unix time as people write it."""
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds")


def _pretty(body: bytes) -> str:
    try:
        return pretty(body)
    except UnexpectedResponse:
        return body.decode("utf-8", "backslashreplace")
