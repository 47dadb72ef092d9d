"""A log line for each delivery: its event, its operation, the verdict and how long it took."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from rewards_core.text import one_line

if TYPE_CHECKING:
    from rewards_core.operations import Event

deliveries = logging.getLogger("webhooks.deliveries")
"""Logs at INFO. Neither the line nor its fields hold anything of a body, a signature or a key."""

Verdict = Literal["new", "duplicate", "dead letter", "not kept"]
"""What became of a signed delivery."""

_MAX_LENGTH = 100


def log_delivery(event: Event, verdict: Verdict, seconds: float, peer: object) -> None:
    """Log a signed delivery, `seconds` after its body arrived."""
    name = one_line(event.name, _MAX_LENGTH) or "(unnamed)"
    uid = None if event.ref is None else one_line(event.ref.uid, _MAX_LENGTH)
    ms = round(seconds * 1_000, 1)
    fields = {"event": name, "uid": uid, "scope": event.scope, "verdict": verdict, "ms": ms, "peer": peer_text(peer)}
    deliveries.info("%s %s %s %.1f ms", name, uid or "-", verdict, ms, extra=fields)


def log_refused(reason: str, status: int, peer: object, seconds: float | None = None) -> None:
    """Log a refused delivery, `seconds` after its body arrived; None if it did not."""
    fields = {"verdict": "refused", "reason": reason, "status": status, "peer": peer_text(peer)}
    took = ""
    if seconds is not None:
        fields["ms"] = ms = round(seconds * 1_000, 1)
        took = f" {ms:.1f} ms"
    deliveries.info("- - refused (%s) from %s%s", reason, fields["peer"] or "-", took, extra=fields)


def peer_text(peer: object) -> str | None:
    """Return a client's address as a line, None if it is unknown."""
    return None if peer is None else one_line(str(peer), _MAX_LENGTH)
