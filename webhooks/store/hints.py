"""Notify the subscribers of a store object of its commits and of outcomes that other store objects record."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from attrs import frozen

from rewards_core.errors import StoreError
from webhooks.store.subscribers import Subscribers

if TYPE_CHECKING:
    from rewards_core.operations import OperationRef
    from webhooks.store.records import Outcome

logger = logging.getLogger(__name__)

OUTCOMES, POLLS, JOBS = b"o", b"p", b"j"
"""The bytes of a wake-up: outcomes to look up, operations to poll, jobs to claim."""
EVERYTHING = OUTCOMES + POLLS + JOBS
RETRY_AFTER = 1.0
"""Seconds after a failed lookup until the next."""

C = TypeVar("C")


@frozen
class Notification:
    """What to notify subscribers of after the commit, or what they should look up: `refs`, or all that `look` says."""

    settled: Outcome | None = None
    confirmed: Outcome | None = None
    refs: Sequence[OperationRef] = ()
    look: bytes = b""
    missed: bool = False


class OutcomeFeed(Protocol[C]):
    """The outcomes that any store object records, after a place in their order. Each method may raise `StoreError`."""

    async def newest(self) -> C:
        """Return the place after the newest outcome."""
        ...

    async def after(self, place: C) -> tuple[Sequence[OperationRef], C, bool]:
        """Return the operations of the next outcomes, the place after them, and whether there are more."""
        ...

    async def with_contradictions(self, refs: Sequence[OperationRef]) -> Sequence[tuple[Outcome, Outcome | None]]:
        """Return first outcomes, each with the confirmed outcome that contradicts it, if there is one."""
        ...


class Hints(Generic[C]):
    """The notifications of one store object."""

    def __init__(self, feed: OutcomeFeed[C]) -> None:
        self.subscribers = Subscribers()
        self._feed = feed
        self._seen: C | None = None
        self._look: asyncio.Task[None] | None = None
        self._look_again = False
        self._refs: list[OperationRef] = []
        self._missed = False
        self._stopped = False

    async def start(self) -> None:
        """Look for outcomes that other store objects record, from now on."""
        if self._seen is None:
            self.start_after(await self._feed.newest())

    def start_over(self) -> None:
        """Forget the place: without a subscriber nobody has missed what was recorded after it."""
        self._seen = None

    def start_after(self, place: C) -> None:
        """Look for outcomes after a place, unless another subscriber was first."""
        if self._seen is None:
            self._seen = place

    def receive(self, hint: bytes) -> None:
        """Receive a hint of another process."""
        self.notify([Notification(look=hint)])

    def notify(self, notifications: Sequence[Notification]) -> None:
        """Notify the subscribers, and look for what other processes recorded."""
        look = b""
        for one in notifications:
            look += one.look
            self._refs += one.refs if self.subscribers else ()
            if one.settled is not None:
                self.subscribers.settled(one.settled)
            if one.confirmed is not None:
                self.subscribers.confirmed(one.confirmed)
            self._missed = self._missed or one.missed
        if JOBS in look:
            self.subscribers.jobs_ready()
        if POLLS in look:
            self.subscribers.polls_due()
        self._look_again = self._look_again or OUTCOMES in look or self._missed
        if (self._look_again or self._refs) and self._seen is not None and not self._stopped:
            loop = asyncio.get_running_loop()
            if self._look is None or self._look.done() or self._look.get_loop() is not loop:
                self._look = loop.create_task(self._look_for_outcomes(), name="look for outcomes")

    async def stop(self) -> None:
        """Stop notifying, and cancel a lookup in flight."""
        self._stopped = True
        self.subscribers.clear()
        if self._look is not None and self._look.get_loop() is asyncio.get_running_loop():
            self._look.cancel()
            await asyncio.gather(self._look, return_exceptions=True)

    async def _look_for_outcomes(self) -> None:
        while (self._look_again or self._refs) and self.subscribers:
            everything, self._look_again = self._look_again, False
            refs, self._refs = self._refs, []
            try:
                await (self._pass_on() if everything else self._pass_on_about(refs))
            except StoreError as problem:
                logger.warning("outcomes of other processes could not be read; this is retried in a second: %s", problem)
                self._look_again = True
                await asyncio.sleep(RETRY_AFTER)

    async def _pass_on(self) -> None:
        """Notify of what other processes recorded since the last lookup."""
        if self._missed:
            self._missed = False
            try:
                self._seen = await self._feed.newest()
            except BaseException:
                self._missed = True
                raise
            self.subscribers.missed()
        place, more = self._seen, True
        while more and place is not None:
            refs, place, more = await self._feed.after(place)
            await self._pass_on_about(refs)
            self._seen = place

    async def _pass_on_about(self, refs: Sequence[OperationRef]) -> None:
        waited_for = [ref for ref in refs if self.subscribers.waits_for(ref)]
        if waited_for:
            for outcome, against in await self._feed.with_contradictions(waited_for):
                self.subscribers.settled(outcome)
                if outcome.confirmed and outcome.via == "webhook":
                    self.subscribers.confirmed(outcome)
                if against is not None:
                    self.subscribers.confirmed(against)
