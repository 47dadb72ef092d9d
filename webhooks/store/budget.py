"""How many requests may leave, and when: one budget for all that poll a scope, as a value that a store keeps."""

from __future__ import annotations

from attrs import evolve, frozen

HORIZON = 0.1
"""Seconds ahead for which requests are handed out."""
FURTHER_EVERY = 2
"""While operations are due, at most one request in so many goes to what was not claimed: a look-up, or a further page of one."""
ABANDONED_SHARE = 0.1
"""The part of the budget that goes to operations for which nobody waits."""
REFUSED_EVERY = 10.0
"""Seconds between two polls while the vendor refuses them."""
_MARGIN = 1.05
"""Requests stand so much further apart than the rate asks for, so that one that leaves late does not overfill a second."""
_EARLY = 1e-6
"""Seconds by which a poll is handed out too early, so that rounding makes no caller ask again and again."""
RATE_HOLDS = 30.0
"""Seconds for which a caller's limit binds all others."""


@frozen
class Budget:
    """When the next requests may leave; they are spaced evenly, so that no second sees more than its share.

    Attributes:
        next_at: When the next request may leave, in the store's own time.
        abandoned_at: When one for an operation may leave for which nobody waits.
        further_at: When one may leave that was not claimed, though operations are due.
        paused_until: Until when nothing leaves.
        refusals: How many pauses in a row the vendor's refusals have caused.
    """

    next_at: float = 0.0
    abandoned_at: float = 0.0
    further_at: float = 0.0
    paused_until: float = 0.0
    refusals: int = 0

    def starts_at(self, now: float) -> float:
        """Return when a request that is asked for now may leave."""
        return max(now, self.next_at, self.paused_until)

    def spacing(self, per_second: float) -> float:
        """Return the seconds between two requests."""
        return max(_MARGIN / per_second, REFUSED_EVERY if self.refusals else 0.0)

    def room(self, now: float, limit: int, per_second: float) -> int:
        """Return how many requests may be handed out now."""
        left = now + HORIZON - self.starts_at(now) + _EARLY
        if left < 0:
            return 0
        return min(limit, 1 if self.refusals else int(left / self.spacing(per_second)) + 1)

    def take(self, now: float, count: int, per_second: float, *, abandoned: bool = False) -> Budget:
        """Return the budget after some requests were handed out, one of them for an abandoned operation or none."""
        start, spacing = self.starts_at(now), self.spacing(per_second)
        abandoned_at = start + spacing / ABANDONED_SHARE if abandoned else self.abandoned_at
        return evolve(self, next_at=start + count * spacing, abandoned_at=abandoned_at)

    def further_in(self, now: float, *, due: bool) -> float:
        """Return the seconds until a request may be handed out that was not claimed: in turn with operations, if any is due.

        Then it comes behind no more than what is handed out already, so that neither holds off the other.
        """
        opens = max(self.further_at, self.paused_until) if due else self.starts_at(now)
        left = opens - HORIZON - now
        return left if left > _EARLY else 0.0

    def take_further(self, now: float, per_second: float) -> Budget:
        """Return the budget after a request was handed out that was not claimed."""
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
