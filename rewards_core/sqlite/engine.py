"""One SQLite file that any number of processes of one host read and write at the same time.

Every change of a process goes through one connection on one thread: all that waits at one moment is one transaction and one
fsync. SQLite's locks keep the processes apart. What is committed counts only while the file and its log are where they were: a
log that was removed beneath its users is lost with them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from rewards_core.errors import StoreError
from rewards_core.log_limit import LogLimit
from rewards_core.sqlite.batches import BatchThread, Call
from rewards_core.sqlite.connection import CALL_ERRORS, PASSING_ERRORS, Connection, FullError, SQLiteError, meaning, roll_back
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
"""A longer log is emptied at the next tick."""
TICK = 1.0
"""Seconds between two ticks of an engine."""

_forks = 0  # how many forks this process is away from the one that imported this; asking for its id costs 3 % of an insert
_QUIET_PASSES = 6
_WAIT_FOR_READERS = 0.1


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
        busy_timeout: Seconds to wait for another process that holds the lock and commits nothing, 0 or more.
        max_log_bytes: A longer log is emptied at the next tick.
        tick_every: Seconds between two looks at whether the files stand where they were, and at what others wrote; above 0.
        patience: Seconds to wait, at least, until other processes have noticed that a file was replaced, or have gone on with
            opening it; 0 or more.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        *,
        session: Callable[[Connection], S],
        tell: Callable[[list[Any]], None],
        busy_timeout: float,
        max_log_bytes: int = MAX_LOG_BYTES,
        tick_every: float = TICK,
        patience: float = 2 * TICK,
    ) -> None:
        self._path = path
        self._schema = schema
        self._make_session = session
        self._busy_timeout = busy_timeout
        self._max_log_bytes = max_log_bytes
        self._patience = max(busy_timeout, patience)
        self._gate = threading.RLock()
        self._opened: Database[S] | None = None
        self._forks: int | None = None
        self._was_open = False
        self._empty_log = False
        self._log_limit = LogLimit()
        self._writing = BatchThread(
            "sqlite-writer",
            self._write,
            tell=tell,
            end=self._end,
            tick=self._tick,
            tick_every=tick_every,
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
        self._writing.start()  # its ticks see whether the files stand where they were
        return self._reading.submit(Call(look))

    async def back_up(self, to: Path) -> None:
        """Copy what is committed into a file of its own, while others go on to read and write.

        Raises:
            StoreError: the file cannot be written, or the database cannot be read.
        """
        source = await self.read(lambda _: self._open().connect_to_read())
        await asyncio.get_running_loop().run_in_executor(None, self._copy, source, to)

    async def empty_log(self) -> None:
        """Move the log into the file, so that nothing stands in it any longer that was overwritten since.

        Raises:
            StoreError: another program keeps it from being emptied; that is tried again later.
        """
        self._empty_log = True
        await self.write(_change_nothing)
        if self._empty_log:
            raise StoreError(
                f"What was erased still stands in the log of {self._path}, because another program reads from it. "
                "End that program, or its transaction, then repeat the call."
            )

    async def aclose(self) -> None:
        """Finish what was asked for, and let go of the file; what a fork left of another process's engine is left alone."""
        if not self.forked:
            await self._reading.aclose()
            await self._writing.aclose()  # last, so that no reader keeps it from moving its log into the file

    @property
    def forked(self) -> bool:
        """Whether another process used it first, from which this one was forked."""
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
            raise meaning(problem, self._path) from None

    # on the writing thread

    def _write(self, batch: Sequence[Call[Any]]) -> list[Any]:
        try:
            opened = self._open()
            news = self._transact(opened, batch)
            if not opened.whole:  # before anything is acknowledged: each look costs as much as some rows
                self._leave(opened)
        except _CallFailed as failed:
            return self._one_by_one(batch, failed.problem)
        except (SQLiteError, StoreError) as problem:
            told = meaning(problem, self._path) if isinstance(problem, SQLiteError) else problem
            if self._log_limit.allows(str(told)):
                logger.error("a commit failed: %s", told)  # noqa: TRY400 - one line says it
            for call in batch:
                call.error = type(told)(str(told))
            return []
        try:  # it is durable: nothing that fails from here on may fail or repeat a call
            opened.session.committed()
            if self._empty_log and self._opened is opened:
                self._empty_log = not opened.empty_log(self._busy_timeout)
        except Exception:
            logger.exception("the store's work after a commit failed")
        return news

    def _transact(self, opened: Database[S], batch: Sequence[Call[Any]]) -> list[Any]:
        connection, session = opened.writer, opened.session
        try:
            connection.execute("BEGIN IMMEDIATE")
            session.begin()
            _run(session, batch)
            news = session.end()
            connection.execute("COMMIT")
        except BaseException as problem:
            self._take_back(opened, problem)
            raise
        return news

    def _one_by_one(self, batch: Sequence[Call[Any]], problem: Exception) -> list[Any]:
        if len(batch) > 1:
            return [piece for call in batch for piece in self._write([call])]
        batch[0].error = meaning(problem, self._path) if isinstance(problem, SQLiteError) else problem
        return []

    def _take_back(self, opened: Database[S], problem: BaseException) -> None:
        """Roll back; a connection that met more than a passing trouble, or cannot even do that, is opened again next time."""
        try:
            roll_back(opened.writer)
        except SQLiteError:
            self._close(opened)
            return
        if isinstance(problem, SQLiteError) and not isinstance(problem, PASSING_ERRORS):
            self._close(opened)

    def _tick(self) -> list[Any]:
        if not self._was_open or (self._opened is None and not self._path.exists()):
            return []  # only a call may make a file
        try:
            opened = self._open()
            if not opened.in_place:
                self._leave(opened)
                opened = self._open()
            if self._empty_log or opened.files.log_bytes > self._max_log_bytes:
                self._empty_log = not opened.empty_log(_WAIT_FOR_READERS) and self._empty_log
        except (SQLiteError, StoreError) as problem:
            logger.warning("the store's upkeep failed and is repeated: %s", problem)
            return []
        try:
            return opened.session.tick()
        except SQLiteError as problem:
            logger.warning("the store's upkeep failed and is repeated: %s", meaning(problem, self._path))
            self._take_back(opened, problem)
            return []

    def _leave(self, opened: Database[S]) -> None:
        """Move the log into the file, wherever both may be now, and close them; until that is done they stay open.

        Raises:
            StoreError: the file itself is gone, or the log cannot be moved into it; nothing of this moment may be acknowledged.
        """
        moved = opened.files.moved
        logger.error("a file of %s was removed or replaced; its log is moved into it, and it is opened again", self._path)
        if not opened.move_log():
            raise StoreError(
                f"The log of {self._path} was removed while in use, and a reader keeps it from being moved into the file. "
                "End the program that reads it; nothing else is needed."
            )
        if moved:
            opened.files.remove_log()
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
                    call.result = self._open().look(call.run)
            except SQLiteError as problem:
                call.error = meaning(problem, self._path)
            except Exception as problem:  # noqa: BLE001 - for the caller
                call.error = problem
        return []

    # on any

    def _open(self) -> Database[S]:
        if self._opened is not None:
            return self._opened
        with self._gate:
            if self._opened is None:
                self._opened = open_database(
                    self._path,
                    self._schema,
                    session=self._make_session,
                    busy_timeout=self._busy_timeout,
                    patience=self._patience,
                )
                self._was_open = True
            return self._opened

    def _close(self, opened: Database[S]) -> None:
        with self._gate:
            self._opened = None
            opened.close()

    def _end(self) -> None:
        opened = self._opened
        if opened is None:
            return
        try:
            if not opened.whole and not opened.move_log():
                logger.error("the log of %s was removed, and a reader keeps it from being moved into the file", self._path)
        except SQLiteError as problem:
            logger.error("the log of %s was removed, and cannot be moved into the file: %s", self._path, problem)  # noqa: TRY400
        self._close(opened)


class _CallFailed(Exception):
    """A call cannot be done, through no fault of the others in its batch."""

    def __init__(self, problem: Exception) -> None:
        self.problem = problem


def _run(session: Session, batch: Sequence[Call[Any]]) -> None:
    """Run calls in one transaction, those that may go together after the others."""
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
    except Exception as problem:  # noqa: BLE001 - a fault of one call must not fail its neighbors
        raise _CallFailed(problem) from None


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


def _change_nothing(_: object) -> None:
    """Only commit."""


def _nothing() -> None:
    """Do nothing at the end of the reading thread."""
