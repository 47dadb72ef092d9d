"""Commands that look at what is kept, and let it be tried again."""

from __future__ import annotations

import asyncio
import base64
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, cell, fail, finite
from rewards_core.errors import UnexpectedResponse
from rewards_core.json import pretty
from rewards_core.text import counted
from webhooks.cli.ending import run
from webhooks.cli.options import (
    DEFAULT_STORE,
    LARGEST_ID,
    ForwardOption,
    KeysOption,
    SocketOption,
    SourceOption,
    StoreOption,
    sources_of,
)
from webhooks.cli.remote import change
from webhooks.cli.settings import ForwardSettings, ListenerSettings
from webhooks.cli.sources import ReloadableSource
from webhooks.cli.stores import reading
from webhooks.store.base import EventState, StoredEvent
from webhooks.store.sqlite import SQLiteStore

_COLUMNS = ("id", "received_at", "state", "scope", "name", "uid", "why")
_MOST = 1_000_000
_LOOK_EVERY = 0.25
_DAY = 86_400.0

events_app = typer.Typer(no_args_is_help=True, add_completion=False, help="Look at events, and let them be handled again.")
dead_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Look at dead letters: events that could not be read or handled."
)


def told(stored: StoredEvent) -> dict[str, Any]:
    """Return an event as one flat record."""
    event = stored.event
    reasons = [event.problem] if event.problem else [f"{job.handler}: {job.reason}" for job in stored.jobs if job.reason]
    return {
        "id": stored.id,
        "received_at": _moment(stored.received_at),
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
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=_MOST)] = 50,
    as_json: JsonOption = None,
) -> None:
    """List events, newest first.

    Example: webhook-listener events list --state dead --json
    """
    _list(store, Output(as_json), "events", state=state, name=name, scope=scope, before_id=before, limit=limit)


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
        async with reading(store) as opened:
            stored = await opened.get_event(event_id)
        if stored is None:
            fail(f"expected an event with the id {event_id}, got none", Exit.NOT_FOUND)
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
    admin_socket: SocketOption = None,
    source: SourceOption = None,
    keys_file: KeysOption = None,
    forward_to: ForwardOption = None,
    as_json: JsonOption = None,
) -> None:
    """Read events again and let their handlers run anew.

    A running listener does it. When none runs, sources and --forward-to say which handlers there are; they run when it starts.

    Example: webhook-listener events replay 17 18
    """

    async def directly(opened: SQLiteStore) -> int:
        from webhooks.cli.service import forward_name, receivers_of, replay  # noqa: PLC0415 - a running listener has them too

        settings = ListenerSettings(
            sources=sources_of(source, keys_file), store=store, forward=ForwardSettings(url=forward_to) if forward_to else None
        )
        sources = [ReloadableSource(spec) for spec in settings.sources]
        receivers = receivers_of(settings, opened, sources)
        if forward_to:
            for path, receiver in receivers.items():
                receiver.on("*", name=forward_name(path))(_later)
        return await replay(opened, receivers, sources, event_ids)

    async def work() -> None:
        count = await change(store, admin_socket, "replay", {"ids": event_ids}, directly)
        Output(as_json).record({"replayed": count}, text=f"{count:,} of {counted(len(event_ids), 'event')} replayed")
        if count < len(event_ids):
            fail(f"{counted(len(event_ids) - count, 'event is', 'events are')} unknown or cannot be used", Exit.NOT_FOUND)

    run(work)


@dead_app.command("list")
def list_dead(
    store: StoreOption = DEFAULT_STORE,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=_MOST)] = 50,
    as_json: JsonOption = None,
) -> None:
    """List dead letters with their reasons, newest first.

    Example: webhook-listener dead-letters list
    """
    _list(store, Output(as_json), "dead letters", state=EventState.DEAD, limit=limit)


@dead_app.command("retry")
def retry_dead(
    event_ids: Annotated[list[int] | None, typer.Argument(help="The events' ids.", min=0, max=LARGEST_ID)] = None,
    every: Annotated[bool, typer.Option("--all", help="All dead letters whose handlers failed.")] = False,
    store: StoreOption = DEFAULT_STORE,
    admin_socket: SocketOption = None,
    as_json: JsonOption = None,
) -> None:
    """Let failed handlers run again.

    Example: webhook-listener dead-letters retry --all
    """

    async def work() -> None:
        ids = list(event_ids or ())
        if bool(ids) == every:
            fail("expected event ids, or --all", Exit.USAGE)
        if every:
            ids = await _all_dead(store)
        count = await change(store, admin_socket, "retry", {"ids": ids}, lambda opened: opened.requeue(ids)) if ids else 0
        Output(as_json).record(
            {"retried": count}, text=f"{count:,} of {counted(len(ids), 'dead letter is', 'dead letters are')} tried again"
        )
        if count < len(ids) and not every:
            fail(f"{len(ids) - count} of them are unknown or have no failed handler; see `events replay`", Exit.NOT_FOUND)

    run(work)


@dead_app.command("purge")
def purge_dead(
    older_than_days: Annotated[
        float, typer.Option("--older-than-days", help="Only those received so many days ago.", callback=finite, min=0)
    ],
    store: StoreOption = DEFAULT_STORE,
    admin_socket: SocketOption = None,
    as_json: JsonOption = None,
) -> None:
    """Remove old dead letters; their identities stay, so that a repeated delivery is still a duplicate.

    Example: webhook-listener dead-letters purge --older-than-days 30
    """

    async def work() -> None:
        before = time.time() - older_than_days * _DAY
        words = {"before": before, "state": str(EventState.DEAD)}
        count = await change(store, admin_socket, "purge", words, lambda opened: opened.purge(before, state=EventState.DEAD))
        Output(as_json).record({"purged": count}, text=f"{counted(count, 'dead letter')} removed")

    run(work)


def tail(
    store: StoreOption = DEFAULT_STORE,
    last: Annotated[int, typer.Option("--last", help="Begin with so many that came before.", min=0, max=_MOST)] = 10,
    count: Annotated[int | None, typer.Option(help="End after so many.", min=1)] = None,
    as_json: JsonOption = None,
) -> None:
    """Show events as they come; ctrl-c ends.

    Example: webhook-listener tail | jq .uid
    """
    output = Output(as_json)

    async def work() -> None:
        async with reading(store) as opened:
            await _follow(opened, output, last, count)

    run(work, broken_off=Exit.OK)


async def _follow(store: SQLiteStore, output: Output, last: int, count: int | None) -> None:
    newest = await store.list_events(limit=max(last, 1))
    seen = newest[0].id if newest else 0
    shown = 0
    batch = list(reversed(newest[:last]))
    while not output.deserted():
        for stored in batch:
            record = told(stored)
            output.record(record, text="  ".join(cell(record[column]) for column in _COLUMNS if record[column] is not None))
            shown += 1
            if count is not None and shown >= count:
                return
        await asyncio.sleep(_LOOK_EVERY)
        batch = await _after(store, seen)
        if batch:
            seen = batch[-1].id


async def _after(store: SQLiteStore, seen: int) -> list[StoredEvent]:
    """Return the events after an id, oldest first."""
    found: list[StoredEvent] = []
    before: int | None = None
    while True:
        page = await store.list_events(before_id=before, limit=100)
        fresh = [stored for stored in page if stored.id > seen]
        found += fresh
        if len(fresh) < 100:
            return found[::-1]
        before = fresh[-1].id


async def _all_dead(url: str) -> list[int]:
    ids: list[int] = []
    async with reading(url) as opened:
        before: int | None = None
        while page := await opened.list_events(state=EventState.DEAD, before_id=before, limit=500):
            ids += [stored.id for stored in page if stored.jobs]
            before = page[-1].id
    return ids


def _list(url: str, output: Output, title: str, **conditions: Any) -> None:
    async def work() -> None:
        async with reading(url) as opened:
            found = await opened.list_events(**conditions)
        output.table(title, _COLUMNS, (told(stored) for stored in found))

    run(work)


async def _later(_: object) -> None:
    """Stand for a handler that runs when the listener starts."""


def _moment(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat(timespec="milliseconds")


def _pretty(body: bytes) -> str:
    try:
        return pretty(body)
    except UnexpectedResponse:
        return body.decode("utf-8", "backslashreplace")
