"""A SQLite file that is open beside the other processes that share it, and what is done when its files are taken away."""

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
    changed_at,
    connect,
    fetch,
    in_use,
    meaning,
    nap,
    set_busy_timeout,
)
from rewards_core.sqlite.files import FileLock, OpenFiles, refuse_unsafe
from rewards_core.sqlite.migrations import Schema, layout_of, migrate

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")
S = TypeVar("S")

_STEPS_AT_ONCE = 1_000_000
"""Steps of SQLite in a migration, some milliseconds, after which those who wait are shown that it goes on."""


class Database(Generic[S]):
    """Everything of the file that this process has open; see `open_database`.

    Attributes:
        writer: The one connection that writes.
        session: What was made of it.
        files: The files that are open.
    """

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
    def whole(self) -> bool:
        """Whether the file and its log are still the ones that others find, and the lock was not removed."""
        return self.files.whole and self._lock.named

    @property
    def in_place(self) -> bool:
        """Whether that is so, and the lock was not moved either."""
        return self.whole and self._lock.in_place

    def look(self, run: Callable[[Connection], T]) -> T:
        """Run something that reads; a connection that met more than a passing trouble is opened again next time.

        Raises:
            StoreError: a file was removed or replaced while that connection was opened.
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
        """Open a further connection.

        Raises:
            StoreError: a file was removed or replaced, so that it may have another log than the others have.
            apsw.Error: it cannot be opened.
        """
        connection: Connection | None = None
        try:
            connection = self._opener.connect_to_read()
        except SQLiteError:
            if self.whole:
                raise
        if connection is not None and self.whole:
            return connection
        _close_all(connection)
        raise StoreError(f"A file of {self._opener.path} was removed or replaced. Nothing was read. Repeat the call.")

    def empty_log(self, seconds: float) -> bool:
        """Move the log into the file and empty it; return False if readers prevent it for so many seconds."""
        return self._checkpoint("TRUNCATE", seconds)

    def move_log(self) -> bool:
        """Move the log into the file, wherever both may be by now; return False if a reader prevents it for `busy_timeout`."""
        return self._checkpoint("FULL", self._opener.busy_timeout)

    def _checkpoint(self, mode: str, seconds: float) -> bool:
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
                nap(attempts)  # another connection does the same: SQLite does not wait for that by itself
                attempts += 1
        finally:
            set_busy_timeout(self.writer, self._opener.busy_timeout)

    def close(self) -> None:
        """Let go of the files; the last one to do so removes the log, unless the file is not where it was."""
        _close_all(self._reader, self.writer)
        self._lock.release()


def open_database(
    path: Path, schema: Schema, *, session: Callable[[Connection], S], busy_timeout: float, patience: float
) -> Database[S]:
    """Open a file beside others that have the same files open, or alone.

    The first process notes in the lock's file which files it has opened. A later one that finds others in their place waits until
    the earlier ones have noticed too.

    Args:
        path: The file, made if missing.
        schema: What it holds; a process that is alone brings an older layout to the newest, after a backup beside it.
        session: Makes what the writing connection is used through.
        busy_timeout: Seconds to wait for another connection's lock while nobody commits, 0 or more.
        patience: Seconds to wait for other processes to notice, or to go on with opening the file, 0 or more.

    Raises:
        StoreError: it cannot be opened, or not safely.
    """
    return _Opener(path, schema, session, busy_timeout).open(patience)


class _Opener(Generic[S]):
    def __init__(self, path: Path, schema: Schema, session: Callable[[Connection], S], busy_timeout: float) -> None:
        self.path = path
        self.session = session
        self.busy_timeout = busy_timeout
        self._schema = schema
        self._shared = self._noted = False

    def open(self, patience: float) -> Database[S]:
        lock = FileLock(self.path)
        until, attempts, seen = 0.0, 0, None
        try:
            refuse_unsafe(self.path)
            while True:
                now = time.monotonic()  # before an attempt, which may be a long migration
                database = self._try(lock)
                if database is not None:
                    return database
                last = changed_at(lock.path)
                if attempts == 0 or (last != seen and not self._noted):  # one that opens the file alone shows that it goes on
                    until = now + patience
                seen = last
                if now >= until:
                    raise self._kept_away(lock, patience)
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
            raise meaning(problem, self.path) from None
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
        """Return the open file, None if others do not share it, or have other files open than those that stand here."""
        self._noted = False
        alone = lock.take(note=False)
        self._shared = alone or lock.take(shared=True)
        if not self._shared:
            return None
        noted, stands = lock.noted(), OpenFiles(self.path)
        database: Database[S] | None = None
        if alone:
            if stands.beside_foreign_log(noted):
                raise StoreError(
                    f"{self.path} was replaced, and the log of the earlier file, {self.path}-wal, still stands beside it. "
                    "Nothing was read or written. Move the log away, or put the earlier file back."
                )
            if noted or not self.path.exists() or not in_use(self.path):  # without a note its users may have lost their lock
                database = self._connect(lock, alone=True)
        elif noted == str(stands):
            database = self._connect(lock, alone=False)
        if database is None:
            lock.release()
        return database

    def _connect(self, lock: FileLock, *, alone: bool) -> Database[S] | None:
        """Return the open file, None if a file was removed or replaced meanwhile."""
        if alone:
            self._noted = True
            lock.note(lock.noted())
        writer = connect(self.path, busy_timeout=self.busy_timeout)
        reader: Connection | None = None
        try:
            if alone:
                writer.set_progress_handler(partial(_go_on, lock), _STEPS_AT_ONCE)
                migrate(writer, self.path, self._schema, lock.touch)
                writer.set_progress_handler(None)
            else:
                self._check_layout(writer)
            before = OpenFiles(self.path)
            reader = self.connect_to_read()
            files = OpenFiles(self.path)
            if files.complete and files.identities == before.identities:
                if alone:
                    lock.note(str(files))
                if lock.take(shared=True) and lock.noted() == str(files):
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

    def _kept_away(self, lock: FileLock, patience: float) -> StoreError:
        pid = lock.holder()
        if self._noted:
            return StoreError(
                f"{self.path}, or its log or lock, was removed or replaced each time that this process opened it, for "
                f"{patience:g} s. This call read and wrote nothing. Find out what removes these files, then try again."
            )
        if self._shared:
            return StoreError(
                f"{self.path}, or its log or lock, was removed or replaced, and a process that has the earlier one open has not "
                f"noticed yet; process {pid or 'unknown'} was the first to open it. Nothing was read or written, and nothing is "
                "lost. End the processes that use it, then try again."
            )
        return StoreError(
            f"{self.path} is in use by process {pid or 'unknown'} alone, which has shown no progress for {patience:g} s. It "
            "may be upgrading a large file on a slow disk, or hang, or run rewards-async 0.1, which shares its file with nobody. "
            "Nothing was read or written, and nothing is lost. Try again; if that process is stuck or runs version 0.1, end it "
            "first."
        )


def _go_on(lock: FileLock) -> bool:
    lock.touch()
    return False  # do not interrupt it


def _close_all(*connections: Connection | None) -> None:
    for connection in connections:
        if connection is not None:
            connection.close(True)  # also with a statement that was not read to its end
