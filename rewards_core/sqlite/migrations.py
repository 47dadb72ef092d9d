"""The layout of a SQLite file, its migrations, and backups."""

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
PAGES_AT_ONCE = 4_000
"""Pages that a backup copies and syncs at a time: 16 MB."""


@frozen(kw_only=True)
class Schema:
    """The content of one kind of file.

    Attributes:
        kind: The kind in messages, such as `"webhook store"`.
        application_id: The number of the kind in the file's header.
        migrations: Statements; entry n leads from layout n to layout n + 1. A released one never changes.
        register: Registers the functions that migrations and statements use.
    """

    kind: str
    application_id: int
    migrations: Sequence[str]
    register: Callable[[Connection], None] = field(default=lambda _: None)

    @property
    def layout(self) -> int:
        """The newest layout."""
        return len(self.migrations)


def layout_of(connection: Connection, path: Path, schema: Schema) -> int:
    """Return the layout of a file, 0 for an empty one; another program's or a newer file raises `StoreError`."""
    application, layout = connection.pragma("application_id"), connection.pragma("user_version")
    empty = not connection.execute("SELECT count(*) FROM sqlite_schema").get
    if application != schema.application_id and not (application == 0 and layout == 0 and empty):
        raise StoreError(f"{path} is the database of another program, not a {schema.kind}. Give another file.")
    if layout > schema.layout:
        raise StoreError(
            f"{path} has layout {layout} of a newer version of rewards-async; this version reads up to layout {schema.layout}. "
            "Install the newer version."
        )
    return int(layout)


def migrate(connection: Connection, path: Path, schema: Schema, progress: Callable[[], object] = lambda: None) -> int:
    """Migrate a file to the newest layout, after a backup beside it unless it is empty; return the layout it had.

    It then has a write-ahead log. Nothing is changed before the file is known to be of this kind, nor if an error is raised.

    Raises:
        StoreError: as `layout_of`, or the file cannot have a write-ahead log.
        OSError: the backup cannot be written.
    """
    schema.register(connection)
    layout = layout_of(connection, path, schema)
    if (mode := fetch(connection, "PRAGMA journal_mode = WAL")[0][0]) != "wal":  # SQLite raises no error
        raise StoreError(
            f"{path} cannot have a write-ahead log, which processes need to share it: SQLite keeps the journal mode {mode!r}, as "
            "on a file system without shared memory. Nothing was changed, and nothing is lost. Put the file on a local file "
            "system."
        )
    if layout == schema.layout:
        return layout
    if layout:
        back_up(connection, path.with_name(f"{path.name}.layout-{layout}.backup"), progress)
    with transaction(connection):
        for number in range(layout_of(connection, path, schema), schema.layout):
            connection.execute(schema.migrations[number]).fetchall()
            connection.pragma("user_version", number + 1)
        connection.pragma("application_id", schema.application_id)
    return layout


def back_up(connection: Connection, to: Path, progress: Callable[[], object] = lambda: None) -> None:
    """Copy the whole database into a file, which is replaced if it exists; on an error nothing is left of the copy.

    All of it is read in one transaction: otherwise a copy in steps starts again with each commit of another connection. Calls
    `progress` after each 16 MB.

    Raises:
        OSError: the file cannot be written; is part of the database itself; was used as a database; or has a log beside it, which
            SQLite would take for the copy's.
        apsw.Error: the database cannot be read, or the disk is full.
    """
    own = Path(connection.filename).resolve()
    if to.resolve() in {own, *(own.with_name(own.name + suffix) for suffix in ("-wal", "-shm", ".lock"))}:
        raise FileExistsError(errno.EEXIST, "this is the database itself")
    if to.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(to))
    for suffix in _LOGS:
        if os.path.lexists(f"{to}{suffix}"):
            raise FileExistsError(
                errno.EEXIST, f"{to.name}{suffix} exists, so {to.name} may be a database in use. Name another file"
            )
    if os.path.lexists(f"{to}.lock"):
        raise FileExistsError(
            errno.EEXIST,
            f"{to.name}.lock exists, so {to.name} was used as a database. Name another file, or remove both first",
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
                    while not backup.step(PAGES_AT_ONCE):
                        _sync(unfinished)  # one sync at the end may take minutes
                        progress()
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
