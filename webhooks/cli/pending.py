"""Commands about pending operations: list, forget."""

from __future__ import annotations

from typing import Annotated

import typer

from original_async.models import ALLOCATION
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail
from rewards_core.operations import DEFAULT_SCOPE, OperationRef
from rewards_core.text import counted
from rewards_core.validation import check_id
from webhooks.cli.ending import run
from webhooks.cli.inspect import moment
from webhooks.cli.options import DEFAULT_STORE, LARGEST_LIST, StoreOption
from webhooks.cli.stores import opened
from webhooks.store.records import PendingOperation, Priority

_COLUMNS = ("scope", "kind", "uid", "since", "polls", "due_in", "why")
_WHY = {
    Priority.LOOKUP: "an event mentioned it",
    Priority.DEADLINE: "a wait is about to time out",
    Priority.WISH: "a caller asked for it",
    Priority.ROUTINE: "somebody waits for it",
    Priority.ABANDONED: "nobody waits for it",
}

pending_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="List operations that have not settled, and stop polling them."
)


@pending_app.command("list")
def list_pending(
    store: StoreOption = DEFAULT_STORE,
    scope: Annotated[str | None, typer.Option(help="Only operations of this scope.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=LARGEST_LIST)] = 50,
    as_json: JsonOption = None,
) -> None:
    """List operations that are polled until they settle.

    Example: webhook-listener pending list
    """
    output = Output(as_json)

    async def work() -> None:
        async with opened(store) as inbox:
            found = await inbox.list_pending(scope=scope, limit=limit)
        output.table("pending operations", _COLUMNS, map(_told, found))

    run(work)


@pending_app.command("forget")
def forget_pending(
    uids: Annotated[list[str], typer.Argument(help="The operations' uids.")],
    kind: Annotated[str, typer.Option(help="What the uids are of.")] = ALLOCATION,
    scope: Annotated[str, typer.Option(help="The scope of their app.")] = DEFAULT_SCOPE,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Poll operations no longer; a delivery still settles them.

    Example: webhook-listener pending forget 324167489835
    """

    async def work() -> None:
        refs = [OperationRef(check_id(scope, "--scope"), check_id(kind, "--kind"), check_id(uid, "uid")) for uid in uids]
        async with opened(store) as inbox:
            count = await inbox.remove_pending(refs)
        Output(as_json).record({"forgotten": count}, text=f"{count:,} of {counted(len(refs), 'operation')} forgotten")
        if count < len(set(refs)):
            fail(f"{counted(len(set(refs)) - count, 'operation is', 'operations are')} not pending.", Exit.NOT_FOUND)

    run(work)


def _told(one: PendingOperation) -> dict[str, object]:
    return {
        "scope": one.ref.scope,
        "kind": one.ref.kind,
        "uid": one.ref.uid,
        "since": moment(one.added_at),
        "polls": one.polls,
        "due_in": round(one.due_in, 1),
        "why": _WHY[one.priority],
    }
