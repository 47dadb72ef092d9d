"""The command line `webhook-listener`: what wires receiver, store, server and a vendor's keys together."""

from __future__ import annotations

from rewards_core.cli.commands import command_line

EXIT_CODES = (
    "Exit codes: 0 done; 1 a fault of the program; 2 wrong usage, or an extra is missing; 3 the operation "
    "failed on the blockchain; 4 the time ran out; 5 no such event or operation; 6 refused, or a check failed; 7 the "
    "store or the listener cannot be reached, or another process is writing the store."
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
