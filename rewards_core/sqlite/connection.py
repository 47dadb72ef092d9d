"""Connections to SQLite files, and the errors of stores for those of SQLite."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw

from rewards_core.errors import StoreError, StoreFull
from rewards_core.sqlite.files import follow_links

Connection = apsw.Connection
SQLiteError = apsw.Error
ConstraintError = apsw.ConstraintError
FullError = apsw.FullError
InterruptError = apsw.InterruptError
CALL_ERRORS = (apsw.ConstraintError, apsw.BindingsError, apsw.MismatchError, apsw.TooBigError, apsw.RangeError, apsw.SQLError)
"""Errors of one call, which do not concern the other calls of its transaction."""
PASSING_ERRORS = (apsw.BusyError, apsw.LockedError, apsw.FullError, apsw.InterruptError)
"""Errors after which a connection stays usable."""
DAMAGE_ERRORS = (apsw.CorruptError, apsw.NotADBError)
"""Errors of a file whose content SQLite did not write."""
VERSION = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
"""The version of apsw's own SQLite."""

LOG_PAGES = 4_000
"""Pages of the write-ahead log at which a commit checkpoints it: 16 MB."""

_STATEMENTS = 512
_SHORT_NAPS = 100
_LONGER = 20


def connect(path: Path, *, read_only: bool = False, busy_timeout: float = 5.0, cache_kib: int = 65_536) -> Connection:
    """Open a file, or create it readable by its owner alone; its content stays as it is.

    A commit returns after fsync; `migrate` gives the file its write-ahead log. A connection that waits for a lock uses `nap`:
    with SQLite's own, growing pauses one of several busy processes starves.

    Raises:
        OSError: the file cannot be created.
        apsw.Error: it cannot be opened or is not a database; see `as_store_error`.
    """
    if not read_only and not path.exists():  # closing an existing file would drop this process's SQLite locks on it
        with suppress(FileExistsError):
            os.close(os.open(follow_links(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = Connection(str(path.absolute()), flags=flags, statementcachesize=_STATEMENTS)  # a bare name may be a URI
    try:
        set_busy_timeout(connection, busy_timeout)
        connection.execute("PRAGMA temp_store = MEMORY")  # a full temporary folder must not stop a commit
        connection.execute(f"PRAGMA cache_size = -{cache_kib}")
        if not read_only:
            connection.execute("PRAGMA synchronous = FULL")  # less would acknowledge what a power cut may undo
            connection.execute("PRAGMA secure_delete = ON").fetchall()  # erased data must not stay in free pages
            connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}").fetchall()
            if sys.platform == "darwin":
                connection.execute("PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_without_log(path: Path) -> Connection:
    """Open a file for reading without its write-ahead log, while no process writes to it."""
    return Connection(f"{path.absolute().as_uri()}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)


def set_busy_timeout(connection: Connection, seconds: float, *, at_most: bool = False) -> None:
    """Let a connection wait for the locks of others.

    The time starts again whenever another connection commits, so that the last of a crowd gets its turn, unless `at_most` is set.
    """
    connection.set_busy_handler(_busy_handler(seconds, None if at_most else Path(connection.filename_wal)))


def in_use(path: Path) -> bool:
    """Return whether any process has a database open, under any name of its log."""
    with closing(Connection(str(path.absolute()), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; ROLLBACK").fetchall()
        except apsw.BusyError:
            return True
    return False


def temporary() -> Connection:
    """Open an empty private database, in memory or, if it grows, in a temporary file."""
    return Connection("")


def fetch(connection: Connection, statement: str, values: Sequence[Any] = ()) -> list[Any]:
    """Return all rows of a statement; an unfinished one would keep its transaction open."""
    return connection.execute(statement, values).fetchall()


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """Commit what the block writes, or roll it back if the block raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def roll_back(connection: Connection) -> None:
    """Roll back the open transaction, if there is one; some disk errors have already ended it."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def as_store_error(problem: apsw.Error, path: Path) -> StoreError:
    """Return the error of a store for one of SQLite."""
    if isinstance(problem, apsw.FullError):
        return StoreFull(f"The disk of {path} is full. Free some space; nothing else is needed.")
    if isinstance(problem, apsw.BusyError | apsw.LockedError):
        return StoreError(
            f"{path} is locked by another program that does not commit. This call changed nothing, and nothing acknowledged is "
            "lost. End that program or its transaction, then try again."
        )
    if isinstance(problem, apsw.ReadOnlyError | apsw.PermissionsError):
        return StoreError(f"{path} cannot be written. Check the permissions and the mount of the file and its folder.")
    if isinstance(problem, DAMAGE_ERRORS):
        return StoreError(f"{path} is damaged or not a SQLite file. Restore it from a backup.")
    if isinstance(problem, apsw.CantOpenError) and path.is_dir():
        return StoreError(f"{path} is a folder. Name a file.")
    if isinstance(problem, apsw.CantOpenError):
        return StoreError(f"{path} cannot be opened. Its folder must exist, and this user must be allowed to write there.")
    return StoreError(f"{path} cannot be used: {type(problem).__name__}: {problem}. Check the disk beneath it.")


def nap(attempts: int) -> None:
    """Sleep before the next attempt at a lock, for a random 0.5 to 1.5 ms: with equal pauses processes would collide again.

    After many attempts the sleep is up to 20 times as long: constant attempts keep the holder of the lock from running.
    """
    time.sleep(random.uniform(0.0005, 0.0015) * min(max(1.0, attempts / _SHORT_NAPS), _LONGER))  # noqa: S311 - no secret


def _busy_handler(seconds: float, log: Path | None) -> Callable[[int], bool]:
    until = 0.0
    seen: object = None

    def wait(attempts: int) -> bool:
        nonlocal until, seen
        now = time.monotonic()
        if attempts == 0:
            until, seen = now + seconds, file_state(log)
        elif now >= until and seen != (last := file_state(log)):
            until, seen = now + seconds, last
        if now >= until:
            return False
        nap(attempts)
        return True

    return wait


def file_state(file: Path | None) -> tuple[int, int, int] | None:
    """Return what changes when a file is written or replaced, None for a missing file."""
    try:
        about = None if file is None else os.stat(file)  # noqa: PTH116 - no descriptor: closing it would drop SQLite's locks
    except OSError:
        return None
    return None if about is None else (about.st_ino, about.st_size, about.st_mtime_ns)
