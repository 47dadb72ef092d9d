"""The command line `webhook-listener`: what wires receiver, store, server and a vendor's keys together."""

from __future__ import annotations

import typer

from webhooks.cli.doctor import doctor
from webhooks.cli.looking import dead_app, events_app, tail
from webhooks.cli.serve import serve
from webhooks.cli.terminal import EXIT_CODES
from webhooks.cli.trigger import trigger
from webhooks.cli.waiting import wait

app = typer.Typer(
    name="webhook-listener",
    help="Receive signed webhooks, keep them, and acknowledge nothing that is not kept.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(serve)
app.command()(trigger)
app.command()(tail)
app.add_typer(events_app, name="events")
app.add_typer(dead_app, name="dead-letters")
app.command()(wait)
app.command()(doctor)
