"""Whether a ledger in PostgreSQL is the newest copy, as far as its database and this machine's notes show."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from payouts.ledger.fleet_note import FleetNote, FleetNoteContents, fleet_notes, mark_of
from payouts.ledger.generation import Standing, identity_in

if TYPE_CHECKING:
    from pathlib import Path

    from payouts.ledger.base import Database

_BEYOND_NOTES = 1 << 32
"""How much a release adds to each generation: more than rows that another machine may have noted since the copy was made."""


def standing_in(database: Database, folder: Path | None = None) -> tuple[Standing, float]:
    """Return what is known of a database, and when rows were last sent from a newer copy; 0 where no note says so.

    A dump that was restored has tables of its own; a copy of the files is recognised where a note knows of more rows.

    Raises:
        LedgerError: a note cannot be read.
    """
    return standing_by(database, list(fleet_notes(identity_in(database), folder)))  # the notes are read first


def standing_by(database: Database, notes: Collection[FleetNoteContents]) -> tuple[Standing, float]:
    """Return what notes say of a database; they were read before: a worker of this machine may send, and note it, meanwhile."""
    counted = database.execute("SELECT vendor, name, generation FROM campaigns")
    sent = {mark_of(vendor, name): generation for vendor, name, generation in counted}
    missing = [each for each in notes if each.generation > sent.get(each.mark, 0)]
    if missing:
        return Standing.OLDER, max(each.at for each in missing)
    intact = database.execute("SELECT tables = these_tables() FROM ledger").get
    return (Standing.NEWEST if intact else Standing.UNKNOWN), 0.0


def renew_in(database: Database, notes: Collection[FleetNoteContents], at: float, folder: Path | None) -> Callable[[], None]:
    """Make a database the newest copy; return what notes that on this machine, once it is durable."""
    noted = {each.mark: each.generation for each in notes}
    for number, vendor, name in database.execute("SELECT number, vendor, name FROM campaigns"):
        known = noted.get(mark_of(vendor, name), 0)
        database.execute("UPDATE campaigns SET generation = greatest(generation, ?) WHERE number = ?", (known, number))
    changed: Sequence[tuple[str, str, int]] = database.execute(
        "UPDATE campaigns SET generation = generation + ? RETURNING vendor, name, generation", (_BEYOND_NOTES,)
    ).fetchall()
    database.execute("UPDATE ledger SET tables = these_tables(), audited_at = ?", (at,))
    identity = identity_in(database)

    def note_all() -> None:
        for vendor, name, generation in changed:
            if mark_of(vendor, name) in noted:
                note = FleetNote(folder)
                note.open(identity, vendor, name)
                note.write(generation, at)

    return note_all
