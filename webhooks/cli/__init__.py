"""The command line `webhook-listener`: what wires receiver, store, server and a vendor's keys together."""

from __future__ import annotations

from rewards_core.cli.commands import command_line
from rewards_core.cli.exit_codes import Exit, exit_codes

EXIT_CODES = exit_codes(
    {
        Exit.OK: "done",
        Exit.FAULT: "a fault of the program",
        Exit.USAGE: "wrong usage, or an extra is missing",
        Exit.FAILED: "the operation failed on the blockchain",
        Exit.NOT_YET: "the time ran out",
        Exit.NOT_FOUND: "no such event or operation",
        Exit.REFUSED: "refused, or a check failed",
        Exit.UNAVAILABLE: "the store or the listener cannot be reached, or another process is writing the store",
        Exit.INTERRUPTED: "interrupted",
    }
)

COMMANDS = {
    "serve": ("webhooks.cli.serve:serve", "Take deliveries until told to stop."),
    "trigger": ("webhooks.cli.trigger:trigger", "Sign a sample event as the vendor does and send it."),
    "tail": ("webhooks.cli.looking:tail", "Show events as they come; ctrl-c ends."),
    "wait": (
        "webhooks.cli.waiting:wait",
        "Wait until an operation is settled: exit code 0 done, 3 failed, 4 not in time, 5 unknown to the vendor.",
    ),
    "doctor": (
        "webhooks.cli.doctor:doctor",
        "Look at keys, clock, store, SQLite, disk, port, permissions and reachability; exit code 6 if something is wrong.",
    ),
    "events": ("webhooks.cli.looking:events_app", "Look at events, and let them be handled again."),
    "dead-letters": (
        "webhooks.cli.looking:dead_app",
        "Look at dead letters: events that could not be read or handled.",
    ),
}
app = command_line(
    "webhook-listener",
    help="Receive signed webhooks, keep them, and acknowledge nothing that is not kept.",
    epilog=EXIT_CODES,
    commands=COMMANDS,
)
