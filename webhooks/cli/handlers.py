"""`webhook-listener handlers`: list, retire."""

from __future__ import annotations

from typing import Annotated

import typer

from rewards_core.cli.columns import Column
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail
from rewards_core.cli.program import command_group
from rewards_core.text import counted
from webhooks.cli.errors import run_command
from webhooks.cli.lists import scope_column, write_list
from webhooks.cli.options import DEFAULT_STORE, StoreOption
from webhooks.cli.requeue import note_unserved
from webhooks.cli.stores import open_existing
from webhooks.store.facts import handler_facts
from webhooks.store.records import DEFAULT_SERVICE, job_name

_COLUMNS = (
    Column(heading="service", cell=lambda one: "" if one.subscription.service == DEFAULT_SERVICE else one.subscription.service),
    Column(heading="handler", cell=lambda one: one.subscription.handler),
    scope_column(lambda one: one.subscription.scope),
    Column(heading="served", cell=lambda one: "yes" if one.served else "no"),
    Column(heading="ready", cell=lambda one: f"{one.ready:,}", right=True),
    Column(heading="dead", cell=lambda one: f"{one.dead:,}", right=True),
    Column(heading="events", cell=lambda one: ", ".join(sorted(one.subscription.patterns)), min_cut=16),
)

handlers_app = command_group("List handlers and their jobs, and retire handlers.")


@handlers_app.command("list")
def list_handlers(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = None) -> None:
    """List every registered handler, whether a running process serves it, and its jobs.

    If no process serves a handler, its jobs wait; after 14 days they become dead letters.

    Example: webhook-listener handlers list
    """
    output = Output(as_json)

    async def work() -> None:
        async with open_existing(store) as inbox:
            found = await inbox.list_handlers()
        empty = "No handlers. A handler registers when its process starts."
        await write_list(output, found, columns=_COLUMNS, record=handler_facts, noun="handler", empty=empty)
        note_unserved(output, found)
        differing = sorted({one.subscription.handler for one in found if one.differing})
        if differing:
            output.note(
                f"Running processes registered {', '.join(differing)} for different events. The newest registration, listed "
                "here, applies to all of them. Restart the processes that run older code."
            )

    run_command(work)


@handlers_app.command("retire")
def retire_handler(
    handler: Annotated[str, typer.Argument(help="The handler's name.")],
    service: Annotated[str, typer.Option(help="The handler's service.")] = DEFAULT_SERVICE,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Stop creating jobs for a handler, and turn its waiting jobs into dead letters, which can be retried.

    Use it for a handler that was renamed or removed. A process that still has the handler registers it again when it starts.

    Example: webhook-listener handlers retire shop.orders.credit
    """
    output = Output(as_json)

    async def work() -> None:
        async with open_existing(store) as inbox:
            name = job_name(service, handler)
            found = [one for one in await inbox.list_handlers() if one.subscription.job_name == name]
            if not found:
                fail(
                    f"There is no handler {handler} of service {service}. Nothing was changed. "
                    "`webhook-listener handlers list` shows all.",
                    Exit.NOT_FOUND,
                )
            count = await inbox.retire_handler(service, handler)
        text = f"{handler} retired; {counted(count, 'waiting job')} became {'a dead letter' if count == 1 else 'dead letters'}"
        output.record({"service": service, "handler": handler, "dead": count}, text=text)
        if any(one.served for one in found):
            output.note("A running process still serves it, and registers it again when it restarts. Remove it from the code.")

    run_command(work, interrupted="Interrupted. Run the same command again to retire the handler and all of its jobs.")
