"""One thread that owns a database connection and commits, at once and with one fsync, all the work that waits for it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from payouts.states import LedgerError

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]

_MOST_AT_ONCE = 4096


class GroupCommit:
    """Run work on a connection in the order it was asked for; whoever asked hears of it after it is on the disk.

    Work that raises a `LedgerError` must have left the connection as it was; only its own caller hears of it. Any other error
    undoes the whole group and is the last thing that happens here.

    Args:
        connect: Opens the connection, on the thread.
        name: For messages.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], name: str) -> None:
        self._connect = connect
        self._name = name
        self._queue: SimpleQueue[tuple[Work, asyncio.Future[Any]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"ledger {name}", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None
        self._broken: LedgerError | None = None
        self.commits = 0

    async def open(self) -> None:
        """Start the thread and open the connection.

        Raises:
            LedgerError: as `connect` does.
        """
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._queue.put((lambda _: None, opened))
        self._thread.start()
        await opened

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what the work returns, once it is on the disk; the work is done even if the caller is cancelled.

        Raises:
            LedgerError: the work raised it, or the database cannot be written any more.
        """
        if self._broken is not None or self._loop is None:
            raise self._broken or LedgerError(
                f"{self._name}: expected an open ledger, it is not open; use it inside `async with`"
            )
        done: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((work, done))
        return await done

    async def aclose(self) -> None:
        """Finish what waits and close the connection, with which the thread ends; a second call does nothing."""
        if self._ended is None:
            return
        if self._broken is None:
            self._broken = LedgerError(f"{self._name}: the ledger is closed; open it anew")
        self._queue.put(None)
        await asyncio.shield(self._ended)

    def _run(self) -> None:
        connection: sqlite3.Connection | None = None
        problem: LedgerError | None = None
        try:
            connection = self._connect()
        except LedgerError as error:
            problem = error
        ending = False
        while not ending:
            group, ending = self._next_group()
            results: list[tuple[asyncio.Future[Any], Any, Exception | None]] = []
            if connection is not None and problem is None:
                try:
                    results = self._commit(connection, group)
                except Exception as error:  # noqa: BLE001 - whatever it is, every caller must hear of it
                    problem = LedgerError(f"{self._name}: cannot be written any more ({error}); mend its disk, then run again")
            if problem is not None:
                results = [(future, None, problem) for _, future in group]
                self._broken = problem
            self._tell(_deliver, results)
        if connection is not None:
            connection.close()
        self._tell(_end, self._ended)

    def _next_group(self) -> tuple[list[tuple[Work, asyncio.Future[Any]]], bool]:
        """Return all the work that waits at this moment, and whether the end has been asked for."""
        group: list[tuple[Work, asyncio.Future[Any]]] = []
        item = self._queue.get()
        while item is not None:
            group.append(item)
            if len(group) >= _MOST_AT_ONCE:
                return group, False
            try:
                item = self._queue.get_nowait()
            except Empty:
                return group, False
        return group, True

    def _commit(
        self, connection: sqlite3.Connection, group: list[tuple[Work, asyncio.Future[Any]]]
    ) -> list[tuple[asyncio.Future[Any], Any, Exception | None]]:
        results: list[tuple[asyncio.Future[Any], Any, Exception | None]] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for work, future in group:
                try:
                    results.append((future, work(connection), None))
                except LedgerError as error:
                    results.append((future, None, error))
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.commits += 1
        return results

    def _tell(self, action: Callable[[Any], None], argument: Any) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(action, argument)


def _deliver(results: list[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
    for future, result, problem in results:
        if future.done():
            continue
        if problem is None:
            future.set_result(result)
        else:
            future.set_exception(problem)


def _end(ended: asyncio.Future[None]) -> None:
    ended.set_result(None)
