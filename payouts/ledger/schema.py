"""The ledger on disk: its tables, its migration from older layouts, and how rows are read."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from attrs import frozen

from payouts.ledger.fingerprints import fingerprint, folded_id
from payouts.ledger.lock import LedgerLock
from payouts.states import LedgerError
from rewards_core.errors import StoreError
from rewards_core.sqlite.connection import Connection, SQLiteError, as_store_error, connect, connect_without_log
from rewards_core.sqlite.migrations import Schema, layout_of, migrate

if TYPE_CHECKING:
    from pathlib import Path

    from payouts.ledger.base import Database

_CACHE_KIB = 4_000
_MOVED = 1_000
"""Added to the layout of a ledger that is marked as moved: versions that know no moves refuse it as a newer one."""
_WITHOUT_DETAILS = 3
"""The layout that lacks nothing but the details of rows, so that a process of the version before can go on while it is read."""

_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE campaigns (
        number INTEGER PRIMARY KEY,
        vendor TEXT NOT NULL,
        name TEXT NOT NULL,
        target TEXT NOT NULL,
        opened_at REAL NOT NULL,
        UNIQUE (vendor, name)
    );
    CREATE TABLE rows (
        number INTEGER PRIMARY KEY,
        campaign INTEGER NOT NULL REFERENCES campaigns (number),
        vendor TEXT NOT NULL,
        id TEXT NOT NULL,
        line INTEGER NOT NULL,
        recipient TEXT NOT NULL,
        item TEXT NOT NULL,
        amount TEXT,
        key TEXT NOT NULL,
        state TEXT NOT NULL,
        retries INTEGER NOT NULL DEFAULT 0,
        uid TEXT,
        settled_by TEXT,
        problem_kind TEXT,
        problem TEXT,
        note TEXT,
        planned_at REAL NOT NULL,
        sent_at REAL,
        accepted_at REAL,
        settled_at REAL,
        UNIQUE (campaign, id),
        UNIQUE (vendor, key)
    );
    CREATE TABLE retired_keys (
        vendor TEXT NOT NULL,
        key TEXT NOT NULL,
        row INTEGER NOT NULL REFERENCES rows (number),
        retry INTEGER NOT NULL,
        replaced_by TEXT NOT NULL,
        state TEXT NOT NULL,
        uid TEXT,
        problem_kind TEXT,
        problem TEXT,
        sent_at REAL,
        settled_at REAL,
        retired_at REAL NOT NULL,
        PRIMARY KEY (vendor, key)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE retired_keys ADD COLUMN note TEXT;
    CREATE INDEX retired_keys_of_row ON retired_keys (row, retry);
    """,
    """
    CREATE TABLE ledger (
        identity TEXT NOT NULL,
        generation INTEGER NOT NULL,
        branch TEXT,
        sealed TEXT,
        audited_at REAL
    );
    INSERT INTO ledger SELECT identity(group_concat(vendor || name || printf('%!.15g', opened_at), '|')), 0, NULL, NULL, NULL
        FROM (SELECT vendor, name, opened_at FROM campaigns ORDER BY number LIMIT 1);
    ALTER TABLE campaigns ADD COLUMN run_at REAL;
    ALTER TABLE campaigns ADD COLUMN restored_at REAL;
    ALTER TABLE rows ADD COLUMN likeness TEXT NOT NULL DEFAULT '';
    ALTER TABLE rows ADD COLUMN folded_id TEXT;
    ALTER TABLE rows ADD COLUMN answer INTEGER;
    ALTER TABLE rows ADD COLUMN absent_since REAL;
    ALTER TABLE rows ADD COLUMN absent_at REAL;
    UPDATE rows SET likeness = likeness(recipient, item, amount), folded_id = folded_id(id);
    CREATE INDEX rows_alike ON rows (vendor, likeness);
    CREATE INDEX rows_respelled ON rows (campaign, folded_id) WHERE folded_id IS NOT NULL;
    CREATE TABLE decisions (
        number INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        by TEXT NOT NULL,
        kind TEXT NOT NULL,
        campaign INTEGER REFERENCES campaigns (number),
        row INTEGER REFERENCES rows (number),
        key TEXT,
        was TEXT,
        became TEXT,
        note TEXT,
        evidence TEXT,
        before TEXT,
        undone_by INTEGER REFERENCES decisions (number)
    );
    CREATE INDEX decisions_of_row ON decisions (row);
    CREATE TABLE audits (
        number INTEGER PRIMARY KEY,
        vendor TEXT NOT NULL,
        target TEXT NOT NULL,
        campaign INTEGER REFERENCES campaigns (number),
        begun_at REAL NOT NULL,
        ended_at REAL,
        after TEXT NOT NULL DEFAULT '',
        rows INTEGER NOT NULL DEFAULT 0,
        requests INTEGER NOT NULL DEFAULT 0,
        unchecked INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE differences (
        audit INTEGER NOT NULL REFERENCES audits (number),
        number INTEGER NOT NULL,
        kind TEXT NOT NULL,
        row INTEGER REFERENCES rows (number),
        recipient TEXT NOT NULL,
        uid TEXT,
        ledger TEXT NOT NULL,
        vendor TEXT NOT NULL,
        applied INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (audit, number)
    ) WITHOUT ROWID;
    CREATE TABLE balances (
        recipient TEXT PRIMARY KEY,
        coins INTEGER NOT NULL,
        at REAL NOT NULL
    ) WITHOUT ROWID;
    """,
    "ALTER TABLE rows ADD COLUMN details TEXT;",
)
"""Step n leads from layout n to layout n + 1; what a released one does never changes.

An identity is made of a time with 15 digits, as older versions of SQLite wrote times: a copy that one of them has brought to this
layout must have the same.
"""


def _register(connection: Connection) -> None:
    """Give a connection the functions that bring an older ledger to this layout."""
    functions: tuple[tuple[str, Callable[..., str | None], int], ...] = (
        ("likeness", fingerprint, 3),
        ("folded_id", folded_id, 1),
        ("identity", _identity, 1),
    )
    for name, function, arguments in functions:
        connection.create_scalar_function(name, function, arguments)


def _identity(first_campaign: str | None) -> str:
    """Return a name that all copies of a ledger share, also those made before ledgers had names."""
    known = secrets.token_bytes(16) if first_campaign is None else first_campaign.encode()
    return hashlib.sha256(known).hexdigest()[:32]


LEDGER = Schema(kind="ledger of payouts", application_id=0x5041594F, migrations=_MIGRATIONS, register=_register)  # "PAYO"


@frozen(kw_only=True)
class MoveMark:
    """The mark of a ledger that is moved to a database.

    Attributes:
        to: The database, without its password.
        begun_with: The identity that the database had when it was still empty; None once the move has ended.
    """

    to: str
    begun_with: str | None

    def __str__(self) -> str:
        return f"{'was moved' if self.begun_with is None else 'is being moved'} to {self.to}"


def moved_of(database: Database) -> MoveMark | None:
    """Return the mark of a ledger, None if it is not moved."""
    ours = database.execute("PRAGMA application_id").get == LEDGER.application_id
    if not ours or database.execute("PRAGMA user_version").get <= _MOVED:
        return None
    to, begun_with = database.execute("SELECT moved_to, begun_with FROM move").get
    return MoveMark(to=to, begun_with=begun_with)


def mark_moved(connection: Connection, moved: MoveMark | None) -> None:
    """Mark a ledger as moved, in the open transaction; with None, take the mark away."""
    connection.execute("DROP TABLE IF EXISTS move")
    layout = int(connection.pragma("user_version")) % _MOVED
    if moved is not None:
        connection.execute("CREATE TABLE move (moved_to TEXT NOT NULL, begun_with TEXT)")
        connection.execute("INSERT INTO move VALUES (?, ?)", (moved.to, moved.begun_with))
        layout += _MOVED
    connection.pragma("user_version", layout)


def _complete(connection: Connection) -> None:
    """Let a ledger of the layout before be read like one of this layout; the file stays as it is."""
    if int(connection.pragma("user_version")) % _MOVED == _WITHOUT_DETAILS:
        connection.execute("CREATE TEMP VIEW rows AS SELECT *, NULL AS details FROM main.rows")


def refuse_moved(database: Database, path: Path) -> None:
    """Raise a `LedgerError` if a ledger is marked as moved."""
    moved = moved_of(database)
    if moved is None:
        return
    if moved.begun_with is None:
        raise LedgerError(f"{path} {moved}. Nothing was sent or changed. Use --ledger {moved.to}; this file can only be read.")
    raise LedgerError(
        f"{path} {moved}. Nothing was sent or changed. To finish, run: payouts move --ledger {path} --to "
        f"{moved.to}. To pay from the file instead, run: payouts move --ledger {path} --cancel"
    )


def connect_to_write(path: Path, *, schema: Schema = LEDGER, even_moved: bool = False) -> Connection:
    """Open the ledger for writing; create it if it is missing, and migrate an older layout. Only its owner can read it.

    The caller holds the ledger's lock, so that no other connection writes.

    Args:
        path: The ledger.
        schema: Its layouts.
        even_moved: Whether it may be marked as moved.

    Raises:
        LedgerError: it cannot be opened, is not a ledger, was moved to a database, or is newer than this program.
    """
    _refuse_log_of_another(path.resolve())
    with _in_words(path):
        if path.is_file():
            path.chmod(0o600)
        connection = connect(path, cache_kib=_CACHE_KIB)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            if not even_moved:
                refuse_moved(connection, path)
            if moved_of(connection) is None:
                migrate(connection, path, schema)
            else:
                _complete(connection)
        except BaseException:
            connection.close()
            raise
    return connection


def seal_branch(connection: Connection) -> None:
    """Bring the ledger's new branch into its file, so that a log of this branch does not fit an older file."""
    busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").get[0]
    if not busy:  # somebody reads; then nothing is proved by the file, and nothing is refused for it
        connection.execute("UPDATE ledger SET sealed = branch")


def connect_to_read(path: Path) -> Connection:
    """Open the ledger read-only, even while another process writes; a layout older than the last one is migrated first.

    Raises:
        LedgerInUse: the layout is that old, and another process uses the ledger.
        LedgerError: it is not there, is not a ledger, is newer than this program, or is that old and cannot be written.
    """
    if not path.is_file():
        raise LedgerError(f"{path}: there is no such file. Name the ledger of an earlier run with --ledger.")
    with _in_words(path):
        connection = connect(path, read_only=True, cache_kib=_CACHE_KIB)
        try:
            layout = LEDGER.layout if moved_of(connection) else layout_of(connection, path, LEDGER)
            _complete(connection)
        except BaseException:
            connection.close()
            raise
    if layout >= _WITHOUT_DETAILS:
        return connection
    connection.close()
    if not layout:
        raise LedgerError(f"{path}: this file holds no ledger yet.")
    lock = LedgerLock(path)
    lock.acquire()
    try:
        connect_to_write(path).close()
    finally:
        lock.release()
    return connect(path, read_only=True, cache_kib=_CACHE_KIB)


def _refuse_log_of_another(path: Path) -> None:
    """Refuse a backup that was put over a ledger whose process was killed.

    It would be read through the newer log and look like the newest copy. Nothing is opened for writing before this is known:
    closing such a pair writes the log into the file.
    """
    log = path.with_name(path.name + "-wal")
    if not log.exists() or not log.stat().st_size:
        return
    if not path.exists():
        raise LedgerError(
            f"{path}: the ledger is gone, but its log {log.name} is still here. Nothing was sent. Put the ledger back "
            "beside its log."
        )
    try:
        with closing(connect_without_log(path)) as file, closing(connect(path, read_only=True)) as both:
            main = file.execute("SELECT branch FROM ledger").get
            branch, sealed = both.execute("SELECT branch, sealed FROM ledger").get
    except SQLiteError:  # an older layout, or one that was being made; what is damaged is told when it is opened
        return
    if sealed is not None and sealed == branch != main:  # this branch was written into the file, which has another now
        raise LedgerError(
            f"{path} and its log {log.name} do not belong together: one of them was put back from a backup. Nothing was sent. "
            f"Put the newest ledger and its log back; to use the backup, move {log.name} and {path.name}-shm away."
        )


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Raise errors of the engine, SQLite or the disk as a `LedgerError`."""
    try:
        yield
    except (StoreError, SQLiteError, OSError) as problem:
        told: object = problem
        if isinstance(problem, OSError):
            told = f"{problem.filename or path} cannot be opened for writing: {problem.strerror or type(problem).__name__}."
        elif isinstance(problem, SQLiteError):
            told = as_store_error(problem, path)
        raise LedgerError(f"{told} Nothing was sent. To use another ledger, name it with --ledger.") from None
