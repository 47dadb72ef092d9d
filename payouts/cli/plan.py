"""`payouts plan`: write the rows of a file into a ledger from which any number of workers pay."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer
from attrs import frozen

from payouts.cli.file_options import CheckOptions, FileOptions
from payouts.cli.options import SharedLedgerOption, require_database, with_exit_codes
from payouts.cli.planning import planned, prepared
from rewards_core.cli.option_groups import with_option_groups
from rewards_core.cli.output import JsonOption, Output
from rewards_core.text import counted


@frozen(kw_only=True)
class _FileToPlan(FileOptions):
    ledger: SharedLedgerOption


@frozen(kw_only=True)
class _ChecksToPlan(CheckOptions):
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row; plan nothing.")] = False
    max_total: Annotated[
        str | None, typer.Option(help="Plan nothing if the rows of one reward add up to more.", metavar="AMOUNT")
    ] = None


@with_exit_codes
@with_option_groups
def plan(
    file: _FileToPlan,
    checks: _ChecksToPlan,
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="EnKash: store the users' balances first, for `payouts audit`.")
    ] = False,
    as_json: JsonOption = None,
) -> None:
    """Write the rows of a file into a PostgreSQL ledger, from which any number of workers pay them.

    The file is checked as in `payouts run`, and you are asked to confirm: running workers send planned rows at once. To add
    rows, or after an interruption, run the same command again; known rows are not planned twice.

    For example:

      export PAYOUTS_LEDGER=postgresql://pay@db/payouts

      payouts plan rewards.csv --vendor original --campaign diwali

      payouts work --campaign diwali
    """
    require_database(file.ledger)
    file.check(snapshot=snapshot)
    output = Output(as_json)
    with ExitStack() as stack:
        source, lock = prepared(file, checks, output, stack, before_asking=lambda: None)
        if checks.dry_run:
            return
        planned(source, file.ledger, lock, output, snapshot=snapshot)
    command = f"payouts work --campaign {file.campaign} --ledger {file.ledger}"
    told = f"{counted(source.rows, 'row is', 'rows are')} in campaign {file.campaign}. To pay them, on any machine: {command}"
    output.record({"event": "planned", "campaign": file.campaign, "rows": source.rows}, text=told)
