"""A log line for each delivery: its event, its operation, what became of it, and how long that took."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rewards_core.text import one_line

if TYPE_CHECKING:
    from rewards_core.operations import Event

deliveries = logging.getLogger("webhooks.deliveries")
"""Logs at INFO; nothing of a body, a signature or a key is in a line or in its fields."""

_LONGEST = 100


def log_delivery(event: Event, verdict: str, seconds: float, peer: object) -> None:
    """Log a signed delivery.

    Args:
        event: What it is.
        verdict: What became of it: `"new"`, `"duplicate"`, `"dead letter"` or `"not kept"`.
        seconds: From the whole body to the verdict.
        peer: Whose request it is.
    """
    name = one_line(event.name, _LONGEST) or "(unnamed)"
    uid = None if event.ref is None else one_line(event.ref.uid, _LONGEST)
    ms = round(seconds * 1_000, 1)
    fields = {"event": name, "uid": uid, "scope": event.scope, "verdict": verdict, "ms": ms, "peer": _words(peer)}
    deliveries.info("%s %s %s %.1f ms", name, uid or "-", verdict, ms, extra=fields)


def log_refused(reason: str, status: int, peer: object) -> None:
    """Log a delivery that was refused, whatever it says it is.

    Args:
        reason: Why, one of a fixed set of words.
        status: The HTTP status that it was answered with.
        peer: Whose request it is.
    """
    fields = {"verdict": "refused", "reason": reason, "status": status, "peer": _words(peer)}
    deliveries.info("- - refused (%s) from %s", reason, fields["peer"] or "-", extra=fields)


def _words(peer: object) -> str | None:
    return None if peer is None else one_line(str(peer), _LONGEST)
