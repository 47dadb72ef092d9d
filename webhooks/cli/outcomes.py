"""`webhook-listener outcomes`: list."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from rewards_core.cli.columns import Column
from rewards_core.cli.output import JsonOption, Output, cell
from rewards_core.cli.program import command_group
from rewards_core.operations import OperationStatus
from webhooks.cli.errors import run_command
from webhooks.cli.lists import iso_time, scope_column, time_column, utc_time, write_list
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
from webhooks.cli.stores import open_existing
from webhooks.store.outcomes import same_value
from webhooks.store.paging import pages
from webhooks.store.records import Outcome, StoredOutcome

_MAX_DIFFERENCES = 3

outcomes_app = command_group("List how operations settled.")


class SettledStatus(StrEnum):
    """The statuses of `--status`."""

    DONE = OperationStatus.DONE.value
    FAILED = OperationStatus.FAILED.value
    CANCELLED = OperationStatus.CANCELLED.value


@outcomes_app.command("list")
def list_outcomes(
    store: StoreOption = DEFAULT_STORE,
    uid: UidOption = None,
    status: Annotated[SettledStatus | None, typer.Option(help="Only operations with this status.")] = None,
    kind: KindOption = None,
    scope: ScopeOption = None,
    conflicts: Annotated[
        bool, typer.Option("--conflicts", help="Only outcomes that a later delivery or poll contradicted.")
    ] = False,
    before: BeforeOption = None,
    limit: LimitOption = DEFAULT_LIMIT,
    as_json: JsonOption = None,
) -> None:
    """List how operations settled, newest first: when, and whether by a delivery or a poll.

    The first outcome of an operation is final. A later, different outcome is a conflict: it is shown below the first one, for you
    to check.

    Example: webhook-listener outcomes list --status failed
    """
    output = Output(as_json)
    wanted = None if status is None else OperationStatus(status.value)

    async def work() -> None:
        async with open_existing(store) as inbox:
            found = pages(
                lambda last, limit: inbox.list_outcomes(
                    scope=scope, kind=kind, uid=uid, status=wanted, conflicting=conflicts, before_id=last, limit=limit
                ),
                lambda one: one.id,
                limit=limit,
                start=before,
            )
            filters = {
                "--uid": uid,
                "--status": status,
                "--kind": kind,
                "--scope": scope,
                "--conflicts": conflicts,
                "--before": before,
            }
            await write_list(
                output,
                found,
                columns=_COLUMNS,
                record=_record,
                note=_conflict_note,
                noun="outcome",
                empty="No outcomes yet: no operation has settled in this store.",
                filters=filters,
                find_any=lambda: inbox.list_outcomes(limit=1),
            )

    run_command(work)


def _record(one: StoredOutcome) -> dict[str, Any]:
    return {
        "id": one.id,
        **one.outcome.ref.as_dict(),
        **_outcome_record(one.outcome),
        "conflicts": [_outcome_record(later) for later in one.conflicts],
    }


def _outcome_record(outcome: Outcome) -> dict[str, Any]:
    return {
        "status": str(outcome.status),
        "via": outcome.via,
        "confirmed": outcome.confirmed,
        "settled_at": iso_time(outcome.settled_at),
        "key": outcome.key,
        "resource": outcome.resource,
    }


def _by(outcome: Outcome) -> str:
    return "webhook, confirmed" if outcome.confirmed and outcome.via == "webhook" else outcome.via


_COLUMNS = (
    Column(heading="id", cell=lambda one: str(one.id), right=True),
    time_column("settled", lambda one: one.outcome.settled_at),
    Column(heading="status", cell=lambda one: str(one.outcome.status)),
    Column(heading="by", cell=lambda one: _by(one.outcome)),
    scope_column(lambda one: one.outcome.ref.scope),
    Column(heading="kind", cell=lambda one: one.outcome.ref.kind),
    Column(heading="uid", cell=lambda one: one.outcome.ref.uid),
)


def _conflict_note(one: StoredOutcome) -> str:
    return "; ".join(
        f"conflict: {later.status} by {_by(later)} at {utc_time(later.settled_at)} UTC{_differences(one.outcome, later)}"
        for later in one.conflicts
    )


def _differences(first: Outcome, later: Outcome) -> str:
    """Return the values, other than the status, that both outcomes have and that differ."""
    both = [name for name in first.resource if name in later.resource and name != "status"]
    differing = [name for name in both if not same_value(first.resource[name], later.resource[name])]
    words = [f"{cell(name)} {cell(first.resource[name])}, then {cell(later.resource[name])}" for name in differing]
    return f" ({'; '.join(words[:_MAX_DIFFERENCES])})" if words else ""
