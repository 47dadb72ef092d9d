"""One SQLite file that all processes of one host read and write at the same time.

All changes of a process go through one connection on one thread: the changes that wait at one moment are one transaction with one
fsync. SQLite's locks keep the processes apart. A commit counts only while the file and its log were not replaced: a log that was
removed is lost when its last user ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from rewards_core.batches import Call
from rewards_core.errors import StoreError
from rewards_core.log_limit import LogLimit
from rewards_core.sqlite.batches import BatchThread
from rewards_core.sqlite.connection import (
    CALL_ERRORS,
    PASSING_ERRORS,
    Connection,
    FullError,
    SQLiteError,
    as_store_error,
    roll_back,
)
from rewards_core.sqlite.database import Database, open_database
from rewards_core.sqlite.files import NO_FORK
from rewards_core.sqlite.migrations import Schema, back_up

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")
Item = TypeVar("Item")
S = TypeVar("S", bound="Session")

logger = logging.getLogger(__name__)

MAX_LOG_BYTES = 64 * 1024 * 1024
"""A longer log is truncated at the next tick."""
TICK = 1.0
"""Seconds between two ticks of an engine."""

_forks = 0  # forks between the process that imported this and this one; os.getpid() costs 3 % of an insert
_QUIET_PASSES = 6
_WAIT_FOR_READERS = 0.1


class Session(Protocol):
    """The user's work on the writing connection."""

    def begin(self) -> None:
        """Prepare for a transaction that has begun."""
        ...

    def end(self) -> list[Any]:
        """Return the notifications for the loop; the transaction is about to be committed."""
        ...

    def committed(self) -> None:
        """Do what follows the durable commit."""
        ...

    def tick(self) -> list[Any]:
        """Work about once a second, outside of a transaction; return notifications for the loop."""
        ...


class Engine(Generic[S]):
    """Run changes in group commits, and reads beside them; the file is opened at the first call.

    Args:
        path: The file, created if missing; beside it are `-wal`, `-shm` and `.lock`.
        schema: Its content; an older layout is migrated, after a backup beside it.
        session: Makes the session on a new writing connection, on the engine's thread.
        notify: Called in the loop with the notifications of a durable commit, before its callers resume.
        busy_timeout: Seconds to wait for the lock of another process that does not commit, 0 or more.
        max_log_bytes: A longer log is truncated at the next tick.
        tick_every: Seconds between two checks of the files and of the changes of other processes; above 0.
        open_timeout: Least seconds to wait for other processes to notice that a file was replaced, or to make progress with
            opening it; 0 or more.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        *,
        session: Callable[[Connection], S],
        notify: Callable[[list[Any]], None],
        busy_timeout: float,
        max_log_bytes: int = MAX_LOG_BYTES,
        tick_every: float = TICK,
        open_timeout: float = 2 * TICK,
    ) -> None:
        self._path = path
        self._schema = schema
        self._make_session = session
        self._busy_timeout = busy_timeout
        self._max_log_bytes = max_log_bytes
        self._open_timeout = max(busy_timeout, open_timeout)
        self._gate = threading.RLock()
        self._database: Database[S] | None = None
        self._forks: int | None = None
        self._was_open = False
        self._truncate_log = False
        self._log_limit = LogLimit()
        self._writing = BatchThread(
            "sqlite-writer",
            self._write,
            notify=notify,
            end=self._end,
            tick=self._tick,
            tick_every=tick_every,
            quiet_passes=_QUIET_PASSES,
        )
        self._reading = BatchThread("sqlite-reader", self._read, notify=notify, end=lambda: None)

    def write(self, change: Callable[[S], T]) -> asyncio.Future[T]:
        """Run a change; the future is done when it is durable.

        Raises:
            StoreError: this process was forked from a process that had opened the file.
        """
        self._check_process()
        return self._writing.submit(Call(change))

    def write_together(self, change: Callable[[S, Sequence[Item]], Sequence[T]], item: Item) -> asyncio.Future[T]:
        """Run a change that takes many items at once, with all items that wait for it; raises as `write`."""
        self._check_process()
        return self._writing.submit(Call(change, item))

    def read(self, run: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Run a short read of committed data; long reads keep the log from being truncated. Raises as `write`."""
        self._check_process()
        self._writing.start()  # its ticks check the files
        return self._reading.submit(Call(run))

    async def back_up(self, to: Path) -> None:
        """Copy the committed data into another file, while reads and writes continue.

        Raises:
            StoreError: the file cannot be written, or the database cannot be read.
        """
        source = await self.read(lambda _: self._open().connect_to_read())
        await asyncio.get_running_loop().run_in_executor(None, self._copy, source, to)

    async def truncate_log(self) -> None:
        """Truncate the log, so that overwritten data is gone from it.

        Raises:
            StoreError: another program prevents it; it is tried again later.
        """
        self._truncate_log = True
        await self.write(lambda _: None)
        if self._truncate_log:
            raise StoreError(
                f"The erased data is still in the log of {self._path}, because another program reads from it. "
                "End that program or its transaction, then repeat the call."
            )

    async def aclose(self) -> None:
        """Finish the queued calls and close the file; does nothing in a forked child."""
        if not self.forked:
            await self._reading.aclose()
            await self._writing.aclose()  # last, so that no reader prevents its checkpoint

    @property
    def forked(self) -> bool:
        """Whether this process was forked from a process that used the engine."""
        return self._forks is not None and self._forks != _forks

    def _check_process(self) -> None:
        if self._forks is None:
            self._forks = _forks
        elif self._forks != _forks:
            raise StoreError(f"{self._path} was opened before this process was forked, {NO_FORK}")

    def _copy(self, source: Connection, to: Path) -> None:
        try:
            with closing(source):
                back_up(source, to)
        except OSError as problem:
            raise StoreError(f"{to} cannot be written: {problem.strerror}. Nothing was backed up.") from None
        except FullError:
            raise StoreError(f"The disk of {to} is full. Nothing was backed up.") from None
        except SQLiteError as problem:
            raise as_store_error(problem, self._path) from None

    # on the writing thread

    def _write(self, batch: Sequence[Call[Any]]) -> list[Any]:
        try:
            database = self._open()
            notifications = self._transact(database, batch)
            if not database.intact:  # checked before anything is acknowledged; each check costs as much as some rows
                self._abandon(database)
        except _CallFailed as failed:
            return self._one_by_one(batch, failed.problem)
        except (SQLiteError, StoreError) as problem:
            error = as_store_error(problem, self._path) if isinstance(problem, SQLiteError) else problem
            if self._log_limit.allows(str(error)):
                logger.error("a commit failed; its callers get this error: %s", error)  # noqa: TRY400 - one line is enough
            for call in batch:
                call.error = type(error)(str(error))
            return []
        try:  # the commit is durable: no later error may fail or repeat a call
            database.session.committed()
            if self._truncate_log and self._database is database:
                self._truncate_log = not database.truncate_log(self._busy_timeout)
        except Exception:
            logger.exception("a commit is durable, but the store's work after it failed")
        return notifications

    def _transact(self, database: Database[S], batch: Sequence[Call[Any]]) -> list[Any]:
        connection, session = database.writer, database.session
        try:
            connection.execute("BEGIN IMMEDIATE")
            session.begin()
            _run(session, batch)
            notifications = session.end()
            connection.execute("COMMIT")
        except BaseException as problem:
            self._roll_back(database, problem)
            raise
        return notifications

    def _one_by_one(self, batch: Sequence[Call[Any]], problem: Exception) -> list[Any]:
        if len(batch) > 1:
            return [piece for call in batch for piece in self._write([call])]
        batch[0].error = as_store_error(problem, self._path) if isinstance(problem, SQLiteError) else problem
        return []

    def _roll_back(self, database: Database[S], problem: BaseException) -> None:
        """Roll back; after a lasting error the connection is opened again next time."""
        try:
            roll_back(database.writer)
        except SQLiteError:
            self._close(database)
            return
        if isinstance(problem, SQLiteError) and not isinstance(problem, PASSING_ERRORS):
            self._close(database)

    def _tick(self) -> list[Any]:
        if not self._was_open or (self._database is None and not self._path.exists()):
            return []  # only a call may create a file
        try:
            database = self._open()
            if not database.in_place:
                self._abandon(database)
                database = self._open()
            if self._truncate_log or database.files.log_bytes > self._max_log_bytes:
                self._truncate_log = not database.truncate_log(_WAIT_FOR_READERS) and self._truncate_log
        except (SQLiteError, StoreError) as problem:
            logger.warning("the store's maintenance failed and is retried: %s", problem)
            return []
        try:
            return database.session.tick()
        except (SQLiteError, StoreError) as problem:
            error = as_store_error(problem, self._path) if isinstance(problem, SQLiteError) else problem
            logger.warning("the store's maintenance failed and is retried: %s", error)
            self._roll_back(database, problem)
            return []

    def _abandon(self, database: Database[S]) -> None:
        """Checkpoint the log, wherever both files are now, and close them; until that succeeds they stay open.

        Raises:
            StoreError: the file itself is gone, or a reader prevents the checkpoint; the present batch must not be acknowledged.
        """
        moved = database.files.moved
        logger.error(
            "a file of %s was removed or replaced; the log is written into the file, and the store opens it again", self._path
        )
        if not database.checkpoint():
            raise StoreError(
                f"The log of {self._path} was removed while in use, and a reader prevents writing it into the file. "
                "End the program that reads the file; nothing else is needed."
            )
        if moved:
            database.files.remove_log()
        self._close(database)
        if moved:
            raise StoreError(
                f"{self._path} was moved or removed while in use. Put it back; otherwise the next event starts a new file."
            )

    # on the reading thread

    def _read(self, batch: Sequence[Call[Any]]) -> list[Any]:
        for call in batch:
            try:
                with self._gate:  # it must not be closed during the read
                    call.result = self._open().read(call.run)
            except SQLiteError as problem:
                call.error = as_store_error(problem, self._path)
            except Exception as problem:  # noqa: BLE001 - for the caller
                call.error = problem
        return []

    # on any

    def _open(self) -> Database[S]:
        if self._database is not None:
            return self._database
        with self._gate:
            if self._database is None:
                self._database = open_database(
                    self._path,
                    self._schema,
                    session=self._make_session,
                    busy_timeout=self._busy_timeout,
                    open_timeout=self._open_timeout,
                )
                self._was_open = True
            return self._database

    def _close(self, database: Database[S]) -> None:
        with self._gate:
            self._database = None
            database.close()

    def _end(self) -> None:
        database = self._database
        if database is None:
            return
        try:
            if not database.intact and not database.checkpoint():
                logger.error("the log of %s was removed, and a reader prevents writing it into the file", self._path)
        except SQLiteError as problem:
            logger.error("the log of %s was removed, and cannot be written into the file: %s", self._path, problem)  # noqa: TRY400
        self._close(database)


class _CallFailed(Exception):
    """One call failed; the others of its batch are run alone."""

    def __init__(self, problem: Exception) -> None:
        self.problem = problem


def _run(session: Session, batch: Sequence[Call[Any]]) -> None:
    """Run calls in one transaction: first those without items, then the grouped ones."""
    try:
        groups: dict[Callable[..., Any], list[Call[Any]]] = {}
        for call in batch:
            if call.item is None:
                call.result = call.run(session)
            else:
                groups.setdefault(call.run, []).append(call)
        for change, calls in groups.items():
            for call, result in zip(calls, change(session, [call.item for call in calls]), strict=True):
                call.result = result
    except CALL_ERRORS as problem:
        raise _CallFailed(problem) from None
    except SQLiteError:
        raise
    except Exception as problem:  # noqa: BLE001 - an error of one call must not fail the others
        raise _CallFailed(problem) from None


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)
