"""The command line `webhook-listener`: what wires receiver, store, server and a vendor's keys together."""

from __future__ import annotations

from rewards_core.cli.commands import command_line
from rewards_core.cli.exit_codes import Exit, exit_codes
from rewards_core.cli.program import Program

EXIT_CODES = exit_codes(
    {
        Exit.OK: "done",
        Exit.FAULT: "a fault of the program",
        Exit.USAGE: "wrong usage, or an extra is missing",
        Exit.FAILED: "the operation failed on the blockchain",
        Exit.NOT_YET: "the time ran out",
        Exit.NOT_FOUND: "no such event, handler or operation",
        Exit.REFUSED: "refused, not confirmed, or a check failed",
        Exit.UNAVAILABLE: "the store or the listener cannot be reached",
        Exit.INTERRUPTED: "interrupted",
    }
)

COMMANDS = {
    "serve": ("webhooks.cli.serve:serve", "Take deliveries until told to stop."),
    "capture": ("webhooks.cli.capture.command:capture", "Keep the next deliveries as they arrive, and say how they read."),
    "trigger": ("webhooks.cli.trigger:trigger", "Sign a sample event as the vendor does and send it."),
    "tail": ("webhooks.cli.tail:tail", "Show events as they come; ctrl-c ends."),
    "wait": (
        "webhooks.cli.wait:wait",
        "Wait until an operation is settled: exit code 0 done, 3 failed, 4 not in time, 5 unknown to the vendor.",
    ),
    "doctor": (
        "webhooks.cli.doctor:doctor",
        "Look at keys, clock, store, disk, SQLite, port, permissions and reachability; exit code 6 if something is wrong.",
    ),
    "events": ("webhooks.cli.inspect:events_app", "List, show, replay, resend and forget events."),
    "dead-letters": (
        "webhooks.cli.dead_letters:dead_app",
        "List, retry and purge dead letters: events that could not be read or handled.",
    ),
    "handlers": ("webhooks.cli.handlers:handlers_app", "List handlers and their jobs, and retire handlers."),
    "pending": ("webhooks.cli.pending:pending_app", "List operations that have not settled, and stop polling them."),
    "outcomes": ("webhooks.cli.outcomes:outcomes_app", "List how operations have settled."),
    "refused": ("webhooks.cli.refused:refused_app", "List what a running listener refused, and what to do."),
    "backup": ("webhooks.cli.backup:backup", "Copy the store into a file while listeners go on to write it."),
}
PROGRAM = Program(
    name="webhook-listener",
    commands=COMMANDS,
    older={"WEBHOOK_STORE": "store", "WEBHOOK_FORWARD_TO": "forward-to"},
)
app = command_line(
    PROGRAM,
    help="Receive signed webhooks, keep them, and acknowledge nothing that is not kept.",
    epilog=EXIT_CODES,
)
