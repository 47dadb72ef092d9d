"""A look into a ledger without any right to change it, also while a run works with it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Self

from attrs import frozen

from payouts.ledger_schema import COLUMNS, connect_to_read, entry_of
from payouts.rows import InvalidRow, Row, derive_key
from payouts.states import Entry, LedgerError, State, same_amount

if TYPE_CHECKING:
    from types import TracebackType

FIELDS = {"original": ("to_user_uid", "reward_uid", "amount", "nonce"), "enkash": ("user_id", "event", "amount", "request_id")}
"""What each vendor's files call recipient, item, amount and key."""


@frozen(kw_only=True)
class Campaign:
    """One campaign of a ledger.

    Attributes:
        number: The ledger's own number of it.
        vendor: `"original"` or `"enkash"`.
        name: Its name.
        target: Where the money goes out.
        opened_at: When it was begun, in seconds since the epoch.
    """

    number: int
    vendor: str
    name: str
    target: str
    opened_at: float


@frozen(kw_only=True)
class RetiredKey:
    """A key that was replaced, and how the row stood under it.

    Attributes:
        row_id: The row.
        retry: 0 for the row's first key, 1 for its second.
        key: The key.
        replaced_by: The key that came after it.
        state: How the row ended under it.
        uid: The vendor's name of the operation.
        problem: The error it ended with.
        note: What somebody noted who had settled it by hand.
        retired_at: When it was replaced, in seconds since the epoch.
    """

    row_id: str
    retry: int
    key: str
    replaced_by: str
    state: State
    uid: str | None
    problem: str | None
    note: str | None
    retired_at: float


class LedgerReader:
    """Read a ledger; use it inside `with`, from one thread at a time.

    Args:
        path: The file.

    Raises:
        LedgerError: it is not there, is no ledger, or has another layout than this program knows.
    """

    def __init__(self, path: str | Path) -> None:
        self._database = connect_to_read(Path(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None) -> None:
        self._database.close()

    def campaigns(self) -> list[Campaign]:
        """Return the campaigns in the order in which they were begun."""
        found = self._database.execute("SELECT number, vendor, name, target, opened_at FROM campaigns ORDER BY number")
        return [Campaign(number=row[0], vendor=row[1], name=row[2], target=row[3], opened_at=row[4]) for row in found]

    def campaign(self, name: str | None = None, vendor: str | None = None) -> Campaign:
        """Return the one campaign that is meant.

        Raises:
            LedgerError: there is none of that name, or several and none was named.
        """
        known = self.campaigns()
        meant = [each for each in known if name in {None, each.name} and vendor in {None, each.vendor}]
        if len(meant) == 1:
            return meant[0]
        names = ", ".join(f"{each.name} ({each.vendor})" for each in known) or "none"
        asked = "one campaign" if name is None else f"the campaign {name}"
        raise LedgerError(
            f"expected {asked}, the ledger has {names}; name it with --campaign, and --vendor where two share a name"
        )

    def entries(self, campaign: Campaign, states: Collection[State] = tuple(State)) -> Iterator[Entry]:
        """Yield a campaign's rows in those states, in the order in which they were planned."""
        marks = ", ".join("?" * len(states))
        for row in self._database.execute(
            f"SELECT {COLUMNS} FROM rows WHERE campaign = ? AND state IN ({marks}) ORDER BY number",  # noqa: S608 - constants
            (campaign.number, *states),
        ):
            yield entry_of(row)

    def find(self, campaign: Campaign, row_id: str) -> Entry | None:
        """Return how a row stands, None if the campaign has none of that id."""
        found = self._database.execute(
            f"SELECT {COLUMNS} FROM rows WHERE campaign = ? AND id = ?",  # noqa: S608 - a constant
            (campaign.number, row_id),
        ).fetchone()
        return None if found is None else entry_of(found)

    def judge(self, campaign: Campaign, row: Row) -> None:
        """Refuse a row that is known with other content, or that brings the key of another row.

        Raises:
            InvalidRow: it is; the text shows both versions.
        """
        key = row.given_key or derive_key(campaign.vendor, campaign.name, row.id)
        known = self.find(campaign, row.id)
        if known is not None:
            given = (row.recipient, row.item, row.amount, key)
            held = (known.recipient, known.item, known.amount, self._first_key(known))
            other = [
                (name, str(before), str(now))
                for name, now, before in zip(FIELDS[campaign.vendor], given, held, strict=True)
                if now != before and not (name == "amount" and same_amount(now, before))
            ]
            if other:
                had, has = " and ".join(before for _, before, _ in other), " and ".join(now for _, _, now in other)
                raise InvalidRow(
                    f"row {row.id} is in the ledger as {known.state} with {had}, the file now has {has}; "
                    "a row never changes: take the change back, or give the new grant an id of its own",
                    name=other[0][0],
                )
        elif row.given_key is not None and (owner := self._owner(campaign, key)) is not None:
            told = f"expected a key of its own, got {key}, which belongs to row {owner}; give it another key"
            raise InvalidRow(told, name=FIELDS[campaign.vendor][3])

    def _first_key(self, entry: Entry) -> str:
        found = self._database.execute("SELECT key FROM retired_keys WHERE row = ? AND retry = 0", (entry.number,)).fetchone()
        return entry.key if found is None else str(found[0])

    def _owner(self, campaign: Campaign, key: str) -> str | None:
        found = self._database.execute(
            "SELECT id FROM rows WHERE vendor = ? AND key = ? "
            "UNION ALL SELECT rows.id FROM retired_keys JOIN rows ON rows.number = row "
            "WHERE retired_keys.vendor = ? AND retired_keys.key = ?",
            (campaign.vendor, key) * 2,
        ).fetchone()
        return None if found is None else str(found[0])

    def retired_keys(self, campaign: Campaign) -> Iterator[RetiredKey]:
        """Yield the keys that were replaced, row by row, the oldest first."""
        for row in self._database.execute(
            "SELECT rows.id, retry, retired_keys.key, replaced_by, retired_keys.state, retired_keys.uid, retired_keys.problem, "
            "retired_keys.note, retired_at FROM retired_keys JOIN rows ON rows.number = retired_keys.row WHERE campaign = ? "
            "ORDER BY row, retry",
            (campaign.number,),
        ):
            row_id, retry, key, replaced_by, state, uid, problem, note, retired_at = row
            yield RetiredKey(
                row_id=row_id,
                retry=retry,
                key=key,
                replaced_by=replaced_by,
                state=State(state),
                uid=uid,
                problem=problem,
                note=note,
                retired_at=retired_at,
            )
