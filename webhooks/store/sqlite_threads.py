"""The two threads of a SQLite store: one commits what waits together, one looks up, and watches what others commit."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from webhooks.errors import StoreError
from rewards_core.sqlite.batches import BatchThread, Call
from webhooks.store.sqlite_file import cannot_open, meaning, open_reader, open_writer
from webhooks.store.sqlite_guard import InPlace, WriterLock
from webhooks.store.sqlite_reads import Reader
from webhooks.store.sqlite_writes import News, Writer

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

T = TypeVar("T")
Item = TypeVar("Item")
Tell = Callable[[list[News]], None]

logger = logging.getLogger(__name__)

_LOOK_EVERY = 0.02
_PATIENCE = 6
_OUTCOMES_AT_ONCE = 1_000
_PASSING = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL})
_OF_ONE_CALL = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.NotSupportedError)


class WriterThread:
    """Run changes, everything that waits at one time in one transaction.

    Args:
        path: The store's file.
        lock: The right to write it.
        busy_seconds: How long to wait for somebody else's lock.
        clock: Unix time in seconds.
        conflict_handlers: Scope to the handlers that get a job on conflicts.
        tell: Is called in the loop with what has become durable, before the callers are answered.
    """

    def __init__(
        self,
        path: Path,
        lock: WriterLock,
        busy_seconds: float,
        clock: Callable[[], float],
        conflict_handlers: Mapping[str, Sequence[str]],
        tell: Tell,
    ) -> None:
        self.opened = False
        self._path = path
        self._lock = lock
        self._busy_seconds = busy_seconds
        self._clock = clock
        self._conflict_handlers = conflict_handlers
        self._writer: Writer | None = None
        self._standing: InPlace | None = None
        self._thread = BatchThread("store-writer", self._work, tell=tell, end=self._end, patience=_PATIENCE)

    def run(self, change: Callable[[Writer], T]) -> asyncio.Future[T]:
        """Run a change; the future is resolved once it is durable."""
        return self._thread.submit(Call(change))

    def together(self, change: Callable[[Writer, Sequence[Item]], Sequence[T]], item: Item) -> asyncio.Future[T]:
        """Run a change that takes many items at once, together with the others that wait for it."""
        return self._thread.submit(Call(change, item))

    async def aclose(self) -> None:
        """Run what was asked for, and end."""
        await self._thread.aclose()

    def _work(self, batch: Sequence[Call[Any]]) -> list[News]:
        try:
            writer = self._open()
            news = self._transact(writer, batch)
            return news + self._look_after(writer)
        except _OF_ONE_CALL as problem:
            return self._one_by_one(batch, meaning(problem, self._path))
        except sqlite3.Error as problem:
            logger.error("the store could not write: %s", meaning(problem, self._path))  # noqa: TRY400 - one line says it
            for call in batch:
                call.error = meaning(problem, self._path)
        except StoreError as problem:
            logger.error("the store could not be opened: %s", problem)  # noqa: TRY400 - one line says it
            for call in batch:
                call.error = type(problem)(str(problem))
        except Exception as problem:  # noqa: BLE001 - a fault of one call must not fail its neighbours
            return self._one_by_one(batch, problem)
        return []

    def _open(self) -> Writer:
        try:
            alone = self._lock.holds()
        except OSError as problem:
            raise cannot_open(self._lock.path, problem) from None
        if not alone:
            self._close()
            raise StoreError(
                f"expected to be the one process that writes {self._path}, got its lock file removed and another process at it; "
                "end one of the two"
            )
        if self._writer is not None and self._standing is not None:
            if not self._standing.moved:
                return self._writer
            self._leave(self._writer)
            raise StoreError(
                f"expected {self._path} in its place, got it moved or removed; "
                "put it back, else the next delivery begins a new one"
            )
        connection = open_writer(self._path, busy_seconds=self._busy_seconds)
        self._writer = Writer(connection, self._conflict_handlers, self._clock)
        self._standing = InPlace(self._path)
        self.opened = True
        return self._writer

    def _look_after(self, writer: Writer) -> list[News]:
        """Make sure that what was just committed outlives the process, also where somebody removed the log beneath it."""
        if self._standing is None or self._standing.whole:
            return []
        logger.error("a file of %s was removed while in use; its log is moved into it, and it is opened anew", self._path)
        self._leave(writer)
        return [News(moved=True)]

    def _leave(self, writer: Writer) -> None:
        """Move the log into the file, wherever both may be now, and close them; until that is done they stay open."""
        if not writer.empty_log():
            raise StoreError(
                f"expected {self._path} with its log beside it, got one of them removed, and the log being read; "
                "end what reads it, nothing else is needed"
            )
        self._close()

    def _transact(self, writer: Writer, batch: Sequence[Call[Any]]) -> list[News]:
        try:
            writer.begin()
            groups: dict[Callable[..., Any], list[Call[Any]]] = {}
            for call in batch:
                if call.item is None:
                    call.result = call.run(writer)
                else:
                    groups.setdefault(call.run, []).append(call)
            for change, calls in groups.items():
                for call, result in zip(calls, change(writer, [call.item for call in calls]), strict=True):
                    call.result = result
            return writer.commit()
        except BaseException as problem:
            self._take_back(writer, problem)
            raise

    def _one_by_one(self, batch: Sequence[Call[Any]], problem: Exception) -> list[News]:
        if len(batch) > 1:
            return [piece for call in batch for piece in self._work([call])]
        batch[0].error = problem
        return []

    def _take_back(self, writer: Writer, problem: BaseException) -> None:
        """Roll back; a connection that met more than a passing trouble, or cannot even do that, is opened anew next time."""
        broken = isinstance(problem, sqlite3.Error) and not isinstance(problem, _OF_ONE_CALL)
        try:
            writer.rollback()
        except sqlite3.Error:
            self._close()
            return
        if broken and _primary_code(problem) not in _PASSING:
            self._close()

    def _end(self) -> None:
        if self._writer is not None and self._standing is not None and not self._standing.whole:
            with suppress(sqlite3.Error):
                self._writer.empty_log()
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class ReaderThread:
    """Look things up, and where another process writes, see what it has committed.

    Args:
        path: The store's file.
        busy_seconds: How long to wait for somebody else's lock.
        tell: Is called in the loop with the outcomes another process recorded.
    """

    def __init__(self, path: Path, busy_seconds: float, tell: Tell) -> None:
        self._path = path
        self._busy_seconds = busy_seconds
        self._reader: Reader | None = None
        self._standing: InPlace | None = None
        self._seen_version: int | None = None
        self._seen_outcome: int | None = None
        self._thread = BatchThread(
            "store-reader", self._work, tell=tell, end=self._close, idle=self._look_for_news, idle_every=_LOOK_EVERY
        )

    def run(self, look: Callable[[Reader], T]) -> asyncio.Future[T]:
        """Look something up."""
        return self._thread.submit(Call(look))

    def watch(self, on: bool) -> None:
        """Tell of every outcome recorded from now on, or no longer."""
        self._thread.watching = on
        if on:
            self.look_again()

    def look_again(self) -> None:
        """Open the file if need be, or open it anew if it was removed."""
        begun = self.run(_nothing)
        begun.add_done_callback(lambda future: future.cancelled() or future.exception())

    async def aclose(self) -> None:
        """Answer what was asked for, and end."""
        self._thread.watching = False
        await self._thread.aclose()

    def _work(self, batch: Sequence[Call[Any]]) -> list[News]:
        self._let_go()
        news = self._look_for_news() if self._thread.watching else []  # before the look-ups: what they miss will be told
        for call in batch:
            try:
                call.result = call.run(self._open())
            except sqlite3.Error as problem:
                self._close()
                call.error = meaning(problem, self._path)
            except Exception as problem:  # noqa: BLE001 - for whoever asked
                call.error = problem
        return news

    def _look_for_news(self) -> list[News]:
        self._let_go()
        try:
            reader = self._open()
            version = reader.changed()
            if version == self._seen_version:
                return []
            if self._seen_outcome is None:
                self._seen_outcome = reader.newest_outcome()
                self._seen_version = version
                return []
            found = reader.outcomes_after(self._seen_outcome, _OUTCOMES_AT_ONCE)
        except (sqlite3.Error, StoreError):
            self._close()
            return []
        if len(found) < _OUTCOMES_AT_ONCE:
            self._seen_version = version
        if found:
            self._seen_outcome = found[-1][0]
        return [News(settled=outcome) for _, outcome in found]

    def _open(self) -> Reader:
        if self._reader is None:
            self._reader = Reader(open_reader(self._path, busy_seconds=self._busy_seconds))
            before, self._standing = self._standing, InPlace(self._path)
            if before is not None and before.file != self._standing.file and self._seen_outcome is not None:
                self._seen_outcome = 0  # another file counts its outcomes anew
        return self._reader

    def _let_go(self) -> None:
        """Close what stands no longer where it was opened."""
        if self._reader is not None and self._standing is not None and not self._standing.whole:
            self._close()

    def _close(self) -> None:
        self._seen_version = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _primary_code(problem: BaseException) -> int:
    return getattr(problem, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF


def _nothing(_: object) -> None:
    """Ask for nothing but that the thread has begun."""
