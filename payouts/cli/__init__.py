"""The command line `payouts`: what wires files, ledger, clients, webhooks and reports together."""

from __future__ import annotations

import typer

from payouts.cli.auditing import audit
from payouts.cli.by_hand import retry
from payouts.cli.deciding import list_decisions
from payouts.cli.looking import report, status
from payouts.cli.resolving import resolve
from payouts.cli.running import run
from payouts.cli.terminal import EXIT_CODES

app = typer.Typer(
    name="payouts",
    help="Pay a file of rewards, every row exactly once, and say what became of it.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(run)
app.command()(status)
app.command()(retry)
app.command()(resolve)
app.command("decisions")(list_decisions)
app.command()(report)
app.command()(audit)
