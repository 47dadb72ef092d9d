"""Deliveries sent to a receiver, over HTTP or straight."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from rewards_core.errors import StoreError
from tests.virtual_time import EPOCH
from tests.webhooks.fakes import FakeSource, body_of, words_of
from webhooks import MemoryStore, Receiver, Reply
from webhooks.ingress.hardened_server import HardenedServer

TRACE, PARENT = 0x4BF92F3577B34DA6A3CE929D0E0E4736, 0x00F067AA0BA902B7
REMOTE = {"traceparent": f"00-{TRACE:032x}-{PARENT:016x}-01"}
DONE = body_of(resource=words_of("1", "done"))


class Failing(MemoryStore):
    """A store that keeps nothing while it fails."""

    failing = True

    async def accept(self, event: Any) -> Any:
        if self.failing:
            raise StoreError("the password is hunter2")
        return await super().accept(event)


@asynccontextmanager
async def listening(receiver: Receiver) -> AsyncIterator[str]:
    """Serve a receiver as the listener does, and lend its address."""
    loop = asyncio.get_running_loop()
    hardened = HardenedServer({"/webhooks/original": receiver})
    server = await loop.create_server(hardened, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await hardened.drain(5.0)
        await server.wait_closed()


async def send(url: str, body: bytes, headers: Mapping[str, str], method: str = "POST") -> int:
    async with aiohttp.ClientSession() as session, session.request(method, url, data=body, headers=headers) as answer:
        return answer.status


async def deliver(receiver: Receiver, body: bytes = DONE) -> int:
    return (await receiver.receive(FakeSource().sign(body), body)).status


class Inbox:
    """A receiver on a memory store, and a signer."""

    def __init__(self, *sources: Any, **options: Any) -> None:
        self.source = sources[0] if sources else FakeSource()
        self.store = options.pop("store", None) or MemoryStore(clock=lambda: EPOCH)
        self.receiver = Receiver(sources or self.source, self.store, clock=lambda: EPOCH, **options)

    async def send(self, body: bytes, *, source: Any = None, **headers: str) -> Reply:
        signed = (source or self.source).sign(body)
        return await self.receiver.receive({**signed, **{f"x-{name}": value for name, value in headers.items()}}, body)

    async def words(self) -> list[Any]:
        return [json.loads(kept.event.body) for kept in reversed(await self.store.list_events())]
