"""Commands about outcomes: list."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from rewards_core.cli.columns import Column
from rewards_core.cli.output import JsonOption, Output, cell
from rewards_core.cli.program import group_of_one
from rewards_core.operations import OperationStatus
from webhooks.cli.ending import run
from webhooks.cli.lists import Nothing, moment, pages, show, time_column, unusual, when
from webhooks.cli.options import (
    DEFAULT_LIMIT,
    DEFAULT_STORE,
    BeforeOption,
    KindOption,
    LimitOption,
    ScopeOption,
    StoreOption,
    UidOption,
)
from webhooks.cli.stores import opened
from webhooks.store.outcomes import same_value
from webhooks.store.records import Outcome, StoredOutcome

_COLUMNS = (
    Column(heading="id", right=True),
    time_column("settled"),
    Column(heading="status"),
    Column(heading="by"),
    Column(heading="scope", least=8),
    Column(heading="kind"),
    Column(heading="uid"),
)
_DIFFERENCES = 3

outcomes_app = group_of_one("List how operations have settled.")


class Settled(StrEnum):
    """How an operation ends."""

    DONE = OperationStatus.DONE.value
    FAILED = OperationStatus.FAILED.value


@outcomes_app.command("list")
def list_outcomes(
    store: StoreOption = DEFAULT_STORE,
    uid: UidOption = None,
    status: Annotated[Settled | None, typer.Option(help="Only operations that ended so.")] = None,
    kind: KindOption = None,
    scope: ScopeOption = None,
    conflicts: Annotated[
        bool, typer.Option("--conflicts", help="Only outcomes that a later delivery or poll contradicted.")
    ] = False,
    before: BeforeOption = None,
    limit: LimitOption = DEFAULT_LIMIT,
    as_json: JsonOption = None,
) -> None:
    """List how operations have settled, newest first: when, and whether a delivery or a poll said so.

    The first outcome of an operation stands. Later ones that differ from it are shown below it: they are for a person to look at.

    Example: webhook-listener outcomes list --status failed
    """
    output = Output(as_json)
    wanted = None if status is None else OperationStatus(status.value)

    async def work() -> None:
        async with opened(store) as inbox:

            async def any_left() -> bool:
                return bool(await inbox.list_outcomes(limit=1))

            await show(
                output,
                pages(
                    lambda last, most: inbox.list_outcomes(
                        scope=scope, kind=kind, uid=uid, status=wanted, conflicting=conflicts, before_id=last, limit=most
                    ),
                    lambda one: one.id,
                    limit=limit,
                    start=before,
                ),
                columns=_COLUMNS,
                record=_record,
                cells=_cells,
                note=_note,
                nothing=Nothing(
                    one="outcome",
                    none="No outcomes yet: no operation has settled in this store.",
                    filters={
                        "--uid": uid,
                        "--status": status,
                        "--kind": kind,
                        "--scope": scope,
                        "--conflicts": conflicts,
                        "--before": before,
                    },
                    any_left=any_left,
                ),
            )

    run(work)


def _record(one: StoredOutcome) -> dict[str, Any]:
    ref = one.outcome.ref
    return {
        "id": one.id,
        "scope": ref.scope,
        "kind": ref.kind,
        "uid": ref.uid,
        **_said(one.outcome),
        "conflicts": [_said(later) for later in one.conflicts],
    }


def _said(outcome: Outcome) -> dict[str, Any]:
    return {
        "status": str(outcome.status),
        "via": outcome.via,
        "confirmed": outcome.confirmed,
        "settled_at": moment(outcome.settled_at),
        "key": outcome.key,
        "resource": outcome.resource,
    }


def _cells(one: StoredOutcome) -> dict[str, str]:
    outcome = one.outcome
    return {
        "id": str(one.id),
        "settled (UTC)": when(outcome.settled_at),
        "status": str(outcome.status),
        "by": _by(outcome),
        "scope": unusual(outcome.ref.scope),
        "kind": outcome.ref.kind,
        "uid": outcome.ref.uid,
    }


def _by(outcome: Outcome) -> str:
    return "webhook, confirmed" if outcome.confirmed and outcome.via == "webhook" else outcome.via


def _note(one: StoredOutcome) -> str:
    return "; ".join(
        f"later {later.status} by {_by(later)} at {when(later.settled_at)} UTC{_differences(one.outcome, later)}"
        for later in one.conflicts
    )


def _differences(first: Outcome, later: Outcome) -> str:
    """Return the values that both name and that differ, apart from the status."""
    both = [name for name in first.resource if name in later.resource and name != "status"]
    differing = [name for name in both if not same_value(first.resource[name], later.resource[name])]
    told = [f"{cell(name)} {cell(first.resource[name])}, then {cell(later.resource[name])}" for name in differing[:_DIFFERENCES]]
    return f" ({'; '.join(told)})" if told else ""
