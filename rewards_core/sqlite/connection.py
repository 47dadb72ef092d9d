"""Connections to SQLite files, and what their errors mean."""

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
from rewards_core.sqlite.files import followed

Connection = apsw.Connection
SQLiteError = apsw.Error
ConstraintError = apsw.ConstraintError
FullError = apsw.FullError
InterruptError = apsw.InterruptError
CALL_ERRORS = (apsw.ConstraintError, apsw.BindingsError, apsw.MismatchError, apsw.TooBigError, apsw.RangeError, apsw.SQLError)
"""Errors of what one call asked for; another call of the same transaction is not to blame."""
PASSING_ERRORS = (apsw.BusyError, apsw.LockedError, apsw.FullError, apsw.InterruptError)
"""Errors that leave a connection sound."""
DAMAGE_ERRORS = (apsw.CorruptError, apsw.NotADBError)
"""Errors of a file that holds something else than SQLite wrote."""
VERSION = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
"""The version of the SQLite that apsw carries."""

LOG_PAGES = 4_000
"""Pages in the write-ahead log at which a commit moves it into the file: 16 MB."""

_STATEMENTS = 512
_SHORT_NAPS = 100
_LONGER = 20


def connect(path: Path, *, read_only: bool = False, busy_timeout: float = 5.0, cache_kib: int = 65_536) -> Connection:
    """Open a file; one that is to be written is made if it is missing, readable by its owner alone. What it holds stays as it is.

    A commit returns after fsync; `migrate` gives the file its write-ahead log. A connection that waits for a lock uses `nap`:
    with SQLite's own, growing pauses one of several busy processes starves.

    Args:
        path: The file.
        read_only: Whether the connection can neither write nor move the log into the file.
        busy_timeout: Seconds to wait for a lock while nobody commits, 0 or more.
        cache_kib: KiB of pages to keep in memory.

    Raises:
        OSError: it is missing and cannot be made.
        apsw.Error: it cannot be opened or is no database; see `meaning`.
    """
    if not read_only and not path.exists():  # closing a file that stands would give up SQLite's locks on it in this process
        with suppress(FileExistsError):
            os.close(os.open(followed(path), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = Connection(str(path.absolute()), flags=flags, statementcachesize=_STATEMENTS)  # a name alone may be a URI
    try:
        set_busy_timeout(connection, busy_timeout)
        connection.execute("PRAGMA temp_store = MEMORY")  # a full folder of temporary files must not stop a commit
        connection.execute(f"PRAGMA cache_size = -{cache_kib}")
        if not read_only:
            connection.execute("PRAGMA synchronous = FULL")  # less would acknowledge what a power cut may take back
            connection.execute("PRAGMA secure_delete = ON").fetchall()  # what is erased must not stay in free pages
            connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}").fetchall()
            if sys.platform == "darwin":
                connection.execute("PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_without_log(path: Path) -> Connection:
    """Open a file to read what it holds by itself, without its log, at a time when nothing writes to it.

    Raises:
        apsw.Error: it is missing; see `meaning`.
    """
    return Connection(f"{path.absolute().as_uri()}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)


def set_busy_timeout(connection: Connection, seconds: float, *, at_most: bool = False) -> None:
    """Let a connection wait for a lock of another one for so many seconds, 0 or more.

    The time starts again whenever another connection commits, so that the last of a crowd gets its turn as well.

    Args:
        connection: The connection.
        seconds: 0 or more.
        at_most: Whether to wait no longer, whatever others commit.
    """
    connection.set_busy_handler(_busy_handler(seconds, None if at_most else Path(connection.filename_wal)))


def in_use(path: Path) -> bool:
    """Return whether any connection has a database open, in whatever process and under whatever name of its log.

    Raises:
        apsw.Error: it cannot be opened or is no database; see `meaning`.
    """
    with closing(Connection(str(path.absolute()), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
        try:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE; ROLLBACK").fetchall()
        except apsw.BusyError:
            return True
    return False


def temporary() -> Connection:
    """Open an empty database of this process alone, which goes to a temporary file if it grows."""
    return Connection("")


def fetch(connection: Connection, statement: str, values: Sequence[Any] = ()) -> list[Any]:
    """Return all rows of a statement; one that is not read to its end would keep its transaction open."""
    return connection.execute(statement, values).fetchall()


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """Commit what the block writes, all of it or, if the block raises, nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def roll_back(connection: Connection) -> None:
    """End the transaction that is open, if one is; some errors of the disk have ended it already."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def meaning(problem: apsw.Error, path: Path) -> StoreError:
    """Return what an error of SQLite means, and what to do."""
    if isinstance(problem, apsw.FullError):
        return StoreFull(f"The disk of {path} is full. Free some space; nothing else is needed.")
    if isinstance(problem, apsw.BusyError | apsw.LockedError):
        return StoreError(
            f"{path} is locked by another program that neither commits nor lets go. This call changed nothing, and nothing that "
            "was acknowledged is lost. End that program, or its transaction, then try again."
        )
    if isinstance(problem, apsw.ReadOnlyError | apsw.PermissionsError):
        return StoreError(f"{path} cannot be written. Check the permissions and the mount of the file and its folder.")
    if isinstance(problem, DAMAGE_ERRORS):
        return StoreError(f"{path} is damaged or is no SQLite file. Restore it from a backup.")
    if isinstance(problem, apsw.CantOpenError) and path.is_dir():
        return StoreError(f"{path} is a folder. Name a file.")
    if isinstance(problem, apsw.CantOpenError):
        return StoreError(f"{path} cannot be opened. Its folder must exist, and this user must be allowed to write there.")
    return StoreError(f"{path} cannot be used: {type(problem).__name__}: {problem}. Check the disk beneath it.")


def nap(attempts: int) -> None:
    """Sleep before a lock is asked for again, for a random 0.5 to 1.5 ms: processes that sleep alike would meet again.

    After many attempts it is up to 20 times as long: a crowd that asks all the time keeps the one it waits for from running.
    """
    time.sleep(random.uniform(0.0005, 0.0015) * min(max(1.0, attempts / _SHORT_NAPS), _LONGER))  # noqa: S311 - no secret


def _busy_handler(seconds: float, log: Path | None) -> Callable[[int], bool]:
    until = 0.0
    seen: object = None

    def wait(attempts: int) -> bool:
        nonlocal until, seen
        now = time.monotonic()
        if attempts == 0:
            until, seen = now + seconds, changed_at(log)
        elif now >= until and seen != (last := changed_at(log)):
            until, seen = now + seconds, last
        if now >= until:
            return False
        nap(attempts)
        return True

    return wait


def changed_at(file: Path | None) -> tuple[int, int, int] | None:
    """Return what differs once a file was written or replaced, None if there is none."""
    try:
        about = None if file is None else os.stat(file)  # noqa: PTH116 - no descriptor: closing it would drop SQLite's locks
    except OSError:
        return None
    return None if about is None else (about.st_ino, about.st_size, about.st_mtime_ns)
