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
    ms = _ms(seconds)
    fields = {"event": name, "uid": uid, "scope": event.scope, "verdict": verdict, "ms": ms, "peer": _words(peer)}
    deliveries.info("%s %s %s %.1f ms", name, uid or "-", verdict, ms, extra=fields)


def log_refused(reason: str, status: int, peer: object, seconds: float | None = None) -> None:
    """Log a delivery that was refused, whatever it says it is.

    Args:
        reason: Why, one of a fixed set of words.
        status: The HTTP status that it was answered with.
        peer: Whose request it is.
        seconds: From the whole body to the refusal, None for one that came before it.
    """
    fields = {"verdict": "refused", "reason": reason, "status": status, "peer": _words(peer)}
    took = ""
    if seconds is not None:
        fields["ms"] = ms = _ms(seconds)
        took = f" {ms:.1f} ms"
    deliveries.info("- - refused (%s) from %s%s", reason, fields["peer"] or "-", took, extra=fields)


def _ms(seconds: float) -> float:
    return round(seconds * 1_000, 1)


def _words(peer: object) -> str | None:
    return None if peer is None else one_line(str(peer), _LONGEST)
