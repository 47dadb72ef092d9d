"""The command line `payouts`: what wires files, ledger, clients, webhooks and reports together."""

from __future__ import annotations

from rewards_core.cli.commands import command_line
from rewards_core.cli.exit_codes import Exit, exit_codes
from rewards_core.cli.program import Program

EXIT_CODES = exit_codes(
    {
        Exit.OK: "every row is paid, or the command did what was asked",
        Exit.FAULT: "a fault of the program",
        Exit.USAGE: "wrong usage, a bad file, or an extra is missing",
        Exit.FAILED: "rows are rejected, failed, mismatched or unknown, or an audit found differences",
        Exit.NOT_YET: "not finished: run the same command again",
        Exit.NOT_FOUND: "no such row or campaign",
        Exit.REFUSED: "a check failed or somebody said no, nothing was changed",
        Exit.UNAVAILABLE: "the ledger is in use, is an older copy or cannot be used, or the vendor cannot be reached, or refuses "
        "the credentials or row after row",
        Exit.HUNG_UP: "ended by a terminal that hung up",
        Exit.INTERRUPTED: "interrupted",
        Exit.TERMINATED: "asked to end by SIGTERM",
    }
)

COMMANDS = {
    "run": (
        "payouts.cli.run:run",
        "Pay every row of a file once, however often this is interrupted and started again.",
    ),
    "status": (
        "payouts.cli.status:status",
        "Show the progress of a campaign, or list the campaigns of a ledger that has several; a run may be under way.",
    ),
    "retry": ("payouts.cli.retry:retry", "Give rejected or failed rows a new key, so that the next run pays them."),
    "resolve": (
        "payouts.cli.resolve:resolve",
        "Settle unknown rows by hand, and correct rows that are called rejected although they were paid.",
    ),
    "decisions": (
        "payouts.cli.reports:list_decisions",
        "List what was decided by hand or corrected by an audit: when, by whom, about which row, and why.",
    ),
    "report": (
        "payouts.cli.status:report",
        "Write the report of a campaign: one HTML file that loads nothing else.",
    ),
    "audit": ("payouts.cli.audit:audit", "Compare the ledger with the vendor's books; nothing is sent."),
}
PROGRAM = Program(name="payouts", commands=COMMANDS, apart=frozenset({"snapshot"}))
app = command_line(
    PROGRAM,
    help="Pay a file of rewards, every row exactly once, and say what became of it.",
    epilog=EXIT_CODES,
)
