"""Calls that are made together, in one statement or transaction for all that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from rewards_core.batches import Batches, Call
from rewards_core.errors import StoreError
from rewards_core.postgres.connection import StatementRefused

MAX_WAITING = 10_000
"""Calls that wait for a batch; further ones fail at once."""
_QUIET_PASSES = 6
_MAX_BYTES = 4 * 1024 * 1024
"""Bytes of a batch, which the database must take within the time of one statement."""

Work = Callable[[Sequence[Any]], Awaitable[tuple[Sequence[Any], list[Any]]]]
"""Takes the items of a batch; returns the result of each, and notifications."""


class Groups(Batches):
    """Run `work` for the items of many calls together, and call `notify` before its callers resume.

    Args:
        name: What `work` does.
        work: Does it.
        notify: Called with the notifications of a batch.
        at_once: Maximum number of batches that run at a time.
    """

    def __init__(self, name: str, work: Work, *, notify: Callable[[list[Any]], None], at_once: int = 1) -> None:
        super().__init__(notify=notify, quiet_passes=_QUIET_PASSES, largest=_MAX_BYTES, at_once=at_once)
        self._name = name
        self._work = work
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, item: object, size: int = 0, *, limited: bool = True) -> asyncio.Future[Any]:
        """Queue an item and return the future of its result.

        Args:
            item: The item.
            size: About how many bytes it has.
            limited: Whether it is refused if too many calls wait.

        Raises:
            StoreError: too many calls wait.
        """
        if limited and len(self._waiting) >= MAX_WAITING:
            raise StoreError(
                f"The database is slow and {MAX_WAITING:,} calls wait for it. This one was refused; repeat it later."
            )
        return self.submit(Call(_keep, item), size=size)

    async def aclose(self) -> None:
        """Run the queued calls; add nothing afterwards."""
        if self.home is asyncio.get_running_loop():
            await self.submit(Call(_end))
            if self._tasks:
                await asyncio.wait(self._tasks)

    def _run_batch(self, batch: list[Call[Any]]) -> None:
        task = asyncio.get_running_loop().create_task(self._run(batch), name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: list[Call[Any]]) -> None:
        notifications = await self._try([call for call in batch if call.run is not _end])
        self._deliver(asyncio.get_running_loop(), batch, notifications)

    async def _try(self, calls: list[Call[Any]]) -> list[Any]:
        if not calls:
            return []
        try:
            results, notifications = await self._work([call.item for call in calls])
        except StatementRefused as problem:  # one call may have failed the others
            if len(calls) > 1:
                half = len(calls) // 2
                return [*await self._try(calls[:half]), *await self._try(calls[half:])]
            calls[0].error = problem
        except Exception as problem:  # noqa: BLE001 - each caller of the batch gets it
            for call in calls:
                call.error = type(problem)(str(problem)) if isinstance(problem, StoreError) else problem
        else:
            for call, result in zip(calls, results, strict=True):
                call.result = result
            return notifications
        return []


def _keep() -> None:
    """Mark a call with an item."""


def _end() -> None:
    """Mark the last call."""
