"""Write the steps of many rows down together, off the way of those who send and those who listen."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from payouts.states import Entry, State

if TYPE_CHECKING:
    from payouts.ledger.sqlite import Facts, Ledger

Then: TypeAlias = Callable[[Entry], Awaitable[None]]
"""Called with a row once its step is on the disk."""

_EVERY = 0.025
_MOST_AT_ONCE = 500


class Recorder:
    """Take steps, write them together, and go on with each row.

    A step is written at once if none was written lately. Under load steps are gathered for some milliseconds, because writing
    sixty together costs half of writing them in fours.

    Args:
        ledger: Where they are written.
        plenty: So many steps are written without waiting for more, 1 or more; where rows can only go on once their steps are
            written, more may never come.
    """

    def __init__(self, ledger: Ledger, *, plenty: int) -> None:
        self._ledger = ledger
        self._plenty = plenty
        self._steps: list[tuple[Entry, State, Facts, Then]] = []
        self._news = asyncio.Event()
        self._enough = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def put(self, entry: Entry, to: State, facts: Facts, then: Then) -> None:
        """Have a row led on to its next state, and go on with it afterwards."""
        self._steps.append((entry, to, facts, then))
        self._news.set()
        self._idle.clear()
        if len(self._steps) >= self._plenty:
            self._enough.set()

    async def drain(self) -> None:
        """Wait until everything that was put in is written and gone on with."""
        await self._idle.wait()

    async def run(self) -> None:
        """Write until cancelled.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while True:
            await self._news.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(next_at):
                    await self._enough.wait()
            some, self._steps = self._steps[:_MOST_AT_ONCE], self._steps[_MOST_AT_ONCE:]
            if len(self._steps) < self._plenty:
                self._enough.clear()
            await self._write(some)
            next_at = loop.time() + _EVERY
            if not self._steps:
                self._news.clear()
                self._idle.set()

    async def _write(self, steps: list[tuple[Entry, State, Facts, Then]]) -> None:
        kinds: dict[tuple[State, State], list[tuple[Entry, State, Facts, Then]]] = {}
        for step in steps:
            kinds.setdefault((step[0].state, step[1]), []).append(step)
        written = await asyncio.gather(
            *(self._ledger.move_all([(entry, to, facts) for entry, to, facts, _ in kind]) for kind in kinds.values())
        )
        for kind, entries in zip(kinds.values(), written, strict=True):
            for (_, _, _, then), entry in zip(kind, entries, strict=True):
                await then(entry)
