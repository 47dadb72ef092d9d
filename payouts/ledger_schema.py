"""How the ledger lies on the disk: its tables, the way from an older layout to this one, and rows as they are read."""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from attrs import fields

from payouts.ledger_lock import LedgerLock
from payouts.likeness import folded_id, likeness
from payouts.states import Entry, LedgerError, State

if TYPE_CHECKING:
    from pathlib import Path

APPLICATION_ID = 0x5041594F  # "PAYO"

MIGRATIONS: tuple[str, ...] = (
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
    INSERT INTO ledger SELECT identity(group_concat(vendor || name || opened_at, '|')), 0, NULL, NULL, NULL
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
)
"""Step n leads from layout n to layout n + 1; a step that has been released is never changed."""

_FIELDS = tuple(field.name for field in fields(Entry))
COLUMNS = ", ".join(_FIELDS)


def entry_of(row: Sequence[Any]) -> Entry:
    """Return the entry of a row that was selected with `COLUMNS`."""
    values = dict(zip(_FIELDS, row, strict=True))
    values["state"] = State(values["state"])
    return Entry(**values)


def connect_to_write(path: Path, *, migrations: Sequence[str] = MIGRATIONS) -> sqlite3.Connection:
    """Open the ledger, made if it is not there and brought to this layout if it is older; readable by its owner alone.

    The caller holds the ledger's lock: this is the one connection that writes and checkpoints, because SQLite before 3.51.3 can
    lose committed rows where there are two.

    Raises:
        LedgerError: it cannot be opened, is no ledger, or is newer than this program.
    """
    _refuse_log_of_another(path)
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        path.chmod(0o600)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=128)
    except (OSError, sqlite3.Error) as problem:
        raise LedgerError(
            f"{path} cannot be opened for writing: {_reason(problem)}. Nothing was sent. Name another file with --ledger."
        ) from None
    try:
        _bring_up(connection, path, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def seal_branch(connection: sqlite3.Connection) -> None:
    """Bring the ledger's new branch into its file, so that a log of this branch does not fit an older file."""
    busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if not busy:  # somebody reads; then nothing is proved by the file, and nothing is refused for it
        connection.execute("UPDATE ledger SET sealed = branch")


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open the ledger without any right to change it, beside a process that writes; an older one is brought to this layout first.

    Raises:
        LedgerInUse: it is older, and another process works with it.
        LedgerError: it is not there, is no ledger, is newer than this program, or is older and cannot be written.
    """
    if not path.is_file():
        raise LedgerError(f"{path}: there is no such file. Name the ledger of an earlier run with --ledger.")
    connection = _read_only(path)
    try:
        layout = _layout(connection, path)
    except BaseException:
        connection.close()
        raise
    if layout == len(MIGRATIONS):
        return connection
    connection.close()
    if layout > len(MIGRATIONS):
        raise LedgerError(f"{path}: a newer version of this program made this ledger (layout {layout}). Update the program.")
    if not layout:
        raise LedgerError(f"{path}: this file holds no ledger yet.")
    lock = LedgerLock(path)
    lock.acquire()
    try:
        connect_to_write(path).close()
    finally:
        lock.release()
    return _read_only(path)


def _read_only(path: Path, more: str = "") -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{more}", uri=True, isolation_level=None, check_same_thread=False)


def _bring_up(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    layout = _layout(connection, path)
    if layout > len(migrations):
        raise LedgerError(
            f"{path}: a newer version of this program made this ledger (layout {layout}). Nothing was sent. Update the program."
        )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")  # what fsync alone does not do on macOS; nothing elsewhere
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA cache_size = -4000")
    connection.execute("PRAGMA temp_store = MEMORY")  # a full folder of temporary files is no trouble of this one
    connection.create_function("likeness", 3, likeness, deterministic=True)
    connection.create_function("folded_id", 1, folded_id, deterministic=True)
    connection.create_function("identity", 1, _identity)
    for number, step in enumerate(migrations[layout:], layout + 1):
        connection.executescript(
            f"BEGIN IMMEDIATE; {step}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {number}; COMMIT"
        )


def _identity(first_campaign: str | None) -> str:
    """Return a name that all copies of a ledger share, also those made before ledgers had names."""
    known = secrets.token_bytes(16) if first_campaign is None else first_campaign.encode()
    return hashlib.sha256(known).hexdigest()[:32]


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
            f"{path}: the ledger is gone, and its log {log.name} is here. Nothing was sent. Put the ledger back beside it."
        )
    with closing(_read_only(path, "&immutable=1")) as file, closing(_read_only(path)) as both:
        try:
            (main,) = file.execute("SELECT branch FROM ledger").fetchone()
            branch, sealed = both.execute("SELECT branch, sealed FROM ledger").fetchone()
        except sqlite3.Error:  # an older layout, or one that was being made; what is damaged is told when it is opened
            return
    if sealed is not None and sealed == branch != main:  # this branch was written into the file, which has another now
        raise LedgerError(
            f"{path} and its log {log.name} do not belong together: one of them was put back from a backup. Nothing was sent. "
            f"Put the newest ledger and its log back; to use the backup, move {log.name} and {path.name}-shm away."
        )


def _layout(connection: sqlite3.Connection, path: Path) -> int:
    """Return the number of the layout, 0 for an empty file."""
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        layout = int(connection.execute("PRAGMA user_version").fetchone()[0])
        empty = not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.Error as problem:
        raise LedgerError(
            f"{path} is no ledger: {_reason(problem)}. Nothing was sent. Name another file with --ledger."
        ) from None
    if application != APPLICATION_ID and not (application == 0 and layout == 0 and empty):
        raise LedgerError(f"{path} is another program's database. Nothing was sent. Name another file with --ledger.")
    return layout


def _reason(problem: OSError | sqlite3.Error) -> str:
    return (problem.strerror or type(problem).__name__) if isinstance(problem, OSError) else str(problem)
