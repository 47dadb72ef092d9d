"""What a console looks at besides the store: a listener, or the store alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from attrs import frozen

if TYPE_CHECKING:
    from webhooks.delivery_watch import DeliveryFilter
    from webhooks.refusals import Refusal


@frozen(kw_only=True)
class Readiness:
    """Whether deliveries should be sent to a listener now.

    Attributes:
        ready: Whether they should.
        reasons: Why not, or what is wrong with a part of it; a line each.
    """

    ready: bool
    reasons: Sequence[str] = ()


class Watched(Protocol):
    """A listener with all its workers, or a store without a listener."""

    @property
    def sees_refusals(self) -> bool:
        """Whether it knows refused and repeated deliveries, which no store keeps."""
        ...

    @property
    def interval(self) -> float:
        """Seconds between two calls of `deliveries`."""
        ...

    async def deliveries(self, filters: Sequence[DeliveryFilter]) -> Mapping[str, Any]:
        """Return the deliveries since the last call, as `DeliveryWatch.take` does."""
        ...

    def rest(self) -> None:
        """Collect no deliveries until they are asked for again; idempotent."""
        ...

    async def readiness(self) -> Readiness:
        """Return whether deliveries should be sent here now."""
        ...

    async def refused(self) -> Sequence[Refusal]:
        """Return the last refusals, newest first."""
        ...

    def worker_states(self) -> Mapping[str, int] | None:
        """Return how many worker processes are in each state, None if there are none."""
        ...
