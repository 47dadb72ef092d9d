"""One SQLite file that any number of processes of one host read and write at the same time.

Every change of a process goes through one connection on one thread: all that waits at one moment is one transaction and one
fsync. SQLite's locks keep the processes apart. What is committed counts only while the file and its log are where they were: a
log that was removed beneath its users is lost with them.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from rewards_core.errors import StoreError
from rewards_core.sqlite.batches import BatchThread, Call
from rewards_core.sqlite.connection import (
    CALL_ERRORS,
    PASSING_ERRORS,
    Connection,
    SQLiteError,
    connect,
    meaning,
    roll_back,
)
from rewards_core.sqlite.files import FileLock, OpenFiles, refuse_unsafe
from rewards_core.sqlite.migrations import Schema, back_up, layout_of, migrate

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

T = TypeVar("T")
Item = TypeVar("Item")
S = TypeVar("S", bound="Session")

logger = logging.getLogger(__name__)

MAX_LOG_BYTES = 64 * 1024 * 1024
"""A longer log is emptied after the commit that made it so long."""

_TICK = 1.0
_QUIET_PASSES = 6
_SHORTEST_NAP, _LONGEST_NAP = 0.001, 0.005


class Session(Protocol):
    """What the engine's user does with the writing connection."""

    def begin(self) -> None:
        """Prepare for a transaction, which has begun."""
        ...

    def end(self) -> list[Any]:
        """Return what the loop is to be told once the transaction, which is about to be committed, is durable."""
        ...

    def committed(self) -> None:
        """Do what must follow the commit; it is durable."""
        ...

    def tick(self) -> list[Any]:
        """Do what is to be done about once a second, outside of a transaction; return what the loop is to be told."""
        ...


class Engine(Generic[S]):
    """Run changes in group commits and look-ups beside them; opens the file at the first call.

    Args:
        path: The file, made if missing; beside it stand `-wal`, `-shm` and `.lock`.
        schema: What it holds; an older layout is brought to the newest, after a backup beside it.
        session: Makes the user's session of a new writing connection, on the engine's thread.
        tell: Is called in the loop with what has become durable, before the callers are answered.
        busy_timeout: Seconds to wait for another process's lock, 0 or more.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        *,
        session: Callable[[Connection], S],
        tell: Callable[[list[Any]], None],
        busy_timeout: float,
    ) -> None:
        self._path = path
        self._schema = schema
        self._make_session = session
        self._busy_timeout = busy_timeout
        self._gate = threading.RLock()
        self._opened: _Opened[S] | None = None
        self._process: int | None = None
        self._empty_log = False
        self._writing = BatchThread(
            "sqlite-writer",
            self._write,
            tell=tell,
            end=self._end,
            tick=self._tick,
            tick_every=_TICK,
            quiet_passes=_QUIET_PASSES,
        )
        self._reading = BatchThread("sqlite-reader", self._read, tell=tell, end=_nothing)

    def write(self, change: Callable[[S], T]) -> asyncio.Future[T]:
        """Run a change; the future is resolved once it is durable.

        Raises:
            StoreError: this process was forked from one that had opened the file.
        """
        self._check_process()
        return self._writing.submit(Call(change))

    def write_together(self, change: Callable[[S, Sequence[Item]], Sequence[T]], item: Item) -> asyncio.Future[T]:
        """Run a change that takes many items at once, together with the others that wait for it.

        Raises:
            StoreError: as `write`.
        """
        self._check_process()
        return self._writing.submit(Call(change, item))

    def read(self, look: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Look up what is committed; what is looked up is short, so that the log can be emptied.

        Raises:
            StoreError: as `write`.
        """
        self._check_process()
        return self._reading.submit(Call(look))

    async def back_up(self, to: Path) -> None:
        """Copy what is committed into a file of its own, while others go on to write.

        Raises:
            StoreError: the file cannot be written, or the database cannot be read.
        """
        try:
            await self.read(lambda connection: back_up(connection, to))
        except OSError as problem:
            raise StoreError(f"{to} cannot be written: {problem.strerror}. Nothing was backed up.") from None

    async def empty_log(self) -> None:
        """Move the log into the file, so that nothing stands in it any longer that was overwritten since."""
        self._empty_log = True
        await self.write(_change_nothing)

    async def aclose(self) -> None:
        """Finish what was asked for, and let go of the file."""
        await self._reading.aclose()
        await self._writing.aclose()  # last, so that no reader keeps it from moving its log into the file

    def _check_process(self) -> None:
        if self._process is not None and self._process != os.getpid():
            raise StoreError(
                f"{self._path} was opened before this process was forked, and SQLite's locks do not survive a fork. "
                "Make the store in the child, or use it there for the first time."
            )

    # on the writing thread

    def _write(self, batch: Sequence[Call[Any]]) -> list[Any]:
        try:
            opened = self._open()
            if not opened.whole:
                self._leave(opened, "before a commit")
                opened = self._open()
            news = self._transact(opened, batch)
            if not opened.whole:
                self._leave(opened, "during a commit")
            elif self._empty_log or opened.files.log_bytes > MAX_LOG_BYTES:
                self._empty_log = not opened.empty_log() and self._empty_log
            opened.session.committed()
        except CALL_ERRORS as problem:
            return self._one_by_one(batch, meaning(problem, self._path))
        except SQLiteError as problem:
            logger.error("a commit failed: %s", meaning(problem, self._path))  # noqa: TRY400 - one line says it
            for call in batch:
                call.error = meaning(problem, self._path)
        except StoreError as problem:
            logger.error("a commit failed: %s", problem)  # noqa: TRY400 - one line says it
            for call in batch:
                call.error = type(problem)(str(problem))
        except Exception as problem:  # noqa: BLE001 - a fault of one call must not fail its neighbors
            return self._one_by_one(batch, problem)
        else:
            return news
        return []

    def _transact(self, opened: _Opened[S], batch: Sequence[Call[Any]]) -> list[Any]:
        connection, session = opened.writer, opened.session
        try:
            connection.execute("BEGIN IMMEDIATE")
            session.begin()
            groups: dict[Callable[..., Any], list[Call[Any]]] = {}
            for call in batch:
                if call.item is None:
                    call.result = call.run(session)
                else:
                    groups.setdefault(call.run, []).append(call)
            for change, calls in groups.items():
                for call, result in zip(calls, change(session, [call.item for call in calls]), strict=True):
                    call.result = result
            news = session.end()
            connection.execute("COMMIT")
        except BaseException as problem:
            self._take_back(opened, problem)
            raise
        return news

    def _one_by_one(self, batch: Sequence[Call[Any]], problem: Exception) -> list[Any]:
        if len(batch) > 1:
            return [piece for call in batch for piece in self._write([call])]
        batch[0].error = problem
        return []

    def _take_back(self, opened: _Opened[S], problem: BaseException) -> None:
        """Roll back; a connection that met more than a passing trouble, or cannot even do that, is opened again next time."""
        try:
            roll_back(opened.writer)
        except SQLiteError:
            self._close(opened)
            return
        if isinstance(problem, SQLiteError) and not isinstance(problem, (*CALL_ERRORS, *PASSING_ERRORS)):
            self._close(opened)

    def _tick(self) -> list[Any]:
        opened = self._opened
        if opened is None:
            return []
        try:
            if not opened.whole:
                self._leave(opened, "between two commits")
                opened = self._open()
            return opened.session.tick()
        except (SQLiteError, StoreError) as problem:
            logger.warning("the store's upkeep failed and is repeated: %s", problem)
            if opened.writer.in_transaction:
                self._take_back(opened, problem)
            return []

    def _leave(self, opened: _Opened[S], when: str) -> None:
        """Move the log into the file, wherever both may be now, and close them; until that is done they stay open.

        Raises:
            StoreError: the file itself is gone, or the log cannot be moved into it; nothing of this moment may be acknowledged.
        """
        moved = opened.files.moved
        logger.error(
            "a file of %s was removed or replaced %s; its log is moved into it, and it is opened again", self._path, when
        )
        if not opened.move_log(time.monotonic() + self._busy_timeout):
            raise StoreError(
                f"The log of {self._path} was removed while in use, and a reader keeps it from being moved into the file. "
                "End the program that reads it; nothing else is needed."
            )
        self._close(opened)
        if moved:
            raise StoreError(
                f"{self._path} was moved or removed while in use. Put it back; otherwise the next event starts a new file."
            )

    # on the reading thread

    def _read(self, batch: Sequence[Call[Any]]) -> list[Any]:
        for call in batch:
            try:
                with self._gate:  # it must not be closed meanwhile
                    opened = self._open()
                    call.result = call.run(opened.reader)
            except SQLiteError as problem:
                call.error = meaning(problem, self._path)
            except Exception as problem:  # noqa: BLE001 - for the caller
                call.error = problem
        return []

    # on either

    def _open(self) -> _Opened[S]:
        if self._opened is not None:
            return self._opened
        with self._gate:
            if self._opened is None:
                self._opened = self._open_files()
                self._process = os.getpid()
            return self._opened

    def _open_files(self) -> _Opened[S]:
        """Open the file beside others that have the same files open, or alone.

        The first process notes in the lock's file which files it has opened. A later one that finds others in their place lets go
        again, and waits until the earlier ones have noticed too.
        """
        refuse_unsafe(self._path)
        lock = FileLock(self._path)
        until = time.monotonic() + max(self._busy_timeout, 2 * _TICK)
        try:
            while True:
                alone = lock.take()
                if alone or lock.take(shared=True):
                    opened = self._connect(lock, alone=alone)
                    if opened is not None:
                        return opened
                if time.monotonic() >= until:
                    raise self._kept_away(lock)
                _nap()
        except OSError as problem:
            lock.release()
            raise StoreError(
                f"{self._path} cannot be opened: {problem.strerror}. "
                "Its folder must exist, and this user must be allowed to write there."
            ) from None
        except SQLiteError as problem:
            lock.release()
            raise meaning(problem, self._path) from None
        except BaseException:
            lock.release()
            raise

    def _connect(self, lock: FileLock, *, alone: bool) -> _Opened[S] | None:
        """Return the opened file, None if others have other files open than those that stand here."""
        writer = connect(self._path, busy_timeout=self._busy_timeout)
        reader: Connection | None = None
        try:
            self._check_layout(writer, alone=alone)
            reader = connect(self._path, read_only=True, busy_timeout=self._busy_timeout)
            layout_of(reader, self._path, self._schema)
            files = OpenFiles(self._path)
            note = " ".join(map(str, files.inodes))
            if alone:
                lock.note(note)
                if lock.take(shared=True):
                    return _Opened(lock, files, writer, reader, self._make_session(writer))
            elif lock.noted() == note:
                return _Opened(lock, files, writer, reader, self._make_session(writer))
        except BaseException:
            _close_all(reader, writer)
            raise
        _close_all(reader, writer)
        lock.release()
        return None

    def _check_layout(self, connection: Connection, *, alone: bool) -> None:
        if alone:
            migrate(connection, self._path, self._schema)
            return
        self._schema.register(connection)
        if layout_of(connection, self._path, self._schema) != self._schema.layout:
            raise StoreError(
                f"{self._path} is in use by an older version of rewards-async. End its processes, then start this one."
            )

    def _kept_away(self, lock: FileLock) -> StoreError:
        pid = lock.holder()
        return StoreError(
            f"{self._path} is in use by process {pid or 'unknown'}, which does not share it: it runs rewards-async 0.1, or has "
            "not noticed yet that the file was replaced. Nothing was read or written. End that process."
        )

    def _close(self, opened: _Opened[S]) -> None:
        with self._gate:
            if self._opened is opened:
                self._opened = None
                _close_all(opened.reader, opened.writer)
                opened.lock.release()

    def _end(self) -> None:
        opened = self._opened
        if opened is not None:
            if not opened.whole:
                with suppress(SQLiteError):
                    opened.move_log(time.monotonic() + self._busy_timeout)
            self._close(opened)


class _Opened(Generic[S]):
    """Everything of the file that is open."""

    def __init__(self, lock: FileLock, files: OpenFiles, writer: Connection, reader: Connection, session: S) -> None:
        self.lock = lock
        self.files = files
        self.writer = writer
        self.reader = reader
        self.session = session

    @property
    def whole(self) -> bool:
        """Whether the files that are open are still the ones that others find."""
        return self.files.whole and self.lock.in_place

    def empty_log(self) -> bool:
        """Move the log into the file and empty it; return False where another process reads from it, or does the same."""
        busy, _, _ = self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
        return not busy

    def move_log(self, until: float) -> bool:
        """Move the log into the file, whatever becomes of the log itself; return False where a reader prevents it."""
        while True:
            _, pages, moved = self.writer.execute("PRAGMA wal_checkpoint(FULL)").fetchall()[0]
            if pages == moved >= 0:
                return True
            if time.monotonic() >= until:
                return False
            _nap()  # another process moves it: SQLite does not wait for that by itself


def _close_all(*connections: Connection | None) -> None:
    for connection in connections:
        if connection is not None:
            connection.close(True)  # also with a statement that was not read to its end


def _nap() -> None:
    time.sleep(random.uniform(_SHORTEST_NAP, _LONGEST_NAP))  # noqa: S311 - no secret


def _change_nothing(_: Session) -> None:
    """Commit, and nothing else."""


def _nothing() -> None:
    """Do nothing at the end of the reading thread."""
