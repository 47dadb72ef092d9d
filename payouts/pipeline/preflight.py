"""The comparison of a file with the ledger before anything is sent: rows that are known, changed, or repeat paid rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Self

from attrs import Factory, define, frozen

from payouts import money
from payouts.details import changed_details
from payouts.keys import derive_key
from payouts.ledger.decisions import record
from payouts.ledger.fingerprints import fingerprint
from payouts.rows import InvalidRow, Row
from payouts.source.checks import MAX_ITEMS
from payouts.spelling import told_apart
from payouts.states import SETTLED, Entry, State, same_amount
from payouts.vendors import FIELDS
from rewards_core.sqlite.connection import temporary

if TYPE_CHECKING:
    from decimal import Decimal
    from types import TracebackType

    from payouts.ledger.base import Database
    from payouts.ledger.campaign import CampaignLedger
    from payouts.ledger.reader import Campaign, LedgerReader

_MAY_BE_SENT = frozenset({State.PLANNED, State.SENT, State.UNKNOWN})


@frozen(kw_only=True)
class Repeat:
    """Rows of a file that repeat recipient, reward and amount of rows of one campaign.

    Attributes:
        campaign: The campaign, which paid or may have paid them.
        rows: How many rows of the file repeat its rows.
        line: The line of the first of them.
        itself: Whether it is the campaign of this run.
        lost: Whether the ledger was restored from a copy without the campaign's rows, so that any row may repeat them.
    """

    campaign: Campaign
    rows: int
    line: int
    itself: bool = False
    lost: bool = False


@frozen(kw_only=True)
class KeysElsewhere:
    """Rows of a file with keys of another campaign; a key pays once, so they cannot be paid.

    Attributes:
        campaign: The name of that campaign.
        rows: How many rows of the file have its keys.
        line: The line of the first of them.
    """

    campaign: str
    rows: int
    line: int


@define
class _Found:
    """What the ledger has of some rows of a file, by their ids, keys or fingerprints; see the methods of `LedgerReader`."""

    known: dict[str, Entry] = Factory(dict)
    first_keys: dict[str, str] = Factory(dict)
    respelled: dict[str, str] = Factory(dict)
    owners: dict[str, tuple[str, str]] = Factory(dict)
    fingerprints: dict[str, str] = Factory(dict)
    alike: dict[str, list[int]] = Factory(dict)


class Preflight:
    """Compare the rows of one file with the ledger; use it inside `with`, for one reading of the file.

    Args:
        reader: The ledger.
        vendor: The vendor's name.
        name: The campaign, which the ledger may not know yet.
        repeats_of: Names or patterns of the campaigns that rows may repeat.

    Attributes:
        identity: The identity that the ledger shares with its copies.
        campaign: The campaign in the ledger, None if it is new.
        allowed: The ledger's numbers of the campaigns that rows may repeat.
        known: How many rows of the file the campaign has.
        settled: How many of those need no further request.
        rows: How many rows of the file were compared.
        new: Number and total of the rows that the campaign does not have, by reward or event, for the first 1,000.
    """

    def __init__(self, reader: LedgerReader, vendor: str, name: str, repeats_of: Sequence[str] = ()) -> None:
        self._reader = reader
        self.identity = reader.identity()
        self._vendor = vendor
        self._name = name
        self._campaigns = {each.number: each for each in reader.campaigns() if each.vendor == vendor}
        self.campaign = next((each for each in self._campaigns.values() if each.name == name), None)
        number = 0 if self.campaign is None else self.campaign.number
        self._number = number
        self.allowed = {
            each.number
            for each in self._campaigns.values()
            if each.name in repeats_of or (each.name != name and any(fnmatchcase(each.name, pattern) for pattern in repeats_of))
        }
        self._keys_elsewhere: dict[str, tuple[int, int]] = {}
        self._repeats: dict[int, tuple[int, int]] = {}
        self._alike = temporary()  # rows that repeat rows of this campaign
        self._alike.execute("CREATE TABLE alike (likeness TEXT, line INTEGER)")
        self.rows = self.known = self.settled = 0
        self.new: dict[str, tuple[int, Decimal]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None) -> None:
        self._alike.close()

    def __call__(self, rows: Sequence[Row]) -> list[InvalidRow | None]:
        """Compare some rows, and return for each why it cannot be paid, or None.

        A row cannot be paid if the ledger has it with other content, or its key belongs to another row of the campaign.
        """
        found = self._look_up(rows)
        problems: list[InvalidRow | None] = []
        for row in rows:
            self.rows += 1
            try:
                self._check(row, found)
            except InvalidRow as problem:
                problems.append(problem)
            else:
                problems.append(None)
        return problems

    def _look_up(self, rows: Sequence[Row]) -> _Found:
        """Return what the ledger has of these rows."""
        reader, campaign, found = self._reader, self.campaign, _Found()
        if campaign is not None:
            found.known = reader.find_each(campaign, [row.id for row in rows])
            found.first_keys = reader.first_keys(found.known.values())
        fresh = [row for row in rows if row.id not in found.known]
        if campaign is not None:
            found.respelled = reader.respelled(campaign, [(row.id, row.recipient) for row in fresh])
        found.owners = reader.owners_of_keys(self._vendor, {key for row in fresh if (key := row.given_key) is not None})
        for row in rows:
            known = found.known.get(row.id)
            if known is None or self._may_repeat(known):
                found.fingerprints[row.id] = fingerprint(row.recipient, row.item, row.amount, row.details)
        found.alike = reader.paid_alike(self._vendor, dict.fromkeys(found.fingerprints.values()))
        return found

    def _may_repeat(self, known: Entry) -> bool:
        """Return whether what a known row pays may have been paid elsewhere since; in a shared ledger it is sent in any case."""
        return known.state in _MAY_BE_SENT and not self._reader.shared

    def _check(self, row: Row, found: _Found) -> None:
        known = found.known.get(row.id)
        if known is not None and self.campaign is not None:
            self._refuse_changed(self.campaign, known, row, found.first_keys[row.id])
            self.known += 1
            self.settled += known.state in SETTLED
            if self._may_repeat(known):
                self._compare(row, found)
                if known.retries and self._reader.paid_after_failure(known):
                    self._count(self._number, row)
            return
        if row.id in found.respelled:
            self._refuse_respelled(row, found.respelled[row.id])
        if not self._key_is_elsewhere(row, found):
            self._compare(row, found)
            if row.item in self.new or len(self.new) < MAX_ITEMS:
                rows, total = self.new.get(row.item, (0, money.ZERO))
                self.new[row.item] = (rows + 1, money.add(total, row.amount or money.ZERO))

    def conclude(self, line_of: Callable[[str], int | None]) -> None:
        """Compare the file as a whole, after its last row: count rows that repeat rows of their own campaign."""
        if self.campaign is None:
            return
        total, first = self._repeats.get(self.campaign.number, (0, 0))
        for alike, rows, line in self._alike.execute("SELECT likeness, count(*), min(line) FROM alike GROUP BY likeness"):
            if any(line_of(row_id) is None for row_id in self._reader.ids_alike(self.campaign, alike)):
                total += rows
                first = min(first or line, line)
        if total:
            self._repeats[self.campaign.number] = (total, first)

    def keys_elsewhere(self) -> list[KeysElsewhere]:
        """Return the other campaigns whose keys the file has."""
        return [KeysElsewhere(campaign=name, rows=rows, line=line) for name, (rows, line) in self._keys_elsewhere.items()]

    def repeats(self) -> list[Repeat]:
        """Return the repeats that are not allowed yet, the campaign with the most first."""
        found = [
            Repeat(campaign=self._campaigns[number], rows=rows, line=line, itself=number == self._number)
            for number, (rows, line) in self._repeats.items()
            if number not in self.allowed
        ]
        if self.campaign is None:
            lost = [each for each in self._reader.lost_campaigns(self._vendor) if each.number not in self.allowed]
            found += [Repeat(campaign=each, rows=self.rows, line=0, lost=True) for each in lost]
        return sorted(found, key=lambda repeat: (-repeat.rows, repeat.campaign.number))

    def repeated(self) -> list[int]:
        """Return the ledger's numbers of the campaigns that the file repeats with permission."""
        return sorted(self.allowed & self._repeats.keys())

    def _refuse_changed(self, campaign: Campaign, known: Entry, row: Row, first_key: str) -> None:
        key = row.given_key or derive_key(campaign.vendor, campaign.name, row.id)
        given = (row.recipient, row.item, row.amount, known.key if key == first_key else key)
        held = (known.recipient, known.item, known.amount, known.key)
        other = [
            (name, str(before), str(now))
            for name, now, before in zip(FIELDS[campaign.vendor], given, held, strict=True)
            if now != before and not (name == "amount" and same_amount(now, before))
        ]
        other += changed_details(known.details, row.details)
        if other:
            pairs = [told_apart(before, now) for _, before, now in other]
            had, has = (" and ".join(words) for words in zip(*pairs, strict=True))
            told = (
                f"row {row.id} is in the ledger as {known.state} with {had}; the file now has {has}. A row cannot change: "
                "undo the change, or give the new grant a new id"
            )
            raise InvalidRow(told, name=other[0][0], kind="changed")

    def _refuse_respelled(self, row: Row, known_id: str) -> None:
        one, other = told_apart(row.id, known_id)
        told = (
            f"row id {one} is another spelling of row {other} of this campaign, to the same recipient. If they are one "
            "grant, give the row its old id; if not, give it a new one"
        )
        raise InvalidRow(told, name="id", kind="respelled")

    def _key_is_elsewhere(self, row: Row, found: _Found) -> bool:
        """Return whether a row has the key of a row of another campaign, and count it."""
        owner = None if row.given_key is None else found.owners.get(row.given_key)
        if owner is None:
            return False
        row_id, campaign = owner
        if campaign == self._name:
            told = f"this key belongs to row {row_id} of this campaign. If it is the same grant, give the row its old id"
            raise InvalidRow(told, name=FIELDS[self._vendor][3], kind="key_of_another_row")
        rows, line = self._keys_elsewhere.get(campaign, (0, row.line))
        self._keys_elsewhere[campaign] = (rows + 1, line)
        return True

    def _compare(self, row: Row, found: _Found) -> None:
        """Count a row if it repeats paid rows."""
        alike = found.fingerprints[row.id]
        for number in found.alike.get(alike, ()):
            if number == self._number:
                self._alike.execute("INSERT INTO alike VALUES (?, ?)", (alike, row.line))
            else:
                self._count(number, row)

    def _count(self, campaign: int, row: Row) -> None:
        rows, line = self._repeats.get(campaign, (0, row.line))
        self._repeats[campaign] = (rows + 1, line)


async def record_repeats(ledger: CampaignLedger, campaigns: Sequence[int], at: float) -> None:
    """Record the decisions that the ledger's campaign may pay rows of other campaigns again."""
    if campaigns:
        await ledger.transact(partial(_record, ledger.number, campaigns, at))


def _record(campaign: int, others: Sequence[int], at: float, database: Database) -> None:
    for other in others:
        name = database.execute("SELECT name FROM campaigns WHERE number = ?", (other,)).get
        record(database, kind="repeats", at=at, campaign=campaign, note=f"rows of campaign {name} may be paid again")
