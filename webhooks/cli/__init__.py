"""The command line `webhook-listener`: connects the receiver and a store to a server, and to the keys of a vendor."""

from __future__ import annotations

from rewards_core.cli.commands import command_line
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.program import Program

EXIT_CODES = {
    Exit.OK: "success",
    Exit.FAULT: "internal error",
    Exit.USAGE: "wrong usage, or an extra is missing",
    Exit.FAILED: "the operation failed on the blockchain or was cancelled",
    Exit.NOT_YET: "the time ran out",
    Exit.NOT_FOUND: "no such event, handler or operation",
    Exit.REFUSED: "refused, not confirmed, or a check failed",
    Exit.UNAVAILABLE: "the store, the queue or the listener is unavailable",
    Exit.INTERRUPTED: "interrupted",
}
COMMANDS = {
    "serve": ("webhooks.cli.serve:serve", "Receive deliveries until stopped."),
    "consume": ("webhooks.cli.consume:consume", "Take deliveries from a queue of Amazon SQS until stopped."),
    "capture": ("webhooks.cli.capture.command:capture", "Record the next deliveries and analyze their signatures."),
    "trigger": ("webhooks.cli.trigger:trigger", "Send a sample event, signed as the vendor signs its events."),
    "tail": ("webhooks.cli.tail:tail", "Show events as they arrive. Stop with ctrl-c."),
    "console": (
        "webhooks.cli.console:console",
        "Show a store in a browser, live: events as they arrive, pending operations, dead letters. Stop with ctrl-c.",
    ),
    "wait": (
        "webhooks.cli.wait:wait",
        "Wait until an operation settles. Exit code: 0 done, 3 failed or cancelled, 4 timed out, 5 unknown to the vendor.",
    ),
    "doctor": (
        "webhooks.cli.doctor:doctor",
        "Check keys, clock, store, disk, port, permissions and reachability. Exit code 6 if a check fails.",
    ),
    "events": ("webhooks.cli.events:events_app", "List, show, replay, resend and forget events."),
    "dead-letters": (
        "webhooks.cli.dead_letters:dead_letters_app",
        "List, retry and purge dead letters: events that could not be read or handled.",
    ),
    "handlers": ("webhooks.cli.handlers:handlers_app", "List handlers and their jobs, and retire handlers."),
    "pending": ("webhooks.cli.pending:pending_app", "List operations that have not settled, and stop polling them."),
    "outcomes": ("webhooks.cli.outcomes:outcomes_app", "List how operations settled."),
    "refused": ("webhooks.cli.refused:refused_app", "List the requests that a running listener refused, and what to do."),
    "backup": ("webhooks.cli.backup:backup", "Copy the store to a file, while listeners keep running."),
    "move": (
        "webhooks.cli.move:move",
        "Move a whole store: events with their ids, jobs, dead letters, identities, outcomes and pending operations.",
    ),
}
PROGRAM = Program(
    name="webhook-listener",
    commands=COMMANDS,
    legacy_variables={"WEBHOOK_STORE": "store", "WEBHOOK_FORWARD_TO": "forward-to"},
)
app = command_line(
    PROGRAM,
    help="Receive signed webhooks: store every delivery before it is acknowledged.",
    exit_codes=EXIT_CODES,
)
