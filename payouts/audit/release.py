"""Release a ledger that may be an older copy: rows are sent from it again once its books were compared with the vendor's."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from typing import TYPE_CHECKING

from payouts.ledger import decisions
from payouts.ledger.generation import GenerationNote, Noted, Standing, standing
from payouts.ledger.reader import LedgerReader
from payouts.states import AuditNeeded
from payouts.vendors import ROW_TYPES

if TYPE_CHECKING:
    from pathlib import Path

    from payouts.ledger.sqlite import Ledger
    from rewards_core.sqlite.connection import Connection

_PROBLEM = "the ledger was restored from an older copy; this row may have been paid since that copy was made"


def standing_of(path: Path, state: Path | None = None) -> Standing:
    """Return what this machine's note says about a ledger.

    Raises:
        LedgerError: the ledger or the note cannot be read.
    """
    with LedgerReader(path) as reader:
        identity, generation, branch = reader.generation()
    return standing(generation, branch, GenerationNote(identity, state).read())


def check_newest(path: Path) -> None:
    """Refuse a ledger that is not known to be the newest copy.

    Raises:
        AuditNeeded: it may be an older copy.
        LedgerError: the ledger or the note cannot be read.
    """
    found = standing_of(path)
    if found is not Standing.NEWEST:
        raise AuditNeeded(path, found.value, may_be_newest=found is Standing.UNKNOWN)


def last_sent_elsewhere(path: Path) -> float:
    """Return when rows were last sent from a newer copy of a ledger, in seconds since the epoch; 0 where no note says so.

    Earlier findings of an audit say nothing about what was sent since.

    Raises:
        LedgerError: the ledger or the note cannot be read.
    """
    with LedgerReader(path) as reader:
        identity, generation, branch = reader.generation()
    noted = GenerationNote(identity).read()
    return noted.at if noted is not None and standing(generation, branch, noted) is Standing.OLDER else 0.0


async def release(ledger: Ledger, at: float, state: Path | None = None, *, newest: bool = False) -> int:
    """Treat a ledger as the newest copy from now on.

    From then on, campaigns that were paid from the newer copy look up each row before it is sent. Rows of a vendor without a
    look-up that are not known to be paid become unknown, and so do those that a file brings later. With `newest` a person vouches
    that nothing was sent from a newer copy: then no row becomes unknown, and the decision is recorded.

    Returns:
        How many rows became unknown.

    Raises:
        LedgerError: the ledger or the note cannot be written, or a run pays from another copy.
    """
    identity = await ledger.transact(lambda database: str(database.execute("SELECT identity FROM ledger").get))
    note = await asyncio.to_thread(GenerationNote, identity, state)
    await asyncio.to_thread(note.take)
    try:
        noted = await asyncio.to_thread(note.read)
        branch = secrets.token_hex(8)
        if newest:
            generation, doubted = await ledger.transact(partial(_vouch, at, branch)), 0
        else:
            generation, doubted = await ledger.transact(partial(_doubt, noted, at, branch))
        await asyncio.to_thread(note.write, generation, at, (branch, branch))
    finally:
        note.release()
    return doubted


def _doubt(noted: Noted | None, at: float, branch: str, database: Connection) -> tuple[int, int]:
    generation, known = database.execute("SELECT generation, branch FROM ledger").get
    doubted = 0
    if standing(generation, known, noted) is not Standing.NEWEST:
        database.execute("UPDATE campaigns SET restored_at = ?", (at,))
        database.executemany(
            "INSERT INTO campaigns (vendor, name, target, opened_at, restored_at) VALUES (?, ?, '', ?, ?) ON CONFLICT DO NOTHING",
            [(vendor, name, at, at) for vendor, name in (noted.campaigns if noted else ())],
        )
        for vendor in (name for name, row_type in ROW_TYPES.items() if not row_type.has_lookup):
            database.execute(
                "UPDATE rows SET state = 'unknown', problem = ?, settled_at = ? "
                "WHERE vendor = ? AND state IN ('planned', 'sent')",
                (_PROBLEM, at, vendor),
            )
            doubted += database.changes()
    generation = max(generation, noted.generation if noted else 0) + 1
    database.execute("UPDATE ledger SET generation = ?, branch = ?, audited_at = ?", (generation, branch, at))
    return generation, doubted


def _vouch(at: float, branch: str, database: Connection) -> int:
    note = "vouched for as the newest copy"
    decisions.record(database, kind="newest", at=at, campaign=None, became="newest", note=note)
    changed = database.execute("UPDATE ledger SET generation = generation + 1, branch = ? RETURNING generation", (branch,))
    return int(changed.get)
