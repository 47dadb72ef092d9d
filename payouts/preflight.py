"""What the ledger says of the rows of a file before any of them is sent: known, changed, or a repeat of what was paid."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Self

from attrs import frozen

from payouts.decisions import record
from payouts.ledger_reader import FIELDS, Campaign, LedgerReader
from payouts.likeness import likeness
from payouts.rows import InvalidRow, Row, derive_key
from payouts.states import Entry, State, same_amount

if TYPE_CHECKING:
    from types import TracebackType

    from payouts.ledger import Ledger
    from payouts.lines import Mistake


@frozen(kw_only=True)
class Repeat:
    """Rows of a file that repeat recipient, reward and amount of rows of one campaign.

    Attributes:
        campaign: The campaign, which has paid them or may have.
        rows: How many rows of the file do.
        line: Where the first one stands.
        itself: Whether it is the campaign that is to be paid.
    """

    campaign: Campaign
    rows: int
    line: int
    itself: bool


@frozen(kw_only=True)
class KeysElsewhere:
    """Rows of a file that bring keys under which rows of another campaign are paid; a key pays once, so they cannot be.

    Attributes:
        campaign: The name of that campaign.
        rows: How many rows of the file do.
        line: Where the first one stands.
    """

    campaign: str
    rows: int
    line: int


class Preflight:
    """Compare the rows of one file with the ledger; use it inside `with`, and for one reading of the file.

    Args:
        reader: The ledger.
        vendor: Who is to pay.
        name: The campaign, which the ledger may not know yet.
        repeats_of: Names or patterns of the campaigns that rows may repeat.

    Attributes:
        campaign: The campaign as the ledger knows it, None if it is new.
        known: How many rows of the file the campaign has.
        rows: How many rows of the file were looked at.
    """

    def __init__(self, reader: LedgerReader, vendor: str, name: str, repeats_of: Sequence[str] = ()) -> None:
        self._reader = reader
        self._vendor = vendor
        self._name = name
        self._campaigns = {each.number: each for each in reader.campaigns() if each.vendor == vendor}
        self.campaign = next((each for each in self._campaigns.values() if each.name == name), None)
        number = 0 if self.campaign is None else self.campaign.number
        self._number = number
        self._allowed = reader.allowed_repeats(number)
        self.allowed_now = {
            each.number for each in self._campaigns.values() if any(fnmatchcase(each.name, pattern) for pattern in repeats_of)
        }
        self._keys_elsewhere: dict[str, tuple[int, int]] = {}
        self._repeats: dict[int, tuple[int, int]] = {}
        self._alike = sqlite3.connect("", isolation_level=None)  # on the disk if it grows; what is alike in this campaign itself
        self._alike.execute("CREATE TABLE alike (likeness TEXT, line INTEGER)")
        self._paid_alike = lru_cache(10_000)(reader.paid_alike)  # a payroll has the same amount for many
        self.rows = self.known = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None) -> None:
        self._alike.close()

    def __call__(self, row: Row) -> None:
        """Look at one row.

        Raises:
            InvalidRow: the ledger has it with other content, or it brings the key of another row of the campaign.
        """
        self.rows += 1
        known = None if self.campaign is None else self._reader.find(self.campaign, row.id)
        if known is not None and self.campaign is not None:
            self._refuse_changed(self.campaign, known, row)
            self.known += 1
            if known.state is State.PLANNED:
                self._compare(row, since=known.planned_at)
        elif not self._key_is_elsewhere(row):
            self._compare(row)

    def conclude(self, line_of: Callable[[str], int | None]) -> Iterable[Mistake]:
        """Compare the file as a whole with the ledger, after its last row; what is found is no mistake of a single row.

        Args:
            line_of: Returns on which line of the file a row id stands, None if it is not there.
        """
        if self.campaign is not None and self._number not in self._allowed:
            self._count_repeats_of_itself(self.campaign, line_of)
        return ()

    def keys_elsewhere(self) -> list[KeysElsewhere]:
        """Return the other campaigns whose keys the file brings."""
        return [KeysElsewhere(campaign=name, rows=rows, line=line) for name, (rows, line) in self._keys_elsewhere.items()]

    def repeats(self) -> list[Repeat]:
        """Return the repeats that nothing has allowed yet, those of the campaign with most of them first."""
        found = [
            Repeat(campaign=self._campaigns[number], rows=rows, line=line, itself=number == self._number)
            for number, (rows, line) in self._repeats.items()
            if number not in self.allowed_now
        ]
        return sorted(found, key=lambda repeat: (-repeat.rows, repeat.campaign.number))

    def newly_allowed(self) -> list[int]:
        """Return the ledger's numbers of the campaigns that the file repeats and that were allowed for this run."""
        return sorted(self.allowed_now & self._repeats.keys())

    def _refuse_changed(self, campaign: Campaign, known: Entry, row: Row) -> None:
        key = row.given_key or derive_key(campaign.vendor, campaign.name, row.id)
        first_key = self._reader.first_key(known)
        given = (row.recipient, row.item, row.amount, known.key if key == first_key else key)
        held = (known.recipient, known.item, known.amount, known.key)
        other = [
            (name, str(before), str(now))
            for name, now, before in zip(FIELDS[campaign.vendor], given, held, strict=True)
            if now != before and not (name == "amount" and same_amount(now, before))
        ]
        if other:
            had, has = " and ".join(before for _, before, _ in other), " and ".join(now for _, _, now in other)
            told = (
                f"row {row.id} is in the ledger as {known.state} with {had}; the file now has {has}. A row never changes: "
                "undo the change, or give the new grant a new id"
            )
            raise InvalidRow(told, name=other[0][0], kind="changed")

    def _key_is_elsewhere(self, row: Row) -> bool:
        """Return whether a row brings the key of a row of another campaign, and count it."""
        owner = None if row.given_key is None else self._reader.owner_of_key(self._vendor, row.given_key)
        if owner is None:
            return False
        row_id, campaign = owner
        if campaign == self._name:
            told = f"this key belongs to row {row_id} of this campaign. If it is the same grant, give the row that id again"
            raise InvalidRow(told, name=FIELDS[self._vendor][3], kind="key_of_another_row")
        rows, line = self._keys_elsewhere.get(campaign, (0, row.line))
        self._keys_elsewhere[campaign] = (rows + 1, line)
        return True

    def _compare(self, row: Row, *, since: float | None = None) -> None:
        """Count a row that is not sent yet and repeats what was paid; of a row that is planned, what was paid after it was."""
        alike = likeness(row.recipient, row.item, row.amount)
        for number, last_sent_at in self._paid_alike(self._vendor, alike):
            if number in self._allowed or (since is not None and (number == self._number or last_sent_at <= since)):
                continue
            if number == self._number:
                self._alike.execute("INSERT INTO alike VALUES (?, ?)", (alike, row.line))
            else:
                rows, line = self._repeats.get(number, (0, row.line))
                self._repeats[number] = (rows + 1, line)

    def _count_repeats_of_itself(self, campaign: Campaign, line_of: Callable[[str], int | None]) -> None:
        """Count the new rows that repeat rows of their own campaign which the file does not have."""
        total = first = 0
        for alike, rows, line in self._alike.execute("SELECT likeness, count(*), min(line) FROM alike GROUP BY likeness"):
            if any(line_of(row_id) is None for row_id in self._reader.ids_alike(campaign, alike)):
                total += rows
                first = min(first or line, line)
        if total:
            self._repeats[campaign.number] = (total, first)


async def allow_repeats(ledger: Ledger, campaigns: Sequence[int], at: float) -> None:
    """Remember that the ledger's campaign may repeat others, so that it resumes in silence.

    Args:
        ledger: The open ledger of the campaign.
        campaigns: The ledger's numbers of those that it may repeat.
        at: Seconds since the epoch.
    """
    if campaigns:
        await ledger.transact(partial(_allow, ledger.number, campaigns, at))


def _allow(campaign: int, others: Sequence[int], at: float, database: sqlite3.Connection) -> None:
    for other in others:
        name = database.execute("SELECT name FROM campaigns WHERE number = ?", (other,)).fetchone()[0]
        database.execute("INSERT OR IGNORE INTO repeats VALUES (?, ?, ?)", (campaign, other, at))
        record(database, kind="repeats", at=at, campaign=campaign, note=f"rows of campaign {name} may be paid again")
