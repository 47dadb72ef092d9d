"""Commands about handlers: list, retire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

import typer

from rewards_core.cli.columns import Column
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail
from rewards_core.text import counted
from webhooks.cli.ending import run
from webhooks.cli.lists import Nothing, show, unusual
from webhooks.cli.options import DEFAULT_STORE, StoreOption
from webhooks.cli.requeue import note_unserved
from webhooks.cli.stores import opened
from webhooks.store.records import DEFAULT_SERVICE, HandlerStatus, job_name

_COLUMNS = (
    Column(heading="service"),
    Column(heading="handler"),
    Column(heading="scope", least=8),
    Column(heading="served"),
    Column(heading="ready", right=True),
    Column(heading="dead", right=True),
    Column(heading="events", least=16),
)

handlers_app = typer.Typer(no_args_is_help=True, add_completion=False, help="List handlers and their jobs, and retire handlers.")


@handlers_app.command("list")
def list_handlers(store: StoreOption = DEFAULT_STORE, as_json: JsonOption = None) -> None:
    """List every handler that has registered, whether a process runs it now, and its jobs.

    Jobs of a handler that no process runs wait for it; after 14 days they become dead letters.

    Example: webhook-listener handlers list
    """
    output = Output(as_json)

    async def work() -> None:
        async with opened(store) as inbox:
            found = await inbox.list_handlers()
        nothing = Nothing(
            one="handler", none="No handlers: none has registered yet. They do when the process that has them starts."
        )
        await show(output, _each(found), columns=_COLUMNS, record=_record, cells=_cells, nothing=nothing)
        note_unserved(output, found)
        differing = sorted({one.subscription.handler for one in found if one.differing})
        if differing:
            output.note(
                f"Running processes have registered {', '.join(differing)} for different events. The newest registration, shown "
                "here, applies to all: restart the processes that run older code."
            )

    run(work)


@handlers_app.command("retire")
def retire_handler(
    handler: Annotated[str, typer.Argument(help="The handler's name.")],
    service: Annotated[str, typer.Option(help="The service it belongs to.")] = DEFAULT_SERVICE,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Make no more jobs for a handler, and make its waiting jobs dead letters; they can be retried.

    For a handler that was renamed or removed. A process that has the handler registers it again whenever it starts.

    Example: webhook-listener handlers retire shop.orders.credit
    """
    output = Output(as_json)

    async def work() -> None:
        async with opened(store) as inbox:
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
            output.note("A process still runs it, and registers it again when it starts. Remove the handler from its code.")

    run(work, interrupted="Interrupted. Run the same command again to retire the handler and all of its jobs.")


async def _each(found: Sequence[HandlerStatus]) -> AsyncIterator[HandlerStatus]:
    for one in found:
        yield one


def _record(one: HandlerStatus) -> dict[str, Any]:
    subscription = one.subscription
    return {
        "service": subscription.service,
        "handler": subscription.handler,
        "scope": subscription.scope,
        "events": sorted(subscription.patterns),
        "served": one.served,
        "ready": one.ready,
        "dead": one.dead,
        "differing": one.differing,
    }


def _cells(one: HandlerStatus) -> dict[str, str]:
    subscription = one.subscription
    return {
        "service": "" if subscription.service == DEFAULT_SERVICE else subscription.service,
        "handler": subscription.handler,
        "scope": unusual(subscription.scope),
        "served": "yes" if one.served else "no",
        "ready": f"{one.ready:,}",
        "dead": f"{one.dead:,}",
        "events": ", ".join(sorted(subscription.patterns)),
    }
