"""Parse verified bodies: large ones in a thread, and once for the delivery and all its handlers."""

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
"""Bytes from which a body is parsed in a thread: the slowest body of `benchmarks stalls` takes 2 ms at this size."""

_MAX_THREADS = 2
_MAX_REMEMBERED = 4


class BodyParser:
    """Parse verified bodies for one receiver, and remember the last large ones for its handlers."""

    def __init__(self) -> None:
        self._threads = asyncio.Semaphore(_MAX_THREADS)
        self._remembered: OrderedDict[tuple[str, bytes], Event] = OrderedDict()

    async def parse(
        self, source: EventSource, body: bytes, headers: Mapping[str, str] | None = None, *, remember: bool = True
    ) -> Event:
        """Return what the source's `parse` returns; `remember` a large event if a handler will want it."""
        if len(body) < LARGE_BODY:
            return source.parse(body, headers)
        async with self._threads:
            event = await asyncio.to_thread(source.parse, body, headers)
        if remember:
            self._remembered[event.scope, event.identity] = event
            if len(self._remembered) > _MAX_REMEMBERED:
                self._remembered.popitem(last=False)
        return event

    async def parse_again(self, source: EventSource, event: Event) -> Event:
        """Return a stored event as its source parses its body now, with the hints that only its delivery had."""
        known = self._remembered.get((event.scope, event.identity))
        if known is None or known.body != event.body:
            known = await self.parse(source, event.body)
        return evolve(known, correlation_id=event.correlation_id, attempt=event.attempt, signature=event.signature)


def unreadable_event(source: EventSource, body: bytes, problem: Exception) -> Event:
    """Return a dead letter for a verified body that its source failed to parse."""
    logger.warning(
        "an event source raised %s while parsing a verified delivery, which becomes a dead letter; fix the source, then replay "
        "the event",
        type(problem).__name__,
    )
    return Event(
        scope=source.scope,
        name="",
        identity=hashlib.sha256(body).digest()[:16],
        body=body,
        problem=f"could not be read ({type(problem).__name__})",
    )
