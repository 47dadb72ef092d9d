"""Add rows to the ledger: new rows are planned, and known rows must be unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from payouts.details import changed_details
from payouts.keys import Keys
from payouts.ledger.entries import COLUMNS, entry_of
from payouts.ledger.fingerprints import fingerprint, folded_id
from payouts.ledger.steps import MAX_AT_ONCE, marks
from payouts.ledger.stretches import last_number
from payouts.states import Entry, KeyTaken, RowChanged, State, content, same_amount
from rewards_core.sqlite.connection import ConstraintError

if TYPE_CHECKING:
    from payouts.ledger.base import Database
    from payouts.rows import Row

INSERTED = (
    "number, campaign, vendor, id, line, recipient, item, amount, key, state, planned_at, sent_at, problem, likeness, folded_id, "
    "details"
)
_INSERT = f"INSERT INTO rows ({INSERTED}) VALUES {{}}"
RETIRED_BY = (
    "SELECT id, name FROM retired_keys JOIN rows ON rows.number = row JOIN campaigns ON campaigns.number = campaign "
    "WHERE retired_keys.vendor = ?1 AND retired_keys.key = {}"
)
_ROW = f"({', '.join('?' * 16)})"


class Planner:
    """Plan the rows of one campaign.

    Args:
        vendor: The vendor that pays.
        campaign: The campaign's name.
        number: The ledger's number of it.
        unsure: Why a new row may already have been paid, so that it is stored as unknown; None if that cannot be.
    """

    def __init__(self, vendor: str, campaign: str, number: int, *, unsure: str | None = None) -> None:
        self._vendor = vendor
        self._campaign = campaign
        self._number = number
        self._keys = Keys(vendor, campaign)
        self._unsure = unsure

    def plan(self, rows: Sequence[Row], at: float, database: Database) -> list[Entry]:
        """Store the rows that are new, and return the entry of each row.

        Raises:
            RowChanged: the ledger holds a row with the same id and other content.
            KeyTaken: a row has the key of another row.
        """
        return self._take_up(rows, None, at, database)[0]

    def plan_sent(self, rows: Sequence[Row], max_rows: int, at: float, database: Database) -> tuple[list[Entry], int]:
        """Store new rows as sent, until there are `max_rows` of them.

        Returns:
            The entry of each row so far, and how many of the rows were stored as sent.

        Raises:
            RowChanged: as `plan`.
            KeyTaken: as `plan`.
        """
        entries: list[Entry] = []
        sent = 0
        while sent < max_rows and len(entries) < len(rows):
            more, stored = self._take_up(rows[len(entries) : len(entries) + max_rows - sent], at, at, database)
            entries += more
            sent += stored if self._unsure is None else 0
        return entries, sent

    def _take_up(self, rows: Sequence[Row], sent_at: float | None, at: float, database: Database) -> tuple[list[Entry], int]:
        keys = [row.given_key for row in rows]
        known = self._known(rows, database)
        retired = self._retired([key for row, key in zip(rows, keys, strict=True) if key and row.id not in known], database)
        state = State.UNKNOWN if self._unsure is not None else State.PLANNED if sent_at is None else State.SENT
        number = last_number(database)
        fresh: list[Entry] = []
        entries: list[Entry] = []
        for row, given in zip(rows, keys, strict=True):
            key = given or self._keys.of(row.id)
            entry = known.get(row.id)
            if entry is None:
                if given is not None and given in retired:
                    raise KeyTaken(given, row.id, *retired[given])
                number += 1
                entry = known[row.id] = Entry(
                    number=number,
                    id=row.id,
                    line=row.line,
                    recipient=row.recipient,
                    item=row.item,
                    amount=row.amount,
                    key=key,
                    state=state,
                    problem=self._unsure,
                    planned_at=at,
                    sent_at=sent_at if state is State.SENT else None,
                    details=row.details,
                )
                fresh.append(entry)
            elif not self._same(row, key, entry, database):
                details = changed_details(entry.details, row.details)
                others = "".join(f", {name} {now} instead of {before}" for name, before, now in details)
                raise RowChanged(entry, content(row.amount, row.item, row.recipient, key) + others)
            entries.append(entry)
        self._insert(fresh, database)
        return entries, len(fresh)

    def _known(self, rows: Sequence[Row], database: Database) -> dict[str, Entry]:
        known: dict[str, Entry] = {}
        for begin in range(0, len(rows), MAX_AT_ONCE):
            ids = [row.id for row in rows[begin : begin + MAX_AT_ONCE]]
            found = database.execute(
                f"SELECT {COLUMNS} FROM rows WHERE campaign = ? AND id IN ({', '.join('?' * len(ids))})",
                (self._number, *ids),
            )
            known.update((entry.id, entry) for entry in map(entry_of, found))
        return known

    def _insert(self, fresh: Sequence[Entry], database: Database) -> None:
        try:
            for begin in range(0, len(fresh), MAX_AT_ONCE):
                some = fresh[begin : begin + MAX_AT_ONCE]
                values = [value for entry in some for value in self._values(entry)]
                database.execute(_INSERT.format(marks(len(some), _ROW)), values)
        except ConstraintError:
            problem = self._takers(fresh, database)[0]
        else:
            return
        raise problem

    def _takers(self, fresh: Sequence[Entry], database: Database) -> list[KeyTaken]:
        """Return an error for each row that has the key of another row."""
        problems: list[KeyTaken] = []
        owners: dict[str, tuple[str, str]] = {}
        for entry in fresh:
            found = database.execute(
                "SELECT id, name FROM rows JOIN campaigns ON campaigns.number = campaign "
                "WHERE rows.vendor = ? AND key = ? AND rows.number != ?",
                (self._vendor, entry.key, entry.number),
            ).get
            owner = owners.get(entry.key) if found is None else found
            if owner is not None:
                problems.append(KeyTaken(entry.key, entry.id, *owner))
            owners[entry.key] = (entry.id, self._campaign)
        return problems

    def _values(self, entry: Entry) -> tuple[Any, ...]:
        grant = (entry.id, entry.line, entry.recipient, entry.item, entry.amount, entry.key)
        state = (entry.state.value, entry.planned_at, entry.sent_at, entry.problem)
        spelled = (fingerprint(entry.recipient, entry.item, entry.amount, entry.details), folded_id(entry.id))
        return (entry.number, self._number, self._vendor, *grant, *state, *spelled, entry.details)

    def _retired(self, keys: Sequence[str], database: Database) -> dict[str, tuple[str, str]]:
        """Return row id and campaign of those keys that retries replaced."""
        found = {key: database.execute(RETIRED_BY.format("?2"), (self._vendor, key)).get for key in keys}
        return {key: owner for key, owner in found.items() if owner is not None}

    def _same(self, row: Row, key: str, known: Entry, database: Database) -> bool:
        if (row.recipient, row.item) != (known.recipient, known.item) or not same_amount(row.amount, known.amount):
            return False
        if any(changed_details(known.details, row.details)):
            return False
        if key == known.key:
            return True
        if not known.retries:
            return False
        first = database.execute("SELECT key FROM retired_keys WHERE row = ? AND retry = 0", (known.number,)).get
        return bool(key == first)
