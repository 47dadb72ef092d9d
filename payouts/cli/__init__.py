"""The command line `payouts`: it connects files, the ledger, clients, webhooks and reports."""

from __future__ import annotations

from rewards_core.cli.commands import command_line
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.program import Program

EXIT_CODES = {
    Exit.OK: "every row is paid, or the command succeeded",
    Exit.FAULT: "internal error",
    Exit.USAGE: "wrong usage, a bad file, or a missing extra",
    Exit.FAILED: "rows are rejected, failed, mismatched or unknown, or an audit found differences",
    Exit.NOT_YET: "not finished: run the same command again",
    Exit.NOT_FOUND: "no such row or campaign",
    Exit.REFUSED: "a check failed or a person declined; nothing was changed",
    Exit.UNAVAILABLE: "the ledger is in use, is an older copy or cannot be used, or the vendor cannot be reached, rejects "
    "the credentials or refuses row after row",
    Exit.HUNG_UP: "the terminal hung up",
    Exit.INTERRUPTED: "interrupted",
    Exit.TERMINATED: "terminated by SIGTERM",
}

COMMANDS = {
    "run": (
        "payouts.cli.run:run",
        "Pay every row of a file exactly once; to resume, run the same command again.",
    ),
    "plan": (
        "payouts.cli.plan:plan",
        "Write the rows of a file into a PostgreSQL ledger, from which any number of workers pay them.",
    ),
    "work": (
        "payouts.cli.work:work",
        "Pay the planned rows of a PostgreSQL ledger, beside any number of other workers, until every row has ended.",
    ),
    "pause": ("payouts.cli.work:pause", "Stop all workers from sending rows of a campaign, until `payouts resume`."),
    "resume": ("payouts.cli.work:resume", "Let workers send rows of a campaign again, after `payouts pause` or `payouts stop`."),
    "stop": ("payouts.cli.work:stop", "Stop all workers of a campaign, after the vendor has answered the rows that they sent."),
    "status": (
        "payouts.cli.status:status",
        "Show the progress of a campaign, or list the campaigns of a ledger; also during a run.",
    ),
    "retry": ("payouts.cli.retry:retry", "Give rejected or failed rows a new key, so that the next run pays them."),
    "resolve": (
        "payouts.cli.resolve:resolve",
        "Settle unknown rows by hand, and correct rejected rows that were paid.",
    ),
    "decisions": (
        "payouts.cli.reports:list_decisions",
        "List decisions made by hand or by an audit: when, by whom, on which row, and why.",
    ),
    "report": (
        "payouts.cli.reports:report",
        "Write the report of a campaign as one self-contained HTML file.",
    ),
    "move": (
        "payouts.cli.move:move",
        "Move a ledger from a file to a PostgreSQL database, from which any number of workers can pay it.",
    ),
    "audit": ("payouts.cli.audit:audit", "Compare the ledger with the vendor's books; nothing is sent."),
}
PROGRAM = Program(name="payouts", commands=COMMANDS, ambiguous=frozenset({"snapshot"}))
app = command_line(
    PROGRAM,
    help="Pay a file of rewards, every row exactly once, and report the result.",
    exit_codes=EXIT_CODES,
)
