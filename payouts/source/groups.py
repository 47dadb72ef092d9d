"""The rows of a run as they come, in groups that are planned together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator
from contextlib import aclosing
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from payouts.rows import Row

if TYPE_CHECKING:
    from payouts.progress import Stop

Rows: TypeAlias = Iterable[Row] | AsyncIterable[Row]

_MAX_GROUP = 500


async def groups_of(rows: Rows, stop: Stop) -> AsyncGenerator[list[Row]]:
    """Yield rows in groups of 1 to 500, in their order.

    An iterable is read in a thread. An async one is read in a task of its own, at most a group ahead, and closed when this is: a
    group is what has come when its source waits, so that no row waits for the one after it.

    Args:
        rows: Where they come from; what it raises comes after the rows before.
        stop: Ends the reading of an async source.
    """
    if isinstance(rows, AsyncIterable):
        async with aclosing(_Reader(rows)) as reader:
            while group := await reader.next_group(stop):
                yield group
    else:
        iterator = iter(rows)
        while group := await asyncio.to_thread(_take, iterator):
            yield group


def _take(rows: Iterator[Row]) -> list[Row]:
    return list(islice(rows, _MAX_GROUP))


class _Reader:
    """Read an async source, however slow those are who plan its rows."""

    def __init__(self, rows: AsyncIterable[Row]) -> None:
        self._rows = rows
        self._ready: list[Row] = []
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._read(), name="payouts source")
        self._task.add_done_callback(lambda _: self._news.set())

    async def next_group(self, stop: Stop) -> list[Row]:
        """Return the rows that have come, once one has; none at the end."""
        while not (self._ready or self._task.done()):
            self._news.clear()
            if not await stop.before(self._news.wait()):
                return []
        seen = 0
        while seen < len(self._ready) < _MAX_GROUP:  # until a pass of the loop brings no row
            seen = len(self._ready)
            await asyncio.sleep(0)
        group, self._ready = self._ready, []
        self._room.set()
        if not group:
            self._task.result()
        return [] if stop.wished else group

    async def aclose(self) -> None:
        """Close the source, and wait until it is."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        source = aiter(self._rows)
        try:
            async for row in source:
                self._ready.append(row)
                self._news.set()
                await asyncio.sleep(0)  # a source that never waits must not hold up the loop
                while len(self._ready) >= _MAX_GROUP:
                    self._room.clear()
                    await self._room.wait()
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()
