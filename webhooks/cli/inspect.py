"""Commands about events: list, show, replay, resend, forget."""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from typing import Annotated, Any

import typer

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail, wrong_usage
from rewards_core.errors import UnexpectedResponse
from rewards_core.json import pretty
from rewards_core.text import counted
from rewards_core.validation import check_id
from webhooks.cli.ending import run
from webhooks.cli.event_list import EventFilter, event_record, show_events
from webhooks.cli.lists import when
from webhooks.cli.options import (
    DEFAULT_LIMIT,
    DEFAULT_STORE,
    LARGEST_ID,
    BeforeOption,
    CaOption,
    EventOption,
    EventScopeOption,
    EventUidOption,
    KeysOption,
    LimitOption,
    SourceOption,
    StateOption,
    StoreOption,
    YesOption,
    confirm,
    sources_of,
)
from webhooks.cli.requeue import ERASED, NO_EVENT, report, requeue
from webhooks.cli.sources import ReloadableSource, SourceSpec
from webhooks.cli.standing import Standing, with_standings
from webhooks.cli.stores import backups_beside, opened, path_of
from webhooks.receiver import Receiver
from webhooks.store.base import Store
from webhooks.store.records import EventState, Job, StoredEvent

events_app = typer.Typer(no_args_is_help=True, add_completion=False, help="List, show, replay, resend and forget events.")


@events_app.command("list")
def list_events(
    store: StoreOption = DEFAULT_STORE,
    event: EventOption = None,
    uid: EventUidOption = None,
    state: StateOption = None,
    scope: EventScopeOption = None,
    before: BeforeOption = None,
    limit: LimitOption = DEFAULT_LIMIT,
    as_json: JsonOption = None,
) -> None:
    """List events, newest first: how far their handlers have come, and whether the operations they speak of have settled.

    The handlers of an event are ready (one of them waits or runs), done, or dead (one of them gave up, or the event could not be
    read). An operation is done or failed once a delivery or a poll has said so, pending while it is polled, and not known if
    this store has no word of it.

    Example: webhook-listener events list --uid 324167489835
    """
    output = Output(as_json)
    which = EventFilter(event=event, uid=uid, state=state, scope=scope)
    run(lambda: show_events(store, output, which, before=before, limit=limit))


@events_app.command("show")
def show_event(
    event_id: Annotated[int, typer.Argument(help="The event's id.", min=0, max=LARGEST_ID)],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Show one event with its jobs and its body.

    Example: webhook-listener events show 17
    """
    output = Output(as_json)

    async def work() -> None:
        async with opened(store) as inbox:
            stored = await inbox.get_event(event_id)
            if stored is None:
                fail(f"There is no event {event_id}.", Exit.NOT_FOUND)
            (shown,) = await with_standings(inbox, [stored])
        if output.as_json:
            output.record({**event_record(shown), "jobs": [_job_record(job) for job in stored.jobs], **_body_record(stored)})
            return
        facts = {**event_record(shown), "received_at": f"{when(stored.received_at)} UTC", "why": stored.event.problem}
        told = {"state", "operation", "operations", "kind", "uid"}
        output.record({name.replace("_", " "): value for name, value in facts.items() if value and name not in told})
        for words in map(_standing_words, shown.operations) if shown.operations else ["none named"]:
            output.record({"operation": words})
        for job in stored.jobs:
            output.record({"job": f"{job.handler}: {_job_words(job)}"})
        output.lines(_pretty(stored.event.body) if stored.event.body else f"({ERASED})")

    run(work)


@events_app.command("replay")
def replay_events(
    event_ids: Annotated[list[int], typer.Argument(help="The events' ids.", min=0, max=LARGEST_ID)],
    store: StoreOption = DEFAULT_STORE,
    source: SourceOption = None,
    keys_file: KeysOption = None,
    as_json: JsonOption = None,
) -> None:
    """Run the handlers of events again; an event that could not be read is read again first.

    The handlers run in the processes that serve them: now, or when such a process starts. Webhook keys and --source are needed
    only for events that could not be read.

    Example: webhook-listener events replay 17 18
    """
    output = Output(as_json)
    ids = list(dict.fromkeys(event_ids))

    async def work() -> None:
        async with opened(store) as inbox:
            found = {event_id: await inbox.get_event(event_id) for event_id in ids}
            kept = [stored for stored in found.values() if stored is not None and stored.event.body]
            unread = [stored for stored in kept if stored.event.problem is not None]
            reader = _reader(inbox, unread, sources_of(source, keys_file)) if unread else None
            readable = [stored.id for stored in kept if stored.event.problem is None]
            passed_over = dict.fromkeys(await requeue(inbox, readable, every_handler=True), "no handler wants it")
            if reader is not None:
                passed_over |= await reader.replay(unread)
            passed_over |= {event_id: NO_EVENT for event_id, stored in found.items() if stored is None}
            passed_over |= {stored.id: ERASED for stored in found.values() if stored is not None and not stored.event.body}
            await report(inbox, output, "replayed", ids, passed_over)

    run(work, interrupted="Interrupted. Some of the events may be replayed already.")


@events_app.command("resend")
def resend_events(
    event_ids: Annotated[list[int], typer.Argument(help="The events' ids.", min=0, max=LARGEST_ID)],
    to: Annotated[str, typer.Option(help="Where to send them.")],
    store: StoreOption = DEFAULT_STORE,
    cacert: CaOption = None,
    keys_file: KeysOption = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", "--forward-insecure", help="Allow plain http to another machine.")
    ] = False,
    as_json: JsonOption = None,
) -> None:
    """Send kept events to a URL: each body as it came, signed with the webhook keys that are given.

    Without keys (--keys-file or ORIGINAL_WEBHOOK_KEYS) the signature goes as it came. Nothing is sent if one of the events is not
    kept, or its body was erased. No handler runs here, and nothing in the store changes.

    Example: webhook-listener events resend 17 18 --to https://staging.example.com/webhooks/original
    """
    from webhooks.cli.resend import resend  # noqa: PLC0415 - it needs a client of HTTP, which no other command here does

    output = Output(as_json)
    ids = list(dict.fromkeys(event_ids))
    run(
        lambda: resend(store, output, ids, to=to, cacert=cacert, keys_file=keys_file, allow_insecure=insecure),
        interrupted="Interrupted. Some of the events may have been sent.",
    )


@events_app.command("forget")
def forget_events(
    user: Annotated[str, typer.Option(help="The user's uid.")],
    store: StoreOption = DEFAULT_STORE,
    yes: YesOption = False,
    as_json: JsonOption = None,
) -> None:
    """Erase, for good, every event's body and every outcome's resource that mentions a user.

    The identities of events and the statuses of outcomes stay, so that a repeated delivery is still a duplicate. An event that
    still waits for a handler is erased too, and becomes a dead letter. Backups are not touched. All that the store holds is read,
    which takes a while where it holds much; listeners go on meanwhile.

    Example: webhook-listener events forget --user 754566475542 --yes
    """
    output = Output(as_json)
    with wrong_usage():
        check_id(user, "--user")
        path = path_of(store)
    confirm(f"Erase all that mentions user {user} from {store}? This cannot be undone.", yes=yes)

    async def work() -> None:
        async with opened(store) as inbox:
            count = await inbox.forget_user(user)
        if count:
            told = f"{counted(count, 'record')} of user {user} erased."
        else:
            told = f"No record mentions user {user}. Nothing was erased."
        backups = [str(backup) for backup in backups_beside(path)]
        known = f": {', '.join(backups)}, and those you made" if backups else ""
        output.record({"erased": count, "backups": backups}, text=f"{told} Backups were not touched{known}.")

    run(work, interrupted="Interrupted. Some records may be erased already. Run the same command again to erase the rest.")


def _reader(store: Store, unread: Sequence[StoredEvent], specs: Sequence[SourceSpec]) -> _Reader:
    """Return what reads events again; end the command if it lacks keys, or two sources share a scope."""
    try:
        return _Reader(Receiver([ReloadableSource(spec) for spec in specs], store), {spec.scope for spec in specs})
    except ValueError as problem:
        which = f"Event {unread[0].id}" if len(unread) == 1 else f"{counted(len(unread), 'event')} such as {unread[0].id}"
        fail(f"{which} could not be read before and must be read again. Nothing was replayed. {problem}", Exit.USAGE)


_SAYS = {"webhook": "delivery", "poll": "poll"}


class _Reader:
    def __init__(self, receiver: Receiver, scopes: Collection[str]) -> None:
        self._receiver = receiver
        self._scopes = scopes

    async def replay(self, unread: Sequence[StoredEvent]) -> dict[int, str]:
        """Read events again and let their handlers run; return the ids of those that still cannot be read, with the reason."""
        passed_over = {}
        for stored in unread:
            scope = stored.event.scope
            if scope not in self._scopes:
                passed_over[stored.id] = f"it could not be read before; name its source with --source PATH,scope={scope}"
            elif not await self._receiver.replay([stored.id]):
                passed_over[stored.id] = f"it still cannot be read: {stored.event.problem}"
        return passed_over


def _job_record(job: Job) -> dict[str, Any]:
    return {
        "handler": job.handler,
        "state": str(job.state),
        "attempts": job.attempts,
        "running": job.fence is not None,
        "due_in": round(job.due_in, 1),
        "why": job.reason,
    }


def _standing_words(one: Standing) -> str:
    name = f"{one.ref.kind} {one.ref.uid}"
    if one.outcome is not None:
        return f"{name}: {one.word}, as a {_SAYS[one.outcome.via]} said at {when(one.outcome.settled_at)} UTC"
    if one.pending is not None:
        polls = one.pending.polls
        return f"{name}: pending, {f'polled {polls:,} times' if polls else 'not polled yet'}"
    return f"{name}: not known; no delivery or poll has settled it here, and it is not polled"


def _job_words(job: Job) -> str:
    if job.state is EventState.DEAD:
        return f"dead after {counted(job.attempts, 'attempt')}: {job.reason}" if job.attempts else f"dead: {job.reason}"
    if job.fence is not None:
        return f"attempt {job.attempts} is running"
    if not job.attempts:
        return "waits for its first attempt"
    return f"{counted(job.attempts, 'attempt')} failed, the next is due in {job.due_in:.0f} s: {job.reason}"


def _body_record(stored: StoredEvent) -> dict[str, str | None]:
    body = stored.event.body
    if not body:
        return {"body": None}
    try:
        return {"body": body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"body_base64": base64.b64encode(body).decode("ascii")}


def _pretty(body: bytes) -> str:
    try:
        return pretty(body)
    except UnexpectedResponse:
        return body.decode("utf-8", "backslashreplace")
