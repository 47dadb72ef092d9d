"""Move a ledger from a file to an empty database, so that at no moment rows can be sent from both.

The file is marked first, and refused from then on. Everything is copied in one transaction of the database, whose commit is the
moment from which rows can be sent again. The file's generation grows with the mark, so that its copies are refused too.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import closing, contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import frozen

from payouts.ledger.fleet_note import fleet_notes
from payouts.ledger.generation import GenerationNote, identity_in, require_newest, standing
from payouts.ledger.lock import LedgerLock
from payouts.ledger.place import DatabasePlace
from payouts.ledger.postgres_planner import copy_rows
from payouts.ledger.schema import MoveMark, connect_to_write, mark_moved, moved_of, seal_branch
from payouts.states import LedgerError, LedgerUnavailable
from rewards_core.errors import StoreError
from rewards_core.postgres.statements import Statements, run_work
from rewards_core.sqlite.connection import Connection, transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from payouts.ledger.place import FilePlace
    from payouts.ledger.postgres_lock import PostgresLock

T = TypeVar("T")

ROWS_AT_ONCE = 5_000
"""Rows of one COPY: few enough for its time limit and for memory."""

_ROW = (
    "number campaign vendor id line recipient item amount key state retries uid settled_by answer absent_since absent_at "
    "problem_kind problem note planned_at sent_at accepted_at settled_at likeness folded_id details"
)
_RETIRED = "vendor key row retry replaced_by state uid problem_kind problem sent_at settled_at retired_at note"
_TABLES = {
    "campaigns": ("number vendor name target opened_at run_at restored_at", "number"),
    "rows": (_ROW, "number"),
    "retired_keys": (_RETIRED, "vendor, key"),
    "decisions": ("number at by kind campaign row key was became note evidence before undone_by", "number DESC"),
    "audits": ("number vendor target campaign begun_at ended_at after rows requests unchecked", "number"),
    "differences": ("audit number kind row recipient uid ledger vendor applied", "audit, number"),
    "balances": ("recipient coins at", "recipient"),
    "calendar": ("kept", "rowid"),
}
"""Columns and order of each table. A row comes after those that it refers to; decisions refer to later ones, which undid them."""
_NUMBERED = ("campaigns", "decisions", "audits")
_KEPT_AWAY = "LOCK TABLE ledger, campaigns, decisions, audits, balances, calendar IN EXCLUSIVE MODE"


@frozen(kw_only=True)
class _Source:
    """A ledger file that no other process uses, and from whose copies none sends.

    Attributes:
        path: The file.
        lock: Its lock.
        file: A connection to it.
        identity: The identity that all its copies share.
        note: The note of its generation.
    """

    path: Path
    lock: LedgerLock
    file: Connection
    identity: str
    note: GenerationNote

    def check_newest(self) -> None:
        """Raise `AuditNeeded` if this may be an older copy."""
        generation, branch = self.file.execute("SELECT generation, branch FROM ledger").get
        require_newest(self.path, standing(generation, branch, self.note.read()))

    def mark(self, moved: MoveMark | None) -> None:
        """Change the mark, and let no other copy count as the newest from then on."""
        generation, branch = self.file.execute("SELECT generation, branch FROM ledger").get
        new, at = secrets.token_hex(8), time.time()
        self.note.write(generation, at, (branch, new))
        with transaction(self.file):
            mark_moved(self.file, moved)
            self.file.execute("UPDATE ledger SET generation = generation + 1, branch = ?", (new,))
        self.note.write(generation + 1, at, (new, new))
        seal_branch(self.file)

    def counts(self) -> dict[str, int]:
        """Return how many rows each table has."""
        known = {name for (name,) in self.file.execute("SELECT name FROM sqlite_schema")}  # the first audit makes one
        return {name: int(self.file.execute(f"SELECT count(*) FROM {name}").get) for name in _TABLES if name in known}


def move(source: FilePlace, target: DatabasePlace, progress: Callable[[int, int], None]) -> Mapping[str, int]:
    """Move a ledger; after any interruption the same call continues. Call it in a thread in which no event loop runs.

    Args:
        source: The file.
        target: A database that holds no ledger.
        progress: Called with how many rows of all tables were copied, and how many there are.

    Returns:
        How many rows each table has.

    Raises:
        AuditNeeded: the file may be an older copy.
        LedgerInUse: another process uses the file, pays from a copy of it, or plans rows in the database.
        LedgerError: the file was moved elsewhere, the database holds a ledger, or one of them cannot be used.
    """
    with _held(source) as held:
        moved = moved_of(held.file)
        if moved is not None and moved.to != str(target):
            raise LedgerError(f"{source} {moved}. Nothing was changed.")
        if moved is None or moved.begun_with is not None:
            held.check_newest()
            with target.lock() as planning:
                _move(held, target, planning, moved, progress)
        return held.counts()


def cancel(source: FilePlace, target: DatabasePlace | None = None) -> str:
    """Give a move up, so that rows can be sent from the file again; return the database, without its password.

    Args:
        source: The file.
        target: The database, if its URL needs a password that the mark does not have.

    Raises:
        LedgerInUse: another process uses the file.
        LedgerError: the file is not being moved, the database holds the ledger already, or that cannot be found out.
    """
    with _held(source) as held:
        moved = moved_of(held.file)
        if moved is None:
            raise LedgerError(f"{source} is not being moved. Nothing was changed.")
        if moved.begun_with is None:
            raise LedgerError(f"{source} {moved}, which may have been paid from since. Nothing was changed.")
        if target is not None and str(target) != moved.to:
            raise LedgerError(f"{source} {moved}, not to {target}. Nothing was changed.")
        held.check_newest()
        place = DatabasePlace(moved.to) if target is None else target
        if next(fleet_notes(held.identity), None) is not None or (place.exists() and _found_in(place)[0] == held.identity):
            raise LedgerError(
                f"{moved.to} holds the whole ledger already. Nothing was changed. Finish the move: payouts move "
                f"--ledger {source} --to {moved.to}"
            )
        held.mark(None)
        return moved.to


@contextmanager
def _held(source: FilePlace) -> Iterator[_Source]:
    if not source.exists():
        raise LedgerError(f"{source}: there is no such ledger. Nothing was changed.")
    lock = LedgerLock(source.path)
    lock.acquire()
    try:
        with closing(connect_to_write(source.path, even_moved=True)) as file:
            identity = identity_in(file)
            note = GenerationNote(identity)
            note.take()
            try:
                yield _Source(path=source.path, lock=lock, file=file, identity=identity, note=note)
            finally:
                note.release()
    finally:
        lock.release()


def _move(
    held: _Source, target: DatabasePlace, planning: PostgresLock, moved: MoveMark | None, progress: Callable[[int, int], None]
) -> None:
    """Mark the file, fill the database, and mark the file as moved."""
    identity, empty = _found_in(target)
    if moved is None or identity != held.identity:  # else the commit of an interrupted move has arrived
        if not empty or identity == held.identity:
            raise LedgerError(f"{target} holds a ledger already. Nothing was copied. Move into an empty database.")
        if moved is not None and moved.begun_with != identity:
            raise LedgerError(
                f"{target} is not the database with which the move began: its tables were made again since. Nothing was copied. "
                f"If they hold nothing, give that move up, then begin again: payouts move --ledger {held.path} --cancel"
            )
        held.mark(MoveMark(to=str(target), begun_with=identity))
        try:
            _transact(target, partial(_fill, held, planning, identity, progress))
        except LedgerUnavailable as problem:
            raise LedgerUnavailable(
                f"{problem} {held.path} is marked as being moved and cannot be paid from: run the same command again, or give "
                f"the move up: payouts move --ledger {held.path} --cancel"
            ) from None
    with transaction(held.file):
        mark_moved(held.file, MoveMark(to=str(target), begun_with=None))


def _fill(
    held: _Source, planning: PostgresLock, begun_with: str, progress: Callable[[int, int], None], database: Statements
) -> None:
    """Copy all tables into the database, which holds none of them before the commit."""
    if _look(database) != (begun_with, True):
        raise LedgerError("The database was changed during the move. Nothing was copied. Run the same command again.")
    generation, audited_at = held.file.execute("SELECT generation, audited_at FROM ledger").get
    counts = held.counts()
    total, copied = sum(counts.values()), 0
    for table in counts:
        columns, order = _TABLES[table]
        names, more = columns.split(), (generation,) if table == "campaigns" else ()
        rows = held.file.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY {order}")
        while group := [(*map(_storable, row), *more) for row in islice(rows, ROWS_AT_ONCE)]:
            if table == "rows":
                copy_rows(database, names, group)
            else:
                database.copy(table, [*names, "generation"] if more else names, group)
            copied += len(group)
            progress(copied, total)
    for table in _NUMBERED:
        database.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'number'), (SELECT max(number) FROM {table}))")
    database.execute("UPDATE ledger SET identity = ?, audited_at = ?, tables = these_tables()", (held.identity, audited_at))
    planning.check(database)
    held.lock.check()


def _look(database: Statements) -> tuple[str, bool]:
    """Wait for any other move into the database to end; return its identity and whether it is empty."""
    database.execute(_KEPT_AWAY)
    empty = " AND ".join(f"NOT EXISTS (SELECT FROM {table})" for table in _TABLES)
    identity, is_empty = database.execute(f"SELECT identity, {empty} FROM ledger").get
    return identity, is_empty


def _found_in(target: DatabasePlace) -> tuple[str, bool]:
    return _transact(target, _look)


def _transact(target: DatabasePlace, work: Callable[[Statements], T]) -> T:
    async def transact() -> T:
        engine = target.engine()
        try:
            return await engine.transact(lambda connection: run_work(connection, work))
        except StoreError as problem:
            raise LedgerUnavailable(str(problem)) from None
        finally:
            await engine.aclose()

    return asyncio.run(transact())


def _storable(value: Any) -> Any:
    """Return a value without what PostgreSQL cannot hold, which older versions stored of a vendor's text."""
    return value.replace("\0", "\ufffd") if isinstance(value, str) else value
