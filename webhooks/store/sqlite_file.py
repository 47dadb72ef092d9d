"""The file behind `SQLiteStore`: its schema and migrations, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
import sys
from typing import TYPE_CHECKING

from webhooks.errors import StoreError, StoreFull

if TYPE_CHECKING:
    from pathlib import Path

APPLICATION_ID = 0x72776462
OLDEST_SQLITE = (3, 35, 0)
FIRST_WITHOUT_WAL_RESET_BUG = (3, 51, 3)

MIGRATIONS = (
    """
    CREATE TABLE identity (identity BLOB PRIMARY KEY, day INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE event (
      id INTEGER PRIMARY KEY AUTOINCREMENT,
      scope TEXT NOT NULL,
      name TEXT NOT NULL,
      identity BLOB NOT NULL,
      kind TEXT,
      uid TEXT,
      state INTEGER NOT NULL,
      received_at REAL NOT NULL,
      occurred_at TEXT,
      correlation_id TEXT,
      attempt TEXT,
      problem TEXT,
      signature TEXT,
      body BLOB NOT NULL
    );
    CREATE INDEX event_received ON event (received_at);
    CREATE INDEX event_open ON event (state, id) WHERE state > 0;
    CREATE TABLE job (
      event_id INTEGER NOT NULL,
      handler TEXT NOT NULL,
      state INTEGER NOT NULL,
      due_at REAL NOT NULL,
      attempts INTEGER NOT NULL,
      reason TEXT,
      PRIMARY KEY (event_id, handler)
    ) WITHOUT ROWID;
    CREATE INDEX job_due ON job (handler, due_at, event_id) WHERE state = 1;
    CREATE TABLE outcome (
      seq INTEGER PRIMARY KEY AUTOINCREMENT,
      scope TEXT NOT NULL,
      kind TEXT NOT NULL,
      uid TEXT NOT NULL,
      status TEXT NOT NULL,
      resource BLOB NOT NULL,
      via TEXT NOT NULL,
      settled_at REAL NOT NULL
    );
    CREATE UNIQUE INDEX outcome_ref ON outcome (scope, kind, uid);
    CREATE INDEX outcome_settled ON outcome (settled_at);
    CREATE TABLE conflict (
      seq INTEGER PRIMARY KEY,
      scope TEXT NOT NULL,
      kind TEXT NOT NULL,
      uid TEXT NOT NULL,
      status TEXT NOT NULL,
      resource BLOB NOT NULL,
      via TEXT NOT NULL,
      settled_at REAL NOT NULL
    );
    CREATE INDEX conflict_ref ON conflict (scope, kind, uid);
    CREATE TABLE question (
      scope TEXT NOT NULL,
      kind TEXT NOT NULL,
      uid TEXT NOT NULL,
      due_at REAL NOT NULL,
      PRIMARY KEY (scope, kind, uid)
    ) WITHOUT ROWID;
    CREATE INDEX question_due ON question (scope, due_at);
    CREATE TABLE pending (
      scope TEXT NOT NULL,
      kind TEXT NOT NULL,
      uid TEXT NOT NULL,
      added_at REAL NOT NULL,
      PRIMARY KEY (scope, kind, uid)
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE outcome ADD COLUMN key TEXT;
    ALTER TABLE conflict ADD COLUMN key TEXT;
    CREATE INDEX outcome_key ON outcome (scope, kind, key) WHERE key IS NOT NULL;
    """,
)
"""Each one leads from the version that is its index to the next; none is ever changed once released."""

SYNCHRONOUS = "FULL"
"""Anything less acknowledges what a power cut may take back."""

_CHECKPOINT_PAGES = 4_000
_CACHE_KIB = 65_536
_STATEMENTS = 512


def open_writer(path: Path, *, busy_seconds: float) -> sqlite3.Connection:
    """Open the one connection that writes and checkpoints, with the newest schema; the file is made readable by its owner alone.

    Args:
        path: The store's file.
        busy_seconds: How long to wait for somebody else's lock before giving up.

    Raises:
        StoreError: it cannot be opened, is no store, or was made by a newer version.
    """
    try:
        if not path.exists():  # closing a file that stands gives up all the locks that SQLite holds on it for this process
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = _connect(f"{path.absolute().as_uri()}?mode=rw", busy_seconds)
    except (OSError, sqlite3.Error) as problem:
        raise cannot_open(path, problem) from None
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={SYNCHRONOUS}")
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        connection.execute("PRAGMA temp_store=MEMORY")  # a full folder of temporary files is no trouble of this one
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        if sys.platform == "darwin":
            connection.execute("PRAGMA fullfsync=ON")
            connection.execute("PRAGMA checkpoint_fullfsync=ON")
        _migrate(path, connection)
    except sqlite3.Error as problem:
        connection.close()
        raise cannot_open(path, problem) from None
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path, *, busy_seconds: float) -> sqlite3.Connection:
    """Open a connection that can neither write nor checkpoint.

    Raises:
        StoreError: there is no such file, it is no store, or its schema is not the one this version reads.
    """
    try:
        connection = _connect(f"{path.absolute().as_uri()}?mode=ro", busy_seconds)
    except sqlite3.Error as problem:
        raise cannot_open(path, problem) from None
    try:
        version = _version(path, connection)
    except sqlite3.Error as problem:
        connection.close()
        raise cannot_open(path, problem) from None
    except BaseException:
        connection.close()
        raise
    if version != len(MIGRATIONS):
        connection.close()
        raise StoreError(
            f"expected {path} with schema {len(MIGRATIONS)}, got {version}; "
            "start the process that writes it once with this version, it brings the schema forward"
        )
    return connection


def meaning(problem: sqlite3.Error, path: Path) -> StoreError:
    """Return what an error of SQLite means for the store, and what to do."""
    code = getattr(problem, "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None
    if primary == sqlite3.SQLITE_FULL:
        return StoreFull(f"expected room for {path}, got a full disk; free some, nothing else is needed")
    if primary in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return StoreError(
            f"expected {path} unlocked, got a lock held by somebody else; only the store's own process may write it"
        )
    if primary == sqlite3.SQLITE_READONLY:
        return StoreError(f"expected {path} to be writable, got a read-only file or folder; check its mount and permissions")
    if primary in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return StoreError(f"expected {path} to be a sound SQLite file, got a damaged one; restore it from a backup")
    return StoreError(f"expected {path} to answer, got {type(problem).__name__}: {problem}; check the disk beneath it")


def cannot_open(path: Path, problem: Exception) -> StoreError:
    """Return what it means that the file cannot be opened."""
    if (
        isinstance(problem, sqlite3.Error)
        and getattr(problem, "sqlite_errorcode", sqlite3.SQLITE_CANTOPEN) != sqlite3.SQLITE_CANTOPEN
    ):
        return meaning(problem, path)
    words = problem.strerror if isinstance(problem, OSError) else str(problem)
    return StoreError(f"expected to open {path}, got {words}; its folder must exist and this user must be allowed to write there")


def _connect(uri: str, busy_seconds: float) -> sqlite3.Connection:
    return sqlite3.connect(
        uri, uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False, cached_statements=_STATEMENTS
    )


def _version(path: Path, connection: sqlite3.Connection) -> int:
    """Return the schema's version, 0 for an empty file.

    Raises:
        StoreError: it is another program's file, or of a newer version.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application != APPLICATION_ID and tables:
        raise StoreError(f"expected {path} to be a store of webhooks, got another program's database; give another path")
    if version > len(MIGRATIONS):
        raise StoreError(
            f"expected {path} with schema {len(MIGRATIONS)} or older, got {version}; "
            "it was made by a newer version of this library, install that one"
        )
    return int(version)


def _migrate(path: Path, connection: sqlite3.Connection) -> None:
    if _version(path, connection) == len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for number in range(_version(path, connection), len(MIGRATIONS)):
            for statement in MIGRATIONS[number].split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={number + 1}")
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise
