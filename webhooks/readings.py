"""What large bodies say: read off the loop, and once for the delivery and its handlers."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from attrs import evolve

from rewards_core.operations import Event

if TYPE_CHECKING:
    from rewards_core.operations import EventSource

logger = logging.getLogger("webhooks.receiver")

LARGE_BODY = 16_384
"""Bytes from which on a body is read in a thread: the slowest body of `benchmarks stalls` takes 2 ms for so many."""

_AT_ONCE = 2
_KEPT = 4


class Readings:
    """Read verified bodies for one receiver, large ones in threads, and remember the last large ones for its handlers."""

    def __init__(self) -> None:
        self._threads = asyncio.Semaphore(_AT_ONCE)
        self._kept: OrderedDict[tuple[str, bytes], Event] = OrderedDict()

    async def read(
        self, source: EventSource, body: bytes, headers: Mapping[str, str] | None = None, *, remember: bool = True
    ) -> Event:
        """Read a verified body as its source's `parse` does.

        Args:
            source: Whose body it is.
            body: The verified bytes.
            headers: Where unsigned hints are taken from.
            remember: Whether a handler will want the event; only what large bodies say is remembered, until a few others came.
        """
        if len(body) < LARGE_BODY:
            return source.parse(body, headers)
        async with self._threads:
            event = await asyncio.to_thread(source.parse, body, headers)
        if remember:
            self._kept[event.scope, event.identity] = event
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return event

    async def read_again(self, source: EventSource, event: Event) -> Event:
        """Return a kept event as its source reads its body now, with what is known only from its delivery."""
        known = self._kept.get((event.scope, event.identity))
        if known is None or known.body != event.body:
            known = await self.read(source, event.body)
        return evolve(known, correlation_id=event.correlation_id, attempt=event.attempt, signature=event.signature)


def unreadable(source: EventSource, body: bytes, problem: Exception) -> Event:
    """Return a dead letter for a verified body that its source failed to read: what was verified is kept, even unread."""
    logger.warning("a source failed to read a verified delivery: %s", type(problem).__name__)
    return Event(
        scope=source.scope,
        name="",
        identity=hashlib.sha256(body).digest()[:16],
        body=body,
        problem=f"could not be read ({type(problem).__name__})",
    )
