"""A `SQLiteStore` among others: its file, its transactions, and its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from rewards_core.clock import boot_id
from rewards_core.errors import StoreClosed, StoreError
from rewards_core.sqlite.engine import Engine
from rewards_core.sqlite.wakeups import Wakeups
from webhooks.store import sqlite_polls, sqlite_upkeep
from webhooks.store.hints import Hints
from webhooks.store.sqlite_hints import SequenceFeed
from webhooks.store.sqlite_schema import SCHEMA
from webhooks.store.sqlite_session import FileMember, Session

if TYPE_CHECKING:
    from pathlib import Path

    from rewards_core.operations import OperationRef
    from rewards_core.sqlite.connection import Connection
    from webhooks.store.base import Subscriber
    from webhooks.store.readings import Wake

T = TypeVar("T")

logger = logging.getLogger(__name__)

SLICE = 500


class StoreLife:
    """The part of a store that is the same whatever it stores. The file is opened by the first call."""

    def __init__(
        self, path: Path, *, busy_timeout: float, clock: Callable[[], float], uptime: Callable[[], float], boot: str | None
    ) -> None:
        self._path = path
        self._clock = clock
        self._uptime = uptime
        self._boot = boot
        self._hints = Hints(SequenceFeed(lambda look: self._engine.read(look)))  # noqa: PLW0108 - the engine is made after it
        self._member = FileMember(wakeups=Wakeups(self._path, self._hints.receive))
        self._engine = Engine(self._path, SCHEMA, session=self._session, notify=self._hints.notify, busy_timeout=busy_timeout)
        self._unwatching: asyncio.Future[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def subscribe(self, subscriber: Subscriber) -> None:
        self._check_open()
        self._hints.subscribers.add(subscriber)
        await self._hints.start()
        await self._engine.write(Session.register)
        self._member.wakeups.listen()

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self._hints.subscribers.remove(subscriber)

    def refused(self, reason: str) -> None:
        self._hints.subscribers.refused(reason)

    def woken(self, wake: Wake) -> None:
        self._member.wakes.append(wake)

    def unwatch(self, refs: Sequence[OperationRef], *, waiter: str = "") -> None:
        if self._closing is None and refs:
            self._unwatching = self._engine.write(lambda session: sqlite_polls.unwatch(session, refs, waiter))
            self._unwatching.add_done_callback(_ignore_failure)

    async def aclose(self) -> None:
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="close the store")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._engine.forked:  # all of it belongs to the parent process
            return
        self._member.wakeups.stop()
        await self._hints.stop()
        if self._member.registered:
            try:
                await self._engine.write(Session.resign)
            except StoreError as problem:
                logger.warning("the store was closed, but the other processes were not notified: %s", problem)
        await self._engine.aclose()
        await asyncio.get_running_loop().run_in_executor(None, self._member.wakeups.close)

    async def _unwatched(self) -> None:
        """Wait for the last `unwatch`, so that later reads see its effect."""
        if self._unwatching is not None and self._unwatching.get_loop() is asyncio.get_running_loop():
            await asyncio.wait([self._unwatching])

    def _check_open(self) -> None:
        if self._closing is not None:
            raise StoreClosed("This store was closed by aclose(). Nothing was read or written. Make a new one.")

    def _session(self, connection: Connection) -> Session:
        boot = self._boot or boot_id()
        return Session(
            connection,
            self._member,
            clock=self._clock,
            uptime=self._uptime,
            boot=boot,
            hourly=sqlite_upkeep.every_hour,
        )

    async def _write(self, change: Callable[[Session], T]) -> T:
        self._check_open()
        return await self._engine.write(change)

    async def _read(self, look: Callable[[Connection], T]) -> T:
        self._check_open()
        return await self._engine.read(look)

    async def _each_slice(self, ids: Sequence[int], change: Callable[[Session, Sequence[int]], int]) -> int:
        """Change records in slices, so that no commit takes long; return how many were changed."""
        count = 0
        for start in range(0, len(ids), SLICE):
            some = ids[start : start + SLICE]
            count += await self._write(lambda session, some=some: change(session, some))  # type: ignore[misc]
        return count

    async def _in_slices(
        self,
        find: Callable[[Connection, int], Sequence[T]],
        change: Callable[[Session, Sequence[T]], int],
        limit: int | None,
    ) -> int:
        """Find and change records in slices, so that no commit takes long; return how many were changed."""
        count, left = 0, limit
        while left is None or left > 0:
            max_rows = SLICE if left is None else min(SLICE, left)
            found = await self._read(lambda db, max_rows=max_rows: find(db, max_rows))  # type: ignore[misc]
            if not found:
                break
            count += await self._write(lambda session, found=found: change(session, found))  # type: ignore[misc]
            left = None if left is None else left - len(found)
        return count

    async def _forget(
        self, find: Callable[..., tuple[list[int], int | None]], forget: Callable[[Session, Sequence[int]], int]
    ) -> int:
        """Erase the records that are found, in slices; return how many."""
        count = 0
        last: int | None = 0
        while last is not None:
            found, last = await self._read(partial(find, after=last, limit=SLICE))
            if found:
                count += await self._write(lambda session, found=found: forget(session, found))  # type: ignore[misc]
        return count


def _ignore_failure(done: asyncio.Future[None]) -> None:
    if not done.cancelled() and (problem := done.exception()) is not None:
        logger.debug("could not stop watching operations; that happens when this process ends: %s", problem)
