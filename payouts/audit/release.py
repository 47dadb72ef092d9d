"""Release a ledger that may be an older copy: rows are sent from it again once its books were compared with the vendor's."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial
from typing import TYPE_CHECKING

from payouts.ledger import decisions
from payouts.ledger.generation import GenerationNote, NoteContents, Standing, identity_in, standing
from payouts.ledger.sqlite import Ledger
from payouts.ledger.steps import states_of
from payouts.ledger.stretches import whole_ledger
from payouts.vendors import ROW_TYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from payouts.ledger.base import Database
    from payouts.ledger.campaign import CampaignLedger

_PROBLEM = "the ledger was restored from an older copy; this row may have been paid since that copy was made"

WRITTEN_AT_ONCE = 20_000
"""Rows that one statement may change, within the database's limit."""


async def release(ledger: CampaignLedger, at: float, state: Path | None = None, *, newest: bool = False) -> int:
    """Treat a ledger as the newest copy from now on.

    From then on, campaigns that were paid from the newer copy look up each row before it is sent. Rows of a vendor without a
    look-up that are not known to be paid become unknown, and so do those that a file brings later. With `newest` a person vouches
    that nothing was sent from a newer copy: then no row becomes unknown, and the decision is recorded.

    Returns:
        How many rows became unknown.

    Raises:
        LedgerError: the ledger or the note cannot be written, or a run pays from another copy.
    """
    if not isinstance(ledger, Ledger):
        return await _release_database(ledger, at, state, newest=newest)
    identity = await ledger.transact(identity_in)
    note = await asyncio.to_thread(GenerationNote, identity, state)
    await asyncio.to_thread(note.take)
    try:
        noted = await asyncio.to_thread(note.read)
        branch = secrets.token_hex(8)
        if newest:
            generation, doubted = await ledger.transact(partial(_accept_as_newest, at, branch)), 0
        else:
            generation, doubted = await ledger.transact(partial(_doubt_file, noted, at, branch))
        await asyncio.to_thread(note.write, generation, at, (branch, branch))
    finally:
        note.release()
    return doubted


async def _release_database(ledger: CampaignLedger, at: float, state: Path | None, *, newest: bool) -> int:
    from payouts.ledger.fleet_note import fleet_notes  # noqa: PLC0415 - files do not need it
    from payouts.ledger.postgres_standing import renew_in, standing_by  # noqa: PLC0415

    identity = await ledger.transact(identity_in)
    notes = await asyncio.to_thread(lambda: list(fleet_notes(identity, state)))

    def renew(database: Database) -> tuple[int, Callable[[], None]]:
        doubted = 0
        if newest:
            _record_vouching(database, at)
        elif standing_by(database, notes)[0] is not Standing.NEWEST:
            doubted = _doubt(database, at, [(each.vendor, each.name) for each in notes if each.name])
        return doubted, renew_in(database, notes, at, state)

    doubted, note_all = await ledger.transact(renew)
    await asyncio.to_thread(note_all)
    return doubted


def _doubt_file(noted: NoteContents | None, at: float, branch: str, database: Database) -> tuple[int, int]:
    generation, known = database.execute("SELECT generation, branch FROM ledger").get
    doubted = 0
    if standing(generation, known, noted) is not Standing.NEWEST:
        doubted = _doubt(database, at, noted.campaigns if noted else ())
    generation = max(generation, noted.generation if noted else 0) + 1
    database.execute("UPDATE ledger SET generation = ?, branch = ?, audited_at = ?", (generation, branch, at))
    return generation, doubted


def _doubt(database: Database, at: float, paid: Sequence[tuple[str, str]]) -> int:
    """Doubt that rows are unpaid, of these campaigns even if the copy has lost them; return how many became unknown."""
    database.execute("UPDATE campaigns SET restored_at = ?", (at,))
    database.executemany(
        "INSERT INTO campaigns (vendor, name, target, opened_at, restored_at) VALUES (?, ?, '', ?, ?) ON CONFLICT DO NOTHING",
        [(vendor, name, at, at) for vendor, name in paid],
    )
    table, doubted = states_of(database), 0
    for vendor in (name for name, row_type in ROW_TYPES.items() if not row_type.has_lookup):
        for begin, end in whole_ledger(database, WRITTEN_AT_ONCE):
            changed = database.execute(  # by the number and no other index, in a database without statistics too
                f"UPDATE {table} SET state = 'unknown', problem = ?, settled_at = ? "  # noqa: S608 - a name
                "WHERE number > ? AND number <= ? AND +campaign IN (SELECT number FROM campaigns WHERE vendor = ?) "
                "AND state IN ('planned', 'sent') RETURNING number",
                (_PROBLEM, at, begin, end, vendor),
            )
            doubted += len(changed.fetchall())
    return doubted


def _accept_as_newest(at: float, branch: str, database: Database) -> int:
    _record_vouching(database, at)
    changed = database.execute("UPDATE ledger SET generation = generation + 1, branch = ? RETURNING generation", (branch,))
    return int(changed.get)


def _record_vouching(database: Database, at: float) -> None:
    note = "vouched for as the newest copy"
    decisions.record(database, kind="newest", at=at, campaign=None, became="newest", note=note)
