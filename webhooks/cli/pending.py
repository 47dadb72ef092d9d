"""`webhook-listener pending`: list, forget."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from original_async.kinds import ALLOCATION
from rewards_core.cli.columns import Column
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail
from rewards_core.cli.program import command_group
from rewards_core.operations import DEFAULT_SCOPE, OperationRef
from rewards_core.text import counted
from rewards_core.validation import check_id
from webhooks.cli.errors import run_command
from webhooks.cli.lists import iso_time, scope_column, time_column, write_list
from webhooks.cli.options import DEFAULT_LIMIT, DEFAULT_STORE, KindOption, LimitOption, ScopeOption, StoreOption, UidOption
from webhooks.cli.stores import open_existing
from webhooks.store.paging import pages
from webhooks.store.records import PendingOperation, Priority

_WHY = {
    Priority.LOOKUP: "in an event",
    Priority.DEADLINE: "wait ends soon",
    Priority.WISH: "requested",
    Priority.ROUTINE: "waited for",
    Priority.ABANDONED: "not waited for",
}
_COLUMNS = (
    scope_column(lambda one: one.ref.scope),
    Column(heading="kind", cell=lambda one: one.ref.kind),
    Column(heading="uid", cell=lambda one: one.ref.uid),
    time_column("since", lambda one: one.added_at),
    Column(heading="polls", cell=lambda one: f"{one.polls:,}", right=True),
    Column(heading="next poll", cell=lambda one: f"in {one.due_in:.0f} s" if one.due_in > 0 else "due", right=True),
    Column(heading="why", cell=lambda one: _WHY[one.priority], min_cut=10),
)

pending_app = command_group("List operations that have not settled, and stop polling them.")


@pending_app.command("list")
def list_pending(
    store: StoreOption = DEFAULT_STORE,
    uid: UidOption = None,
    kind: KindOption = None,
    scope: ScopeOption = None,
    limit: LimitOption = DEFAULT_LIMIT,
    as_json: JsonOption = None,
) -> None:
    """List operations that are polled until they settle, ordered by scope, kind and uid.

    Only processes with API credentials poll: a listener or an application that has them.

    Example: webhook-listener pending list --uid 324167489835
    """
    output = Output(as_json)

    async def work() -> None:
        async with open_existing(store) as inbox:
            found = pages(
                lambda last, limit: inbox.list_pending(scope=scope, kind=kind, uid=uid, after=last, limit=limit),
                lambda one: one.ref,
                limit=limit,
            )
            await write_list(
                output,
                found,
                columns=_COLUMNS,
                record=_record,
                noun="pending operation",
                empty="No pending operations: this store polls none.",
                filters={"--uid": uid, "--kind": kind, "--scope": scope},
                find_any=lambda: inbox.list_pending(limit=1),
            )

    run_command(work)


@pending_app.command("forget")
def forget_pending(
    uids: Annotated[list[str], typer.Argument(help="Uids of operations.")],
    kind: Annotated[str, typer.Option(help="The kind of these operations.")] = ALLOCATION,
    scope: Annotated[str, typer.Option(help="The scope of these operations.")] = DEFAULT_SCOPE,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Stop polling operations, such as those that the vendor does not know. A delivery still settles them.

    Callers that wait for such an operation are then woken by a delivery only.

    Example: webhook-listener pending forget 324167489835
    """
    output = Output(as_json)

    async def work() -> None:
        app, what = check_id(scope, "--scope"), check_id(kind, "--kind")
        refs = [OperationRef(app, what, check_id(uid, "uid")) for uid in dict.fromkeys(uids)]
        async with open_existing(store) as inbox:
            count = await inbox.remove_pending(refs)
        output.record({"forgotten": count}, text=f"{count:,} of {counted(len(refs), 'operation')} forgotten")
        if count < len(refs):
            left = counted(len(refs) - count, f"{what} was", f"{what}s were")
            fail(f"{left} not pending in scope {app}. `webhook-listener pending list` shows all.", Exit.NOT_FOUND)

    run_command(work)


def _record(one: PendingOperation) -> dict[str, Any]:
    return {
        **one.ref.as_dict(),
        "since": iso_time(one.added_at),
        "polls": one.polls,
        "due_in": round(one.due_in, 1),
        "priority": one.priority.name.lower(),
    }
