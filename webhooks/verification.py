"""Verify deliveries: find the source whose key signed each, or why none did."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from rewards_core.clock import loop_time
from rewards_core.errors import SignatureError
from rewards_core.log_limit import LogLimit
from rewards_core.operations import Event, EventSource
from webhooks.parsing import LARGE_BODY, unreadable_event
from webhooks.refusals import ADVICE

logger = logging.getLogger("webhooks.receiver")

Verified = tuple[EventSource | SignatureError, Event | None]
"""The source whose key signed a delivery, or why none did; and its event, None until a large body is parsed."""

_Delivery = tuple[Mapping[str, str], bytes, asyncio.Future[Verified]]

_FAULT = SignatureError(ADVICE["error"], reason="error")
_CLOSENESS: Mapping[str, int] = {"error": -1, "missing": 0, "malformed": 1, "unknown_key": 2, "mismatch": 3}
"""How close a refused signature is to a valid one, by reason; reasons of a source's own count as 0."""


class Verifier:
    """Verify the deliveries of one receiver with its sources."""

    def __init__(self, sources: Iterable[EventSource]) -> None:
        self._sources = tuple(sources)
        self._batch: list[_Delivery] = []
        self._log_limit = LogLimit(clock=loop_time)  # a source that fails does so for every delivery

    def admits(self, headers: Mapping[str, str]) -> bool:
        """Return whether any source may accept a delivery with these headers."""
        return any(_admits(source, headers) for source in self._sources)

    async def verify(self, headers: Mapping[str, str], body: bytes) -> Verified:
        """Return the source whose key signed a delivery, or why none did, and the event unless the body is large."""
        loop = asyncio.get_running_loop()
        verified: asyncio.Future[Verified] = loop.create_future()
        self._batch.append((headers, body, verified))
        if len(self._batch) == 1:
            loop.call_soon(self._verify_batch)
        return await verified

    def find_signer(self, headers: Mapping[str, str], body: bytes) -> EventSource | SignatureError:
        """Return the source whose key signed the body, or else the error of the source that came closest to accepting it."""
        nearest = _FAULT
        for source in self._sources:
            try:
                source.verify(headers, body)
            except SignatureError as problem:
                if _closeness(problem) > _closeness(nearest):
                    # its traceback would keep this frame, and so the body, until garbage collection
                    nearest = problem.with_traceback(None)
            except Exception as problem:  # noqa: BLE001 - a delivery may trigger any bug of a source
                if self._log_limit.allows("error"):
                    logger.warning(
                        "an event source raised %s while verifying a delivery, which counts as not signed by its key; fix the "
                        "source",
                        type(problem).__name__,
                    )
            else:
                return source
        return nearest

    def claimed_key_ids(self, headers: Mapping[str, str]) -> Sequence[str]:
        """Return the key ids in the headers, as far as a source can read them without the body."""
        for source in self._sources:
            try:
                source.verify(headers, b"")
            except SignatureError as problem:
                if problem.key_ids:
                    return problem.key_ids
            except Exception:  # noqa: BLE001, S112 - the ids are only shown to people
                continue
        return ()

    def _verify_batch(self) -> None:
        """Verify all deliveries of one pass of the event loop, then parse them all.

        Each step in a row keeps its code in the processor's caches: in `benchmarks deliveries` this takes a third less of the
        server's time than one delivery after the other.
        """
        arrived, self._batch = self._batch, []
        found: list[Verified] = []
        for signer, (headers, body, _) in zip([self.find_signer(*each[:2]) for each in arrived], arrived, strict=True):
            event = None
            if not isinstance(signer, SignatureError) and len(body) < LARGE_BODY:
                try:
                    event = signer.parse(body, headers)
                except Exception as problem:  # noqa: BLE001 - a body may trigger any bug of a source
                    event = unreadable_event(signer, body, problem)
            found.append((signer, event))
        for (_, _, verified), each in zip(arrived, found, strict=True):
            if not verified.done():
                verified.set_result(each)


def _closeness(problem: SignatureError) -> int:
    return _CLOSENESS.get(problem.reason, 0)


def _admits(source: EventSource, headers: Mapping[str, str]) -> bool:
    admits = getattr(source, "admits", None)
    try:
        return admits is None or bool(admits(headers))
    except Exception:  # noqa: BLE001 - headers may trigger any bug of a source; `verify` decides
        return True
