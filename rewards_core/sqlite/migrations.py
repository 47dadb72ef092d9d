"""The layout of a SQLite file, and the way from an older layout to the newest."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from attrs import field, frozen

from rewards_core.errors import StoreError
from rewards_core.sqlite.connection import Connection, fetch, roll_back, transaction

_LOGS = ("-wal", "-shm", "-journal")
_PAGES_AT_ONCE = 4_000
"""Pages that a backup copies and syncs at a time, 16 MB, before it shows that it goes on."""


def _nothing(*_: object) -> None:
    """Register no function, or show nobody that a backup goes on."""


@frozen(kw_only=True)
class Schema:
    """What a file of one kind holds.

    Attributes:
        kind: What such a file is called in messages, such as `"webhook store"`.
        application_id: The number in the file's header that tells its kind.
        migrations: Statements; entry n leads from layout n to layout n + 1. A released one never changes.
        register: Gives a connection the functions that migrations and statements use.
    """

    kind: str
    application_id: int
    migrations: Sequence[str]
    register: Callable[[Connection], None] = field(default=_nothing)

    @property
    def layout(self) -> int:
        """The newest layout."""
        return len(self.migrations)


def layout_of(connection: Connection, path: Path, schema: Schema) -> int:
    """Return the layout of a file, 0 if it is empty.

    Raises:
        StoreError: it is another program's file, or was made by a newer version.
    """
    application, layout = connection.pragma("application_id"), connection.pragma("user_version")
    empty = not connection.execute("SELECT count(*) FROM sqlite_schema").get
    if application != schema.application_id and not (application == 0 and layout == 0 and empty):
        raise StoreError(f"{path} is the database of another program, not a {schema.kind}. Give another file.")
    if layout > schema.layout:
        raise StoreError(
            f"{path} has layout {layout}, made by a newer version of rewards-async; this one reads up to {schema.layout}. "
            "Install the newer version."
        )
    return int(layout)


def migrate(connection: Connection, path: Path, schema: Schema, go_on: Callable[[], object] = _nothing) -> int:
    """Bring a file to the newest layout, after a backup beside it if it holds anything; return the layout it had.

    From then on the file has a write-ahead log. Nothing is changed before it is known whose file it is.

    Args:
        connection: One that writes.
        path: The file.
        schema: What it holds.
        go_on: Called while the backup goes on.

    Raises:
        StoreError: as `layout_of`, or the file cannot have a write-ahead log; nothing was changed.
        OSError: the backup cannot be written; nothing was changed.
    """
    schema.register(connection)
    layout = layout_of(connection, path, schema)
    if (mode := fetch(connection, "PRAGMA journal_mode = WAL")[0][0]) != "wal":  # SQLite raises no error
        raise StoreError(
            f"{path} cannot have a write-ahead log, without which processes cannot share it: SQLite keeps its journal mode "
            f"{mode!r}, as it does on a file system without shared memory. Nothing was changed, and nothing is lost. Put the "
            "file on a local file system."
        )
    if layout == schema.layout:
        return layout
    if layout:
        back_up(connection, path.with_name(f"{path.name}.layout-{layout}.backup"), go_on)
    with transaction(connection):
        for number in range(layout_of(connection, path, schema), schema.layout):
            connection.execute(schema.migrations[number]).fetchall()
            connection.pragma("user_version", number + 1)
        connection.pragma("application_id", schema.application_id)
    return layout


def back_up(connection: Connection, to: Path, go_on: Callable[[], object] = _nothing) -> None:
    """Copy the whole database into a file, which is complete or not there; one that stands there is replaced.

    All of it is read in one transaction: without that, a copy in steps begins again whenever somebody writes.

    Args:
        connection: One that is in no transaction.
        to: The file.
        go_on: Called after each 16 MB that were copied.

    Raises:
        OSError: the file cannot be written, is one of the database's own, was used as a database of its own, or is another one
            with a log beside it, which would be taken for the copy's.
        apsw.Error: the database cannot be read, or the disk is full.
    """
    own = Path(connection.filename).resolve()
    if to.resolve() in {own, *(own.with_name(own.name + suffix) for suffix in ("-wal", "-shm", ".lock"))}:
        raise FileExistsError(errno.EEXIST, "it is the database itself")
    if to.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(to))
    for suffix in _LOGS:
        if os.path.lexists(f"{to}{suffix}"):
            raise FileExistsError(errno.EEXIST, f"{to.name}{suffix} stands beside it, so it is a database in use")
    if os.path.lexists(f"{to}.lock"):
        raise FileExistsError(
            errno.EEXIST,
            f"{to.name}.lock stands beside it, so it was used as a database of its own. Name another file, or remove both first",
        )
    unfinished = to.with_name(f"{to.name}.unfinished-{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with closing(Connection(str(unfinished))) as copy:
            copy.pragma("journal_mode", "DELETE")
            connection.execute("BEGIN; SELECT count(*) FROM sqlite_schema").fetchall()
            try:
                with copy.backup("main", connection, "main") as backup:
                    while not backup.step(_PAGES_AT_ONCE):
                        _sync(unfinished)  # one sync at the end may take minutes
                        go_on()
            finally:
                roll_back(connection)
            copy.pragma("journal_mode", "DELETE")
        _sync(unfinished)
        unfinished.replace(to)
        _sync(to.parent)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
