"""`webhook-listener events`: list, show, replay, resend, forget."""

from __future__ import annotations

import glob
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, TextIO

import typer

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, exit_on_value_error, fail
from rewards_core.cli.program import command_group
from rewards_core.text import counted, one_line
from rewards_core.validation import check_id
from webhooks.cli.errors import run_command
from webhooks.cli.event_list import body_record, event_record, write_events
from webhooks.cli.lists import utc_time
from webhooks.cli.options import (
    DEFAULT_LIMIT,
    DEFAULT_STORE,
    BeforeOption,
    CaOption,
    EventIdArgument,
    EventIdsArgument,
    EventOption,
    EventScopeOption,
    EventUidOption,
    KeysOption,
    LimitOption,
    SourceOption,
    StateOption,
    StoreOption,
    source_specs,
)
from webhooks.cli.requeue import ERASED, NO_EVENT, report, requeue
from webhooks.cli.sources import ReloadableSource, SourceSpec
from webhooks.cli.stores import check_file, open_existing
from webhooks.receiver import Receiver
from webhooks.store.base import Store
from webhooks.store.facts import body_indented, job_facts
from webhooks.store.paging import EventFilter
from webhooks.store.records import EventState, Job, StoredEvent
from webhooks.store.standings import OperationStanding, with_operations

events_app = command_group("List, show, replay, resend and forget events.")

_IN_OTHER_FIELDS = frozenset({"state", "operation", "operations", "kind", "uid"})


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
    """List events, newest first, with the state of their handlers and the status of their operations.

    Handlers are ready (at least one is waiting or running), done, or dead (one gave up, or the event could not be read).
    Operations are done, failed or cancelled (a delivery or a poll settled them), pending (they are polled), or not known to this
    store.

    Example: webhook-listener events list --uid 324167489835
    """
    output = Output(as_json)
    which = EventFilter(event=event, uid=uid, state=state, scope=scope)
    run_command(lambda: write_events(store, output, which, before=before, limit=limit))


@events_app.command("show")
def show_event(
    event_id: EventIdArgument,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Show one event with its jobs and its body.

    Example: webhook-listener events show 17
    """
    output = Output(as_json)

    async def work() -> None:
        async with open_existing(store) as inbox:
            stored = await inbox.get_event(event_id)
            if stored is None:
                fail(f"There is no event {event_id}.", Exit.NOT_FOUND)
            (listed,) = await with_operations(inbox, [stored])
        if output.as_json:
            output.record(
                {
                    **event_record(listed),
                    "jobs": [job_facts(job) for job in stored.jobs],
                    **body_record(stored.event.body or None),
                }
            )
            return
        facts = {**event_record(listed), "received_at": f"{utc_time(stored.received_at)} UTC", "why": stored.event.problem}
        output.record({name.replace("_", " "): value for name, value in facts.items() if value and name not in _IN_OTHER_FIELDS})
        for words in map(_operation_words, listed.operations) if listed.operations else ["none named"]:
            output.record({"operation": words})
        for job in stored.jobs:
            output.record({"job": f"{job.handler}: {_job_words(job)}"})
        output.lines(body_indented(stored.event.body) if stored.event.body else f"({ERASED})")

    run_command(work)


@events_app.command("replay")
def replay_events(
    event_ids: EventIdsArgument,
    store: StoreOption = DEFAULT_STORE,
    source: SourceOption = None,
    keys_file: KeysOption = None,
    as_json: JsonOption = None,
) -> None:
    """Run the handlers of events again. An event that could not be read is first read again.

    The processes that serve the handlers run them: now if they are running, else when they start. Webhook keys and --source are
    needed only for events that could not be read.

    Example: webhook-listener events replay 17 18
    """
    output = Output(as_json)
    ids = list(dict.fromkeys(event_ids))

    async def work() -> None:
        async with open_existing(store) as inbox:
            found = {event_id: await inbox.get_event(event_id) for event_id in ids}
            kept = [stored for stored in found.values() if stored is not None and stored.event.body]
            unread = [stored for stored in kept if stored.event.problem is not None]
            specs = source_specs(source, keys_file) if unread else []
            receiver = _receiver(inbox, unread, specs) if unread else None
            readable = [stored.id for stored in kept if stored.event.problem is None]
            skipped = dict.fromkeys(await requeue(inbox, readable, every_handler=True), "no handler is registered for it")
            if receiver is not None:
                skipped |= await _read_again(receiver, unread, {spec.scope for spec in specs})
            skipped |= {event_id: NO_EVENT for event_id, stored in found.items() if stored is None}
            skipped |= {stored.id: ERASED for stored in found.values() if stored is not None and not stored.event.body}
            await report(inbox, output, "replayed", ids, skipped)

    run_command(work, interrupted="Interrupted. Some events may have been replayed.")


@events_app.command("resend")
def resend_events(
    event_ids: EventIdsArgument,
    to: Annotated[str, typer.Option(help="The URL to send the events to.")],
    store: StoreOption = DEFAULT_STORE,
    cacert: CaOption = None,
    keys_file: KeysOption = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", "--forward-insecure", help="Allow plain http to another machine.")
    ] = False,
    as_json: JsonOption = None,
) -> None:
    """Send stored events to a URL: each body as it arrived, signed with your webhook keys.

    Without keys (--keys-file or ORIGINAL_WEBHOOK_KEYS) each event is sent with its original signature. Nothing is sent if one of
    the events does not exist, or its body was erased. No handler runs, and the store is not changed.

    Example: webhook-listener events resend 17 18 --to https://test.example.com
    """
    from webhooks.cli.resend import resend  # noqa: PLC0415 - only this command needs an HTTP client

    output = Output(as_json)
    ids = list(dict.fromkeys(event_ids))
    run_command(
        lambda: resend(store, output, ids, to=to, cacert=cacert, keys_file=keys_file, allow_insecure=insecure),
        interrupted="Interrupted. Some events may have been sent.",
    )


@events_app.command("forget")
def forget_events(
    user: Annotated[str, typer.Option(help="The user's uid.")],
    store: StoreOption = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
    as_json: JsonOption = None,
) -> None:
    """Permanently erase the body of every event, and the resource of every outcome, that mentions a user.

    The identities of events and the statuses of outcomes stay, so that a repeated delivery is still a duplicate. An event that
    waits for a handler is erased too, and becomes a dead letter. Backups are not changed. The command reads the whole store,
    which can take minutes if it is large; listeners keep running.

    Example: webhook-listener events forget --user 754566475542 --yes
    """
    output = Output(as_json)
    with exit_on_value_error():
        check_id(user, "--user")
        check_file(store)
    _confirm(f"Erase everything that mentions user {user} from {store}? This cannot be undone.", yes=yes)

    async def work() -> None:
        async with open_existing(store) as inbox:
            count = await inbox.forget_user(user)
        if count:
            result = f"{counted(count, 'record')} of user {user} erased."
        else:
            result = f"No record mentions user {user}. Nothing was erased."
        backups = _backups(store.file)
        known = f": neither {', '.join(backups)} nor those you made" if backups else ""
        output.record({"erased": count, "backups": backups}, text=f"{result} Backups were not changed{known}.")

    run_command(work, interrupted="Interrupted. Some records may have been erased. Run the same command again for the rest.")


def _backups(path: Path | None) -> list[str]:
    """Return the backups of a store's file that upgrades have left."""
    return [] if path is None else sorted(map(str, path.parent.glob(f"{glob.escape(path.name)}.layout-*.backup")))


def _confirm(question: str, *, yes: bool) -> None:
    """Ask before an irreversible change, or end the command; call it outside of an event loop, so that ctrl-c works at once."""
    if yes:
        return
    stdin: TextIO | None = sys.stdin
    if stdin is None or not stdin.isatty():
        fail("This needs confirmation, but there is no terminal to ask on. Nothing was changed. Confirm with --yes.", Exit.USAGE)
    try:
        typer.echo(f"{one_line(question, 1_000)} [y/N] ", nl=False, err=True)  # `typer.confirm` writes a blank to standard output
        answer = stdin.readline()
    except KeyboardInterrupt:
        fail("Nothing was changed.", Exit.INTERRUPTED)
    if answer.strip().casefold() not in {"y", "yes"}:
        fail("Nothing was changed.", Exit.REFUSED)


def _receiver(store: Store, unread: Sequence[StoredEvent], specs: Sequence[SourceSpec]) -> Receiver:
    """Return a receiver that can read events again; end the command if keys are missing, or two sources share a scope."""
    try:
        return Receiver([ReloadableSource(spec) for spec in specs], store)
    except ValueError as error:
        which = f"Event {unread[0].id}" if len(unread) == 1 else f"{counted(len(unread), 'event')} such as {unread[0].id}"
        fail(f"{which} could not be read and must be read again. Nothing was replayed. {error}", Exit.USAGE)


async def _read_again(receiver: Receiver, unread: Sequence[StoredEvent], scopes: Collection[str]) -> dict[int, str]:
    """Read events again and queue their handlers; return those that still cannot be read, with the reason."""
    skipped = {}
    for stored in unread:
        scope = stored.event.scope
        if scope not in scopes:
            skipped[stored.id] = f"it could not be read; name its source with --source PATH,scope={scope}"
        elif not await receiver.replay([stored.id]):
            skipped[stored.id] = f"it still cannot be read: {stored.event.problem}"
    return skipped


def _operation_words(one: OperationStanding) -> str:
    name = f"{one.ref.kind} {one.ref.uid}"
    if one.outcome is not None:
        by = "delivery" if one.outcome.via == "webhook" else "poll"
        return f"{name}: {one.status}, settled by a {by} at {utc_time(one.outcome.settled_at)} UTC"
    if one.pending is not None:
        return f"{name}: pending, polled {counted(one.pending.polls, 'time')}"
    return f"{name}: not known to this store, and not polled"


def _job_words(job: Job) -> str:
    if job.state is EventState.DEAD:
        return f"dead after {counted(job.attempts, 'attempt')}: {job.reason}" if job.attempts else f"dead: {job.reason}"
    if job.fence is not None:
        return f"attempt {job.attempts} is running"
    if not job.attempts:
        return "waiting for its first attempt"
    return f"{counted(job.attempts, 'attempt')} failed, next in {job.due_in:.0f} s: {job.reason}"
