"""`payouts move`: take a ledger from a file to a PostgreSQL database."""

from __future__ import annotations

from typing import Annotated

import typer

from payouts.cli.display import counting_bar
from payouts.cli.options import DEFAULT_LEDGER, ledger_option, with_exit_codes
from payouts.ledger.place import DatabasePlace, FilePlace, LedgerPlace, place_of
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import JsonOption, Output, fail, option_parser
from rewards_core.text import counted


@with_exit_codes
def move(
    ledger: Annotated[LedgerPlace, ledger_option("The file that holds the ledger.", "FILE")] = DEFAULT_LEDGER,
    to: Annotated[
        LedgerPlace | None,
        typer.Option(
            help="The database, which must hold no ledger yet.",
            parser=option_parser(place_of, "--to"),
            metavar="URL",
        ),
    ] = None,
    give_up: Annotated[
        bool, typer.Option("--cancel", help="Give up a move that was interrupted before the database held the ledger.")
    ] = False,
    as_json: JsonOption = None,
) -> None:
    """Move a ledger from a file to a PostgreSQL database, from which any number of workers can pay it.

    Campaigns, rows, keys, decisions, audits and balances keep their numbers, so that payments, retries and audits continue.
    As soon as the move begins, commands that pay or change rows refuse the file; it can still be read.

    After an interruption, run the same command again. While the database does not hold the whole ledger, --cancel lets the file
    be used again.

    For example:

      payouts move --ledger payouts.db --to postgresql://pay@db/payouts

      payouts move --ledger payouts.db --cancel
    """
    output = Output(as_json)
    if not isinstance(ledger, FilePlace):
        fail("--ledger: name the file that is moved. Nothing was changed.", Exit.USAGE)
    if to is not None and not isinstance(to, DatabasePlace):
        fail("--to: name a database, as postgresql://user@host/database. Nothing was changed.", Exit.USAGE)
    try:
        from payouts.ledger import postgres_transfer as transfer  # noqa: PLC0415 - an extra
    except ImportError as missing:
        fail(str(missing), Exit.USAGE)
    if give_up:
        database = transfer.cancel(ledger, to)
        output.record(
            {"event": "cancelled", "from": str(ledger), "to": database},
            text=f"The move to {database} was given up. {ledger} can be paid from again.",
        )
        return
    if to is None:
        raise typer.BadParameter("give --to URL, or --cancel to give a move up.")
    try:
        with counting_bar("copying", output) as bar:
            task = bar.add_task("", total=None)
            counts = transfer.move(ledger, to, lambda copied, total: bar.update(task, completed=copied, total=total))
    except KeyboardInterrupt:
        fail(f"Interrupted. Run the same command again, or: payouts move --ledger {ledger} --cancel", Exit.INTERRUPTED)
    output.record(
        {"event": "moved", "from": str(ledger), "to": str(to), "moved": dict(counts)},
        text=f"{ledger} was moved to {to}: {counted(counts['rows'], 'row')} of {counted(counts['campaigns'], 'campaign')}. The "
        f"file can only be read from now on. To pay: payouts work --ledger {to}",
    )
