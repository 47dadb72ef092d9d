"""What a receiver reports about its deliveries: to the log, to its observer, and to an operator who lists refusals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rewards_core.clock import loop_time
from rewards_core.log_limit import LogLimit
from rewards_core.validation import check_callable
from webhooks.delivery_log import deliveries, log_delivery, log_refused
from webhooks.delivery_watch import Delivery
from webhooks.refusals import Refusals

if TYPE_CHECKING:
    from rewards_core.operations import Event
    from webhooks.delivery_log import Verdict
    from webhooks.delivery_watch import DeliveryObserver
    from webhooks.ingress.base import Reply

logger = logging.getLogger("webhooks.receiver")


class DeliveryReports:
    """Report the deliveries of one receiver.

    Attributes:
        refusals: The refused ones.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.refusals = Refusals(logger, clock=clock)
        self._clock = clock
        self._observer: DeliveryObserver | None = None
        self._refused_lines = LogLimit(1.0, lines=10, clock=loop_time)  # unsigned requests must not fill the log
        self._observer_lines = LogLimit(clock=loop_time)

    @property
    def timed(self) -> bool:
        """Whether it is reported how long a delivery took."""
        return self._observer is not None or deliveries.isEnabledFor(logging.INFO)

    def observe(self, observer: DeliveryObserver | None) -> None:
        """Call this with each delivery from now on; None ends that. What it raises is logged, and changes no reply."""
        self._observer = None if observer is None else check_callable(observer, "observer")
        self.refusals.observe(None if observer is None else lambda refusal: self._tell(observer, Delivery.refused(refusal)))

    def signed(self, event: Event, verdict: Verdict, status: int, seconds: float, peer: object) -> None:
        """Log a signed delivery, and pass it to the observer."""
        if deliveries.isEnabledFor(logging.INFO):
            log_delivery(event, verdict, seconds, peer)
        if self._observer is not None:
            ref = event.ref
            self._tell(
                self._observer,
                Delivery(
                    at=self._clock(),
                    verdict=verdict,
                    event=event.name,
                    scope=event.scope,
                    kind=None if ref is None else ref.kind,
                    uid=None if ref is None else ref.uid,
                    identity=event.identity,
                    reason=event.problem,
                    status=status,
                    size=len(event.body),
                    seconds=seconds,
                    peer=peer,
                ),
            )

    def refused(self, reason: str, reply: Reply, peer: object, seconds: float | None = None, **facts: Any) -> Reply:
        """Keep and log a refused delivery, and return the reply to it; `facts` are those of `Refusals.note`."""
        self.refusals.note(reason, peer, status=reply.status, **facts)
        if deliveries.isEnabledFor(logging.INFO) and self._refused_lines.allows("refused"):
            log_refused(reason, reply.status, peer, seconds)
        return reply

    def _tell(self, observer: DeliveryObserver, delivery: Delivery) -> None:
        try:
            observer(delivery)
        except (Exception, asyncio.CancelledError):  # nothing is awaited, so this is no cancellation of the delivery
            if self._observer_lines.allows("observer"):
                logger.exception("an observer of deliveries raised an error; deliveries are answered as without it")
