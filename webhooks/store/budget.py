"""The budget of requests of all processes that poll a scope, as a value that a store keeps."""

from __future__ import annotations

from attrs import evolve, frozen

HORIZON = 0.1
"""Seconds ahead for which requests are granted."""
FURTHER_EVERY = 2
"""While operations are due, at most one request in two is granted without a claim: for a lookup, or a further page of it."""
ABANDONED_SHARE = 0.1
"""The share of the budget for operations without a waiter."""
REFUSED_EVERY = 10.0
"""Seconds between two polls while the vendor refuses them."""
_MARGIN = 1.05
"""The factor by which intervals exceed those of the rate, so that a late request does not exceed the budget of a second."""
_EARLY = 1e-6
"""Seconds by which a request may be granted early, so that rounding does not make a caller retry."""
RATE_HOLDS = 30.0
"""Seconds for which a process's rate limit applies to all."""


@frozen
class Budget:
    """When the next requests may be sent, evenly spaced. Times are the store's own.

    Attributes:
        next_at: When the next request may be sent.
        abandoned_at: When the next poll of an operation without a waiter may be sent.
        further_at: When the next request without a claim may be sent, while operations are due.
        paused_until: The end of the current pause.
        refusals: Consecutive pauses because of refusals.
    """

    next_at: float = 0.0
    abandoned_at: float = 0.0
    further_at: float = 0.0
    paused_until: float = 0.0
    refusals: int = 0

    def starts_at(self, now: float) -> float:
        """Return when a request that is granted now may be sent."""
        return max(now, self.next_at, self.paused_until)

    def spacing(self, per_second: float) -> float:
        """Return the seconds between two requests."""
        return max(_MARGIN / per_second, REFUSED_EVERY if self.refusals else 0.0)

    def room(self, now: float, limit: int, per_second: float) -> int:
        """Return how many requests may be granted now."""
        left = now + HORIZON - self.starts_at(now) + _EARLY
        if left < 0:
            return 0
        return min(limit, 1 if self.refusals else int(left / self.spacing(per_second)) + 1)

    def take(self, now: float, count: int, per_second: float, *, abandoned: bool = False) -> Budget:
        """Return the budget after granting some requests, one of them for an `abandoned` operation."""
        start, spacing = self.starts_at(now), self.spacing(per_second)
        abandoned_at = start + spacing / ABANDONED_SHARE if abandoned else self.abandoned_at
        return evolve(self, next_at=start + count * spacing, abandoned_at=abandoned_at)

    def further_in(self, now: float, *, due: bool) -> float:
        """Return the seconds until a request without a claim may be granted; if operations are due, they alternate."""
        opens = max(self.further_at, self.paused_until) if due else self.starts_at(now)
        left = opens - HORIZON - now
        return left if left > _EARLY else 0.0

    def take_further(self, now: float, per_second: float) -> Budget:
        """Return the budget after granting a request without a claim."""
        further_at = self.starts_at(now) + FURTHER_EVERY * self.spacing(per_second)
        return evolve(self.take(now, 1, per_second), further_at=further_at)

    def pause(self, now: float, seconds: float, *, refused: bool) -> Budget:
        """Return the budget after the vendor asked for a pause, or refused; refusals during a pause count once."""
        until = max(self.paused_until, now + seconds)
        refusals = self.refusals + (refused and self.paused_until <= now)
        return evolve(self, next_at=max(self.next_at, until), paused_until=until, refusals=refusals)

    def answered(self, now: float) -> Budget:
        """Return the budget after the vendor answered."""
        return evolve(self, refusals=0, next_at=min(self.next_at, now)) if self.refusals else self
