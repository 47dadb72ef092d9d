"""A SQLite file that several processes have open, none of them with files that were removed or replaced."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from rewards_core.errors import StoreError
from rewards_core.sqlite.connection import (
    CALL_ERRORS,
    PASSING_ERRORS,
    Connection,
    SQLiteError,
    as_store_error,
    connect,
    fetch,
    file_state,
    in_use,
    nap,
    set_busy_timeout,
)
from rewards_core.sqlite.files import FileLock, OpenFiles, check_shareable
from rewards_core.sqlite.migrations import Schema, layout_of, migrate

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")
S = TypeVar("S")

_STEPS_AT_ONCE = 1_000_000
"""SQLite instructions of a migration, some milliseconds, after which waiting processes see progress."""


class Database(Generic[S]):
    """This process's two connections to a file: `writer`, with its `session`, and a private reader. See `open_database`."""

    def __init__(
        self,
        opener: _Opener[S],
        lock: FileLock,
        files: OpenFiles,
        writer: Connection,
        reader: Connection,
    ) -> None:
        self.writer = writer
        self.session = opener.session(writer)
        self.files = files
        self._opener = opener
        self._lock = lock
        self._reader: Connection | None = reader

    @property
    def intact(self) -> bool:
        """Whether the file and its log were not replaced, and the lock was not removed."""
        return self.files.intact and self._lock.linked

    @property
    def in_place(self) -> bool:
        """Whether it is intact, and the lock was not moved either."""
        return self.intact and self._lock.in_place

    def read(self, run: Callable[[Connection], T]) -> T:
        """Run a function that reads; after a lasting error its connection is opened again next time.

        Raises:
            StoreError: a file was removed or replaced while the connection was opened.
            apsw.Error: it cannot be read.
        """
        if self._reader is None:
            self._reader = self.connect_to_read()
        try:
            return run(self._reader)
        except SQLiteError as problem:
            if not isinstance(problem, (*CALL_ERRORS, *PASSING_ERRORS)):
                _close_all(self._reader)
                self._reader = None
            raise

    def connect_to_read(self) -> Connection:
        """Open another connection. Raises `StoreError` if it may have a different log from the other connections."""
        connection: Connection | None = None
        try:
            connection = self._opener.connect_to_read()
        except SQLiteError:
            if self.intact:
                raise
        if connection is not None and self.intact:
            return connection
        _close_all(connection)
        raise StoreError(f"A file of {self._opener.path} was removed or replaced. Nothing was read. Repeat the call.")

    def truncate_log(self, seconds: float) -> bool:
        """Checkpoint and truncate the log; return False if readers prevent it for this many seconds."""
        return self._run_checkpoint("TRUNCATE", seconds)

    def checkpoint(self) -> bool:
        """Checkpoint the log, wherever both files are now; return False if a reader prevents it for `busy_timeout`."""
        return self._run_checkpoint("FULL", self._opener.busy_timeout)

    def _run_checkpoint(self, mode: str, seconds: float) -> bool:
        until = time.monotonic() + seconds
        set_busy_timeout(self.writer, seconds, at_most=True)
        attempts = 0
        try:
            while True:
                busy, pages, moved = fetch(self.writer, f"PRAGMA wal_checkpoint({mode})")[0]
                if not busy and pages == moved:
                    return True
                if time.monotonic() >= until:
                    return False
                nap(attempts)  # another connection is in a checkpoint, for which SQLite does not wait
                attempts += 1
        finally:
            set_busy_timeout(self.writer, self._opener.busy_timeout)

    def close(self) -> None:
        """Close the files; the last process removes the log, unless the file was moved."""
        _close_all(self._reader, self.writer)
        self._lock.release()


def open_database(
    path: Path, schema: Schema, *, session: Callable[[Connection], S], busy_timeout: float, open_timeout: float
) -> Database[S]:
    """Open a file, alone or together with processes that have the same files open.

    The first process notes in the lock file which files it opened. A later one that finds other files waits until the earlier
    processes have noticed too.

    Args:
        path: The file, created if missing.
        schema: Its content; a process that is alone migrates an older layout, after a backup beside it.
        session: Makes the session on the writing connection.
        busy_timeout: Seconds to wait for another connection's lock while no connection commits, 0 or more.
        open_timeout: Seconds to wait for other processes to notice, or to make progress with opening the file, 0 or more.

    Raises:
        StoreError: the file cannot be opened safely.
    """
    return _Opener(path, schema, session, busy_timeout).open(open_timeout)


class _Opener(Generic[S]):
    def __init__(self, path: Path, schema: Schema, session: Callable[[Connection], S], busy_timeout: float) -> None:
        self.path = path
        self.session = session
        self.busy_timeout = busy_timeout
        self._schema = schema
        self._shared = self._noted = False

    def open(self, open_timeout: float) -> Database[S]:
        lock = FileLock(self.path)
        until, attempts, seen = 0.0, 0, None
        try:
            check_shareable(self.path)
            while True:
                now = time.monotonic()  # before the attempt, which may be a long migration
                database = self._try(lock)
                if database is not None:
                    return database
                last = file_state(lock.path)
                if attempts == 0 or (last != seen and not self._noted):  # a process that opens the file alone shows progress
                    until = now + open_timeout
                seen = last
                if now >= until:
                    raise self._timed_out(lock, open_timeout)
                nap(attempts)
                attempts += 1
        except OSError as problem:
            lock.release()
            raise StoreError(
                f"{problem.filename or self.path} cannot be opened: {problem.strerror}. "
                "Its folder must exist, and this user must be allowed to write there."
            ) from None
        except SQLiteError as problem:
            lock.release()
            raise as_store_error(problem, self.path) from None
        except BaseException:
            lock.release()
            raise

    def connect_to_read(self) -> Connection:
        connection = connect(self.path, read_only=True, busy_timeout=self.busy_timeout)
        try:
            layout_of(connection, self.path, self._schema)
        except BaseException:
            _close_all(connection)
            raise
        return connection

    def _try(self, lock: FileLock) -> Database[S] | None:
        """Return the open file, None if another process has it alone, or has other files open than the present ones."""
        self._noted = False
        alone = lock.take(note=False)
        self._shared = alone or lock.take(shared=True)
        if not self._shared:
            return None
        noted, found = lock.read_note(), OpenFiles(self.path)
        database: Database[S] | None = None
        if alone:
            if found.has_foreign_log(noted):
                raise StoreError(
                    f"{self.path} was replaced, and the log of the earlier file, {self.path}-wal, is still beside it. "
                    "Nothing was read or written. Move the log away, or put the earlier file back."
                )
            if noted or not self.path.exists() or not in_use(self.path):  # without a note, its users may have lost their lock
                database = self._connect(lock, alone=True)
        elif noted == str(found):
            database = self._connect(lock, alone=False)
        if database is None:
            lock.release()
        return database

    def _connect(self, lock: FileLock, *, alone: bool) -> Database[S] | None:
        """Return the open file, None if a file was removed or replaced in the meantime."""
        if alone:
            self._noted = True
            lock.write_note(lock.read_note())
        writer = connect(self.path, busy_timeout=self.busy_timeout)
        reader: Connection | None = None
        try:
            if alone:
                writer.set_progress_handler(partial(_show_progress, lock), _STEPS_AT_ONCE)
                migrate(writer, self.path, self._schema, lock.touch)
                writer.set_progress_handler(None)
            else:
                self._check_layout(writer)
            before = OpenFiles(self.path)
            reader = self.connect_to_read()
            files = OpenFiles(self.path)
            if files.complete and files.identities == before.identities:
                if alone:
                    lock.write_note(str(files))
                if lock.take(shared=True) and lock.read_note() == str(files):
                    return Database(self, lock, files, writer, reader)
        except BaseException:
            _close_all(reader, writer)
            raise
        _close_all(reader, writer)
        return None

    def _check_layout(self, connection: Connection) -> None:
        self._schema.register(connection)
        if layout_of(connection, self.path, self._schema) != self._schema.layout:
            raise StoreError(
                f"{self.path} is in use by an older version of rewards-async. End its processes, then start this one."
            )

    def _timed_out(self, lock: FileLock, open_timeout: float) -> StoreError:
        pid = lock.holder()
        if self._noted:
            return StoreError(
                f"{self.path}, or its log or lock, was removed or replaced each time that this process opened it, for "
                f"{open_timeout:g} s. Nothing was read or written. Find out what removes these files, then try again."
            )
        if self._shared:
            return StoreError(
                f"{self.path}, or its log or lock, was removed or replaced, and a process that has the earlier one open has not "
                f"noticed yet; process {pid or 'unknown'} opened it first. Nothing was read or written, and nothing is lost. End "
                "the processes that use it, then try again."
            )
        return StoreError(
            f"{self.path} is locked by process {pid or 'unknown'}, which has made no progress for {open_timeout:g} s. It may be "
            "upgrading a large file on a slow disk, or be stuck, or run rewards-async 0.1, which does not share its file. "
            "Nothing was read or written, and nothing is lost. Try again; end that process first if it is stuck or runs 0.1."
        )


def _show_progress(lock: FileLock) -> bool:
    lock.touch()
    return False  # do not interrupt the statement


def _close_all(*connections: Connection | None) -> None:
    for connection in connections:
        if connection is not None:
            connection.close(True)  # even with an unfinished statement
