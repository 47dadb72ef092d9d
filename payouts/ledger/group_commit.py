"""One thread that owns a database connection and commits, at once and with one fsync, all the work that waits for it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from payouts.states import LedgerError
from rewards_core.sqlite.batches import BatchThread, Call
from rewards_core.sqlite.connection import Connection, transaction

T = TypeVar("T")


class GroupCommit:
    """Run work on a connection in the order it was asked for; whoever asked hears of it after it is on the disk.

    Work that raises a `LedgerError` must have left the connection as it was; only its own caller hears of it. Any other error
    undoes the whole group, and nothing is written after it.

    Args:
        connect: Opens the connection, on the thread.
        name: For messages.
        before: Called before each group; raises a `LedgerError` if nothing may be written.
        after: Called after each group, before anybody hears of it; raises a `LedgerError` if what was written will be lost.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        name: str,
        *,
        before: Callable[[], None],
        after: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._before = before
        self._after = after
        self._name = name
        self._thread = BatchThread(f"ledger {name}", self._work, tell=_nothing, end=self._disconnect)
        self._connection: Connection | None = None
        self._closed: str | None = "is not open; use it inside `async with`"
        self._broken: LedgerError | None = None
        self.commits = 0

    async def open(self) -> None:
        """Start the thread and open the connection.

        Raises:
            LedgerError: as `connect` does.
        """
        self._closed = None
        await self.run(_nothing)

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Return what the work returns, once it is on the disk; the work is done even if the caller is cancelled.

        Raises:
            LedgerError: the work raised it, or the database cannot be written any more.
        """
        if self._closed is not None:
            raise LedgerError(f"{self._name}: expected an open ledger, it {self._closed}")
        return await self._thread.submit(Call[T](work))

    async def aclose(self) -> None:
        """Finish what waits and close the connection, with which the thread ends; a second call does nothing."""
        if self._closed is None:
            self._closed = "is closed; open it anew"
            await self._thread.aclose()

    def _work(self, group: Sequence[Call[Any]]) -> list[Any]:
        if self._broken is None:
            try:
                if self._connection is None:
                    self._connection = self._connect()
                self._commit(self._connection, group)
            except LedgerError as problem:
                self._broken = problem
            except Exception as problem:  # noqa: BLE001 - whatever it is, every caller must hear of it
                told = f"{self._name} cannot be written: {problem}. Nothing more was sent. Look at its disk, then run again."
                self._broken = LedgerError(told)
        if self._broken is not None:
            for call in group:
                call.error = copy.copy(self._broken)
        return []

    def _commit(self, connection: Connection, group: Sequence[Call[Any]]) -> None:
        self._before()
        with transaction(connection):
            for call in group:
                try:
                    call.result = call.run(connection)
                except LedgerError as problem:
                    call.error = problem
        self._after()
        self.commits += 1

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _nothing(_: object) -> None:
    """Be asked for nothing but to have begun, or told nothing."""
