"""Commands about pending operations: list, forget."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from original_async.models import ALLOCATION
from rewards_core.cli.columns import Column
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail
from rewards_core.operations import DEFAULT_SCOPE, OperationRef
from rewards_core.text import counted
from rewards_core.validation import check_id
from webhooks.cli.ending import run
from webhooks.cli.lists import Nothing, moment, pages, show, time_column, unusual, when
from webhooks.cli.options import DEFAULT_LIMIT, DEFAULT_STORE, KindOption, LimitOption, ScopeOption, StoreOption, UidOption
from webhooks.cli.stores import opened
from webhooks.store.records import PendingOperation, Priority

_WHY = {
    Priority.LOOKUP: "in an event",
    Priority.DEADLINE: "wait ends soon",
    Priority.WISH: "asked for",
    Priority.ROUTINE: "waited for",
    Priority.ABANDONED: "not waited for",
}

_COLUMNS = (
    Column(heading="scope", least=8),
    Column(heading="kind"),
    Column(heading="uid"),
    time_column("since"),
    Column(heading="polls", right=True),
    Column(heading="next poll", right=True),
    Column(heading="why", least=10),
)

pending_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="List operations that have not settled, and stop polling them."
)


@pending_app.command("list")
def list_pending(
    store: StoreOption = DEFAULT_STORE,
    uid: UidOption = None,
    kind: KindOption = None,
    scope: ScopeOption = None,
    limit: LimitOption = DEFAULT_LIMIT,
    as_json: JsonOption = None,
) -> None:
    """List operations that are polled until they settle, in the order of their scopes, kinds and uids.

    Polls need a process that has API credentials: a listener or an application with them.

    Example: webhook-listener pending list --uid 324167489835
    """
    output = Output(as_json)

    async def work() -> None:
        async with opened(store) as inbox:

            async def any_left() -> bool:
                return bool(await inbox.list_pending(limit=1))

            await show(
                output,
                pages(
                    lambda last, most: inbox.list_pending(scope=scope, kind=kind, uid=uid, after=last, limit=most),
                    lambda one: one.ref,
                    limit=limit,
                ),
                columns=_COLUMNS,
                record=_record,
                cells=_cells,
                nothing=Nothing(
                    one="pending operation",
                    none="No pending operations: this store waits for none to settle.",
                    filters={"--uid": uid, "--kind": kind, "--scope": scope},
                    any_left=any_left,
                ),
            )

    run(work)


@pending_app.command("forget")
def forget_pending(
    uids: Annotated[list[str], typer.Argument(help="The operations' uids.")],
    kind: Annotated[str, typer.Option(help="What the uids are of.")] = ALLOCATION,
    scope: Annotated[str, typer.Option(help="The scope of their app.")] = DEFAULT_SCOPE,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = None,
) -> None:
    """Stop polling operations, such as those the vendor does not know; a delivery still settles them.

    What waits for such an operation learns of its end from a delivery alone.

    Example: webhook-listener pending forget 324167489835
    """
    output = Output(as_json)

    async def work() -> None:
        app, what = check_id(scope, "--scope"), check_id(kind, "--kind")
        refs = [OperationRef(app, what, check_id(uid, "uid")) for uid in dict.fromkeys(uids)]
        async with opened(store) as inbox:
            count = await inbox.remove_pending(refs)
        output.record({"forgotten": count}, text=f"{count:,} of {counted(len(refs), 'operation')} forgotten")
        if count < len(refs):
            left = counted(len(refs) - count, f"{what} was", f"{what}s were")
            fail(f"{left} not pending in scope {app}. `webhook-listener pending list` shows what is.", Exit.NOT_FOUND)

    run(work)


def _record(one: PendingOperation) -> dict[str, Any]:
    return {
        "scope": one.ref.scope,
        "kind": one.ref.kind,
        "uid": one.ref.uid,
        "since": moment(one.added_at),
        "polls": one.polls,
        "due_in": round(one.due_in, 1),
        "priority": one.priority.name.lower(),
    }


def _cells(one: PendingOperation) -> dict[str, str]:
    return {
        "scope": unusual(one.ref.scope),
        "kind": one.ref.kind,
        "uid": one.ref.uid,
        "since (UTC)": when(one.added_at),
        "polls": f"{one.polls:,}",
        "next poll": f"in {one.due_in:.0f} s" if one.due_in > 0 else "due",
        "why": _WHY[one.priority],
    }
