"""Signed webhooks of Original, sent over one session until they are accepted."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import aiohttp
from attrs import define, field

from original_async.signature import sign
from vendor_sandboxes.original_events import EVENTS, event_body
from vendor_sandboxes.original_operations import Operation, timestamp

if TYPE_CHECKING:
    from vendor_sandboxes.faults import FaultPlan
    from vendor_sandboxes.options import OriginalOptions
    from vendor_sandboxes.scheduler import Scheduler

_MAX_SENDERS = 64
_TIMEOUT = aiohttp.ClientTimeout(total=5.0)


@define(kw_only=True, eq=False)
class Delivery:
    """One event that is being delivered; `payload` is its body without the attempt and the closing brace."""

    operation: Operation
    payload: str
    correlation_id: str
    attempt_in_body: bool
    attempt: int = 0
    copies: int = 0
    tried: asyncio.Event = field(factory=asyncio.Event)


class WebhookSender:
    """Send webhooks; a key that cannot sign and a negative `backoff` raise `ValueError`.

    Attributes:
        counts: The number of events, attempts and so on.
        open: The number of events that are neither accepted nor given up.
        refused: The last status other than 2xx with which an event was answered, by correlation id, until it is accepted.
    """

    def __init__(
        self,
        url: str | None,
        keys: Mapping[str, str],
        app: Mapping[str, str],
        *,
        plan: FaultPlan,
        scheduler: Scheduler,
        clock: Callable[[], float],
        attempts: int,
        backoff: float,
        changed: Callable[[], None],
    ) -> None:
        if not backoff >= 0:
            raise ValueError(f"webhook_backoff cannot be {backoff}: give seconds, 0 or more")
        self.url = url
        self.keys = dict(keys)
        sign(b"", self.keys)
        self.counts: Counter[str] = Counter()
        self.open = 0
        self._app = dict(app)
        self._plan = plan
        self._scheduler = scheduler
        self._clock = clock
        self._attempts = attempts
        self._backoff = backoff
        self._changed = changed
        self._queue: asyncio.Queue[Delivery] = asyncio.Queue()
        self.refused: dict[str, int] = {}
        self._held: list[Delivery] = []
        self._senders: set[asyncio.Task[None]] = set()
        self._idle = 0
        self._closed = False
        self._session: aiohttp.ClientSession | None = None

    def emit(self, operation: Operation, options: OriginalOptions) -> Delivery | None:
        """Send the event of a done operation; return None without a URL, and for an operation that has no event."""
        if self.url is None or self._closed or operation.kind not in EVENTS:
            return None
        self.counts["events"] += 1
        stream = self._plan.stream("correlation")
        delivery = Delivery(
            operation=operation,
            payload=event_body(operation, self._app, options, self._plan, self._clock()),
            correlation_id=str(uuid.UUID(int=stream.getrandbits(128), version=4)),
            attempt_in_body=options.attempt_in_body,
        )
        if self._plan.happens("webhook_loss"):
            self.counts["lost"] += 1
            delivery.tried.set()
            return delivery
        if self._plan.happens("webhook_duplicate"):
            delivery.copies = 1
        self.open += 1
        if self._plan.happens("webhook_reorder"):
            self._held.append(delivery)
            self._scheduler.call_later(options.webhook_hold, self._release)
        else:
            self._enqueue(delivery)
        return delivery

    def _release(self) -> None:
        held, self._held = self._held, []
        for delivery in held:
            self._enqueue(delivery)

    def _enqueue(self, delivery: Delivery) -> None:
        self._queue.put_nowait(delivery)
        if self._queue.qsize() > self._idle and len(self._senders) < _MAX_SENDERS:
            sender = asyncio.get_running_loop().create_task(self._send_all())
            self._senders.add(sender)

    async def _send_all(self) -> None:
        while True:
            self._idle += 1
            try:
                delivery = await self._queue.get()
            finally:
                self._idle -= 1
            await self._send(delivery)

    async def _send(self, delivery: Delivery) -> None:
        try:
            await self._attempt(delivery)
        finally:
            delivery.tried.set()
        self._release()
        self._changed()

    async def _attempt(self, delivery: Delivery) -> None:
        delivery.attempt += 1
        self.counts["attempts"] += 1
        accepted = await self._post(delivery)
        if accepted:
            self.counts["accepted"] += 1
            delivery.operation.deliveries += 1
        if accepted and delivery.copies:
            delivery.copies -= 1
            self._enqueue(delivery)
        elif accepted:
            self.open -= 1
        elif delivery.attempt >= self._attempts:
            self.counts["given_up"] += 1
            self.open -= 1
        else:
            self._scheduler.call_later(self._backoff * 2 ** (delivery.attempt - 1), self._enqueue, delivery)

    async def _post(self, delivery: Delivery) -> bool:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), timeout=_TIMEOUT
            )
        sent: dict[str, object] = {"sent_at": timestamp(self._clock(), "+00:00")}
        if delivery.attempt_in_body:
            metadata = {"attempt": delivery.attempt, "correlation_id": delivery.correlation_id, "app_uid": self._app["uid"]}
            sent = {**metadata, **sent}
        body = f"{delivery.payload}, {json.dumps(sent)[1:]}".encode()
        headers = signed_headers(body, self.keys, self._app["uid"], delivery.correlation_id, delivery.attempt)
        if self.url is None:
            return False
        try:
            async with self._session.post(self.url, data=body, headers=headers, allow_redirects=False) as reply:
                await reply.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False
        accepted = 200 <= reply.status < 300
        if accepted:
            self.refused.pop(delivery.correlation_id, None)
        else:
            self.refused[delivery.correlation_id] = reply.status
        return accepted

    async def aclose(self) -> None:
        """Cancel all deliveries; callers that wait for an attempt resume."""
        self._closed = True
        for sender in self._senders:
            sender.cancel()
        while not self._queue.empty():
            self._held.append(self._queue.get_nowait())
        for delivery in self._held:
            delivery.tried.set()
        await asyncio.gather(*self._senders, return_exceptions=True)
        if self._session is not None:
            await self._session.close()


def signed_headers(body: bytes, keys: Mapping[str, str], app_uid: str, correlation_id: str, attempt: int) -> dict[str, str]:
    """Return the headers of a delivery of this body."""
    return {
        "Content-Type": "application/json",
        "x-app-uid": app_uid,
        "x-webhook-correlation-id": correlation_id,
        "x-webhook-attempt": str(attempt),
        "x-webhook-signature": sign(body, keys),
    }
