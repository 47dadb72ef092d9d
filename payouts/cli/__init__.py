"""The command line `payouts`: what wires files, ledger, clients, webhooks and reports together."""

from __future__ import annotations

from rewards_core.cli.commands import command_line

EXIT_CODES = (
    "Exit codes: 0 every row is paid, or the command did what was asked; 1 a fault of the program; 2 wrong usage, a "
    "bad file, or an extra is missing; 3 rows are rejected, failed, mismatched or unknown, or an audit found "
    "differences; 4 not finished: run the same command again; 5 no such row or campaign; 6 a check failed or somebody "
    "said no, nothing was changed; 7 the ledger is in use, is an older copy or cannot be used, or the vendor cannot "
    "be reached, or refuses the credentials or row after row; 130 interrupted, 143 asked to end by SIGTERM, 129 by a "
    "terminal that hung up."
)

COMMANDS = {
    "run": (
        "payouts.cli.running:run",
        "Pay every row of a file once, however often this is interrupted and started again.",
    ),
    "status": (
        "payouts.cli.looking:status",
        "Show the progress of a campaign, or list the campaigns of a ledger that has several; a run may be under way.",
    ),
    "retry": ("payouts.cli.by_hand:retry", "Give rejected or failed rows a new key, so that the next run pays them."),
    "resolve": (
        "payouts.cli.resolving:resolve",
        "Settle unknown rows by hand, and correct rows that are called rejected although they were paid.",
    ),
    "decisions": (
        "payouts.cli.deciding:list_decisions",
        "List what was decided by hand or corrected by an audit: when, by whom, about which row, and why.",
    ),
    "report": (
        "payouts.cli.looking:report",
        "Write the report of a campaign: one HTML file that loads nothing else.",
    ),
    "audit": ("payouts.cli.auditing:audit", "Compare the ledger with the vendor's books; nothing is sent."),
}
app = command_line(
    "payouts",
    help="Pay a file of rewards, every row exactly once, and say what became of it.",
    epilog=EXIT_CODES,
    commands=COMMANDS,
)
