"""The bodies that are being read: together they hold no more memory than they may."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from webhooks.ingress.peers import Address, peer_keys
from webhooks.ingress.places import FRESH_SECONDS, Phase, Seated

_FREED_AT_ONCE = 4
_SMALL = 2_048
"""The part of the budget that a body may hold without waiting: who holds all memory must not hold up the usual small delivery."""


class Stream(Protocol):
    """Where a body comes from; it stops reading from its peer while nobody reads from it."""

    async def readany(self) -> bytes:
        """Return what has come, at least one byte; nothing at the end."""
        ...


class Reader(Seated, Protocol):
    """A connection that a body comes over.

    Attributes:
        client: Who sends it, which behind a proxy is not its peer.
    """

    client: Address | None

    def stop_reading(self) -> None:
        """Wait for memory, which is not counted against the peer."""
        ...

    def go_on_reading(self) -> None:
        """End that wait; nothing happens if there is none."""
        ...


class Bodies:
    """Read bodies within one budget of bytes.

    While the budget is used up, large bodies wait but the one under way longest, which is read to its end whatever its size. What
    is given back goes first to the client that holds least. Nobody is refused at once for want of memory: the peers of those who
    wait are not read from, and their time does not run. Only a body that others wait for and that is still not here after a
    second must give way, see `in_the_way`.

    Args:
        most: Bytes from which on bodies wait, counted from their arrival until they are answered. What is read at a time, 16 KiB,
            may exceed it. One that holds less than a 2048th of it is small: 4 KiB of the 8 MiB that are the default.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._small = most // _SMALL
        self._used = 0
        self._held: dict[Reader, int] = {}
        self._clients: Counter[int] = Counter()
        self._waiting: dict[int, dict[Reader, asyncio.Future[None]]] = {}

    @property
    def used(self) -> int:
        """Bytes that are held now."""
        return self._used

    @property
    def waiting(self) -> list[Reader]:
        """Who waits for memory."""
        return [reader for readers in self._waiting.values() for reader in readers]

    async def read(self, reader: Reader, stream: Stream, most: int) -> bytes | None:
        """Return a body, which counts until `release`; None if it is longer than `most`.

        Args:
            reader: The connection it comes over.
            stream: The body.
            most: Bytes that it may have.

        Raises:
            ConnectionResetError: `release` was called meanwhile.
            Exception: whatever the stream raises.
        """
        self._held[reader] = 0
        blocks: list[bytes] = []
        try:
            while True:
                if self._used >= self._most and self._held.get(reader, 0) >= self._small:
                    await self._room(reader)
                block = await stream.readany()
                if reader not in self._held:
                    raise ConnectionResetError
                if not block:
                    return b"".join(blocks)
                blocks.append(block)
                self._count(reader, len(block))
                if self._held[reader] > most:
                    return None
                # a body in a hundred thousand chunks would else be read in one go, and nobody else have a turn
                await asyncio.sleep(0)
        finally:
            blocks.clear()  # the traceback of an error would hold them until garbage is next collected

    def release(self, reader: Reader) -> None:
        """Count a body no longer; whoever still reads it meets an error. Nothing happens if there is none."""
        if reader in self._held:
            self._count(reader, -self._held[reader])
            del self._held[reader]
        waiter = self._pop(reader)
        if waiter is not None and not waiter.done():
            waiter.set_exception(ConnectionResetError())
        self._wake()

    def in_the_way(self, now: float) -> list[Reader]:
        """Return the connections to close so that other bodies can be read: enough to free a quarter of the budget.

        The client that holds most loses its bodies first, and of one client the body that began first. A body that itself waits
        for memory is closed only in favour of a client that holds less.
        """
        if not self._waiting:
            return []
        least = min(self._clients[client] for client in self._waiting)
        late = [reader for number, reader in enumerate(self._held) if self._is_late(reader, now, least, first=not number)]
        found: list[Reader] = []
        left = self._used
        for reader in sorted(late, key=lambda reader: -self._clients[_client(reader)]):
            if left * _FREED_AT_ONCE <= self._most * (_FREED_AT_ONCE - 1):
                break
            found.append(reader)
            left -= self._held[reader]
        return found

    def _is_late(self, reader: Reader, now: float, least: int, *, first: bool) -> bool:
        if reader.phase is not Phase.BODY or not (self._held[reader] or first):
            return False
        if reader.stopped is None:
            return now - reader.since >= FRESH_SECONDS
        return now - reader.stopped >= FRESH_SECONDS and self._clients[_client(reader)] > least

    def _count(self, reader: Reader, size: int) -> None:
        client = _client(reader)
        self._used += size
        self._held[reader] += size
        self._clients[client] += size
        if not self._clients[client]:
            del self._clients[client]

    async def _room(self, reader: Reader) -> None:
        while self._used >= self._most and next(iter(self._held), None) is not reader:
            if reader not in self._held:
                raise ConnectionResetError
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(_client(reader), {})[reader] = waiter
            reader.stop_reading()
            self._wake()  # the one under way longest, if others took the memory that it was about to have
            await waiter
            reader.go_on_reading()
        self._wake()  # the next, if there is still room

    def _wake(self) -> None:
        if not self._waiting:
            return
        readers: Iterable[Reader] = self._held  # the one under way longest may go on
        if self._used < self._most:
            readers = self._waiting[min(self._waiting, key=self._clients.__getitem__)]
        waiter = self._pop(next(iter(readers)))
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _pop(self, reader: Reader) -> asyncio.Future[None] | None:
        client = _client(reader)
        readers = self._waiting.get(client, {})
        waiter = readers.pop(reader, None)
        if waiter is not None and not readers:
            del self._waiting[client]
        return waiter


def _client(reader: Reader) -> int:
    return peer_keys(reader.client)[0]
