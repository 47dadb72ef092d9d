"""Body memory: all request bodies being read share one budget of bytes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from webhooks.ingress.peers import Address, quota_keys
from webhooks.ingress.slots import FRESH_SECONDS, Phase, SlotHolder

_EVICTION_DIVISOR = 4
_SMALL_BODY_DIVISOR = 2_048
"""A body below this fraction of the budget never waits: large bodies must not hold up ordinary deliveries."""


class _Stream(Protocol):
    async def readany(self) -> bytes: ...


class _Reader(SlotHolder, Protocol):
    client: Address | None  # the sender, which behind a proxy is not the peer

    def pause_body(self) -> None: ...
    def resume_body(self) -> None: ...


class BodyMemory:
    """Read bodies within one budget of bytes.

    While the budget is used up, large bodies wait, except the oldest one, which is read to its end whatever its size. Freed
    memory goes first to the client that holds least. A waiting body is not refused: its peer is not read from and its timeout is
    suspended. Only a body that others wait for and that is still incomplete after a second is evicted, see `blocking`.

    Args:
        max_bytes: Budget for bodies, counted from arrival until they are answered. It may be exceeded by one read, 16 KiB. A body
            below a 2048th of it is small and never waits: 4 KiB of the default 8 MiB.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._small = max_bytes // _SMALL_BODY_DIVISOR
        self._used = 0
        self._held: dict[_Reader, int] = {}
        self._clients: Counter[int] = Counter()
        self._waiting: dict[int, dict[_Reader, asyncio.Future[None]]] = {}

    @property
    def used(self) -> int:
        """Bytes held now."""
        return self._used

    @property
    def waiting(self) -> list[_Reader]:
        """Connections that wait for memory."""
        return [reader for readers in self._waiting.values() for reader in readers]

    async def read(self, reader: _Reader, stream: _Stream, max_size: int) -> bytes | None:
        """Return a body, which counts until `release`; None if it is longer than `max_size` bytes.

        Raises:
            ConnectionResetError: `release` was called meanwhile.
            Exception: whatever the stream raises.
        """
        self._held[reader] = 0
        blocks: list[bytes] = []
        try:
            while True:
                if self._used >= self._max_bytes and self._held.get(reader, 0) >= self._small:
                    await self._wait_for_memory(reader)
                block = await stream.readany()
                if reader not in self._held:
                    raise ConnectionResetError
                if not block:
                    return b"".join(blocks)
                blocks.append(block)
                self._count(reader, len(block))
                if self._held[reader] > max_size:
                    return None
                # otherwise a body in a hundred thousand chunks would block the loop
                await asyncio.sleep(0)
        finally:
            blocks.clear()  # an error's traceback would keep them alive until the next garbage collection

    def release(self, reader: _Reader) -> None:
        """Stop counting a body, if there is one; reading it further raises an error."""
        if reader in self._held:
            self._count(reader, -self._held[reader])
            del self._held[reader]
        waiter = self._pop_waiter(reader)
        if waiter is not None and not waiter.done():
            waiter.set_exception(ConnectionResetError())
        self._wake_next()

    def blocking(self, now: float) -> list[_Reader]:
        """Return the connections to evict so that other bodies can be read: enough to free a quarter of the budget.

        The client that holds most loses its bodies first, its oldest body before the others. A body that itself waits for memory
        is evicted only in favour of a client that holds less.
        """
        if not self._waiting:
            return []
        least = min(self._clients[client] for client in self._waiting)
        late = [reader for number, reader in enumerate(self._held) if self._is_late(reader, now, least, oldest=not number)]
        found: list[_Reader] = []
        left = self._used
        for reader in sorted(late, key=lambda reader: -self._clients[_client(reader)]):
            if left * _EVICTION_DIVISOR <= self._max_bytes * (_EVICTION_DIVISOR - 1):
                break
            found.append(reader)
            left -= self._held[reader]
        return found

    def _is_late(self, reader: _Reader, now: float, least: int, *, oldest: bool) -> bool:
        if reader.phase is not Phase.BODY or not (self._held[reader] or oldest):
            return False
        if reader.paused_since is None:
            return now - reader.since >= FRESH_SECONDS
        return now - reader.paused_since >= FRESH_SECONDS and self._clients[_client(reader)] > least

    def _count(self, reader: _Reader, size: int) -> None:
        client = _client(reader)
        self._used += size
        self._held[reader] += size
        self._clients[client] += size
        if not self._clients[client]:
            del self._clients[client]

    async def _wait_for_memory(self, reader: _Reader) -> None:
        while self._used >= self._max_bytes and next(iter(self._held), None) is not reader:
            if reader not in self._held:
                raise ConnectionResetError
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(_client(reader), {})[reader] = waiter
            reader.pause_body()
            self._wake_next()  # the oldest body, if others took the memory meant for it
            await waiter
            reader.resume_body()
        self._wake_next()  # the next one, if there is still room

    def _wake_next(self) -> None:
        if not self._waiting:
            return
        readers: Iterable[_Reader] = self._held  # the oldest may always continue
        if self._used < self._max_bytes:
            readers = self._waiting[min(self._waiting, key=self._clients.__getitem__)]
        waiter = self._pop_waiter(next(iter(readers)))
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _pop_waiter(self, reader: _Reader) -> asyncio.Future[None] | None:
        client = _client(reader)
        readers = self._waiting.get(client, {})
        waiter = readers.pop(reader, None)
        if waiter is not None and not readers:
            del self._waiting[client]
        return waiter


def _client(reader: _Reader) -> int:
    return quota_keys(reader.client)[0]
