"""The bodies that are being read: together they hold no more memory than they may."""

from __future__ import annotations

import asyncio
from typing import Protocol

from webhooks.ingress.places import FRESH_SECONDS, Phase, Seated

_FREED_AT_ONCE = 4
_SMALL = 2_048
"""The part of the budget that a body may hold without waiting: who holds all memory must not hold up the usual small delivery."""


class Stream(Protocol):
    """Where a body comes from; it stops reading from its peer while nobody reads from it."""

    async def readany(self) -> bytes:
        """Return what has come, at least one byte; nothing at the end."""
        ...


class Bodies:
    """Read bodies within one budget of bytes.

    While the budget is used up, large bodies wait but the one under way longest, which is read to its end whatever its size.
    Nobody is refused for want of memory: the peers of the others are not read from meanwhile, and `body_timeout` holds as ever.
    Only a body that others wait for and that is still not here after a second must give way, see `in_the_way`.

    Args:
        most: Bytes that all bodies together may hold, from their arrival until they are answered. One that holds less than a
            2048th of it is small: 4 KiB of the 8 MiB that are the default.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._small = most // _SMALL
        self._used = 0
        self._held: dict[Seated, int] = {}
        self._waiting: dict[Seated, asyncio.Future[None]] = {}

    @property
    def used(self) -> int:
        """Bytes that are held now."""
        return self._used

    async def read(self, reader: Seated, stream: Stream, most: int) -> bytes | None:
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
                if not block:
                    return b"".join(blocks)
                if reader not in self._held:
                    raise ConnectionResetError
                blocks.append(block)
                self._held[reader] += len(block)
                self._used += len(block)
                if self._held[reader] > most:
                    return None
                # a body in a hundred thousand chunks would else be read in one go, and nobody else have a turn
                await asyncio.sleep(0)
        finally:
            blocks.clear()  # the traceback of an error would hold them until garbage is next collected

    def release(self, reader: Seated) -> None:
        """Count a body no longer; whoever still reads it meets an error. Nothing happens if there is none."""
        self._used -= self._held.pop(reader, 0)
        waiter = self._waiting.pop(reader, None)
        if waiter is not None and not waiter.done():
            waiter.set_exception(ConnectionResetError())
        self._wake()

    def in_the_way(self, now: float) -> list[Seated]:
        """Return whose bodies others wait for in vain: the longest under way, as many as free a quarter of the budget."""
        found: list[Seated] = []
        freed = 0
        for number, (reader, held) in enumerate(self._held.items() if self._waiting else ()):
            late = reader.phase is Phase.BODY and now - reader.since >= FRESH_SECONDS
            if late and reader not in self._waiting and (held or not number):
                found.append(reader)
                freed += held
                if freed * _FREED_AT_ONCE >= self._most:
                    break
        return found

    async def _room(self, reader: Seated) -> None:
        while self._used >= self._most and next(iter(self._held), None) is not reader:
            if reader not in self._held:
                raise ConnectionResetError
            waiter = self._waiting[reader] = asyncio.get_running_loop().create_future()
            await waiter
        self._wake()  # the next, if there is still room

    def _wake(self) -> None:
        if not self._waiting:
            return
        reader = next(iter(self._held), None) if self._used >= self._most else next(iter(self._waiting))
        waiter = None if reader is None else self._waiting.pop(reader, None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
