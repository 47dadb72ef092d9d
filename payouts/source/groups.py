"""The rows of a run in groups that are planned together."""

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
_READ_AT_ONCE = 500
"""Rows that a thread reads before the loop is asked again: a thread that read on would compete with the loop for the interpreter
while rows are prepared, and then have nothing to do while the database stores them."""


async def groups_of(rows: Rows, stop: Stop, max_rows: int = _MAX_GROUP) -> AsyncGenerator[list[Row]]:
    """Yield rows in groups of 1 to `max_rows`, in order.

    An iterable is read in threads, one after another. An async iterable is read in its own task, at most one group ahead, and
    closed at the end; a group holds the rows that are ready when the source waits, so that no row waits for the next.

    Args:
        rows: The source; its error is raised after the rows before it.
        stop: Ends the reading of an async source.
        max_rows: Rows in a group, 1 or more.
    """
    if isinstance(rows, AsyncIterable):
        async with aclosing(_Reader(rows, max_rows)) as reader:
            while group := await reader.next_group(stop):
                yield group
    else:
        async with aclosing(_read_in_threads(iter(rows), max_rows)) as groups:
            async for group in groups:
                yield group


async def _read_in_threads(rows: Iterator[Row], max_rows: int) -> AsyncGenerator[list[Row]]:
    problem: Exception | None = None
    while problem is None:
        group: list[Row] = []
        room = max_rows
        try:
            while room and await asyncio.to_thread(_take, rows, min(room, _READ_AT_ONCE), group):
                room = max_rows - len(group)
        except Exception as found:  # noqa: BLE001 - raised after the rows before it
            problem = found
        if group:
            yield group
        elif problem is None:
            return
    raise problem


def _take(rows: Iterator[Row], max_rows: int, group: list[Row]) -> bool:
    """Add some rows to a group; return whether there were any."""
    before = len(group)
    for row in islice(rows, max_rows):
        group.append(row)  # noqa: PERF402 - what was read before an error stays
    return len(group) > before


class _Reader:
    """Read an async source in its own task."""

    def __init__(self, rows: AsyncIterable[Row], max_rows: int) -> None:
        self._rows = rows
        self._max_rows = max_rows
        self._ready: list[Row] = []
        self._arrived, self._room = asyncio.Event(), asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._read(), name="payouts source")
        self._task.add_done_callback(lambda _: self._arrived.set())

    async def next_group(self, stop: Stop) -> list[Row]:
        """Return the rows that are ready, waiting for at least one; none at the end."""
        while not (self._ready or self._task.done()):
            self._arrived.clear()
            if not await stop.before(self._arrived.wait()):
                return []
        seen = 0
        while seen < len(self._ready) < self._max_rows:  # until the source yields nothing in one pass of the loop
            seen = len(self._ready)
            await asyncio.sleep(0)
        group, self._ready = self._ready, []
        self._room.set()
        if not group:
            self._task.result()
        return [] if stop.wished else group

    async def aclose(self) -> None:
        """Close the source."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        source = aiter(self._rows)
        try:
            async for row in source:
                self._ready.append(row)
                self._arrived.set()
                await asyncio.sleep(0)  # a source that never waits must not block the loop
                while len(self._ready) >= self._max_rows:
                    self._room.clear()
                    await self._room.wait()
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()
