"""Commands about handlers: list, retire."""

from __future__ import annotations

from typing import Annotated

import typer

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail
from rewards_core.text import counted
from webhooks.cli.ending import run
from webhooks.cli.options import DEFAULT_STORE, StoreOption
from webhooks.cli.stores import opened
from webhooks.store.records import DEFAULT_SERVICE, UNSERVED_DAYS, HandlerStatus, job_name

_COLUMNS = ("service", "handler", "scope", "events", "served", "ready", "dead")

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
        output.table("handlers", _COLUMNS, (_told(one) for one in found))
        waiting = sorted({one.subscription.handler for one in found if one.ready and not one.served})
        if waiting:
            output.note(
                f"No process runs {', '.join(waiting)}; the jobs wait, and become dead letters after {UNSERVED_DAYS} days. "
                "Start what runs them, or end the waiting with `handlers retire`."
            )
        differing = sorted({one.subscription.handler for one in found if one.differing})
        if differing:
            output.note(f"Processes have registered different events for {', '.join(differing)}; the newest registration holds.")

    run(work)


@handlers_app.command("retire")
def retire_handler(
    handler: Annotated[str, typer.Argument(help="The handler's name.")],
    service: Annotated[str, typer.Option(help="The service it belongs to.")] = DEFAULT_SERVICE,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Make no more jobs for a handler, and make its waiting jobs dead letters; they can be retried.

    A process that still runs the handler registers it again when it starts.

    Example: webhook-listener handlers retire shop.orders.credit
    """

    async def work() -> None:
        async with opened(store) as inbox:
            names = {one.subscription.job_name for one in await inbox.list_handlers()}
            if job_name(service, handler) not in names:
                fail(f"There is no handler {handler} of service {service}; see `handlers list`.", Exit.NOT_FOUND)
            count = await inbox.retire_handler(service, handler)
        text = f"{handler} retired; {counted(count, 'job')} became dead letters"
        Output(as_json).record({"handler": handler, "service": service, "dead": count}, text=text)

    run(work)


def _told(one: HandlerStatus) -> dict[str, object]:
    subscription = one.subscription
    return {
        "service": subscription.service,
        "handler": subscription.handler,
        "scope": subscription.scope,
        "events": ", ".join(sorted(subscription.patterns)),
        "served": one.served,
        "ready": one.ready,
        "dead": one.dead,
        "differing": one.differing,
    }
