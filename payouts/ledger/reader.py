"""Read-only access to a ledger, also during a run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import AttrsInstance, field, fields, frozen

from payouts.ledger.fingerprints import folded
from payouts.ledger.schema import COLUMNS, connect_to_read, entry_of
from payouts.states import CampaignUnclear, Entry, State
from rewards_core.validation import check_path

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

T = TypeVar("T", bound=AttrsInstance)

_PAID = "('sent', 'accepted', 'done', 'mismatch', 'unknown')"
"""The states of rows that were or may have been paid."""


@frozen(kw_only=True)
class Campaign:
    """One campaign of a ledger.

    Attributes:
        number: The ledger's number of it.
        vendor: The vendor's name.
        name: Its name.
        target: The vendor's base URL.
        opened_at: When it began, in seconds since the epoch.
    """

    number: int
    vendor: str
    name: str
    target: str
    opened_at: float


@frozen(kw_only=True)
class RetiredKey:
    """A key that a retry replaced, and the row's result under it.

    Attributes:
        row_id: The row.
        retry: 0 for the row's first key, 1 for its second.
        key: The key.
        replaced_by: The next key.
        state: The row's state under that key.
        uid: The vendor's uid of the operation.
        problem: The error.
        note: The note of a settlement by hand.
        retired_at: When it was replaced, in seconds since the epoch.
    """

    row_id: str
    retry: int
    key: str
    replaced_by: str
    state: State = field(converter=State)
    uid: str | None
    problem: str | None
    note: str | None
    retired_at: float


@frozen(kw_only=True)
class Audit:
    """The result of an audit, all its runs together.

    Attributes:
        number: The ledger's number of it.
        begun_at: When it began, in seconds since the epoch.
        ended_at: When it was complete; None if it is not.
        rows: How many rows were compared with the vendor's books.
        requests: How many requests were made.
        unchecked: How many rows could not be checked.
        agree: How many rows agree with the vendor.
        counts: Kind to the number of findings, including kinds that are not differences.
        unknown_allowed: How many payments the ledger does not know, where that was allowed.
        applied: Kind to the number of rows changed to the state that the vendor proves.
    """

    number: int
    begun_at: float
    ended_at: float | None
    rows: int
    requests: int
    unchecked: int
    agree: int
    counts: Mapping[str, int]
    unknown_allowed: int
    applied: Mapping[str, int]


@frozen(kw_only=True)
class Difference:
    """A difference between the ledger and the vendor's books.

    Attributes:
        kind: A word for programs, such as `"held"`.
        campaign: The row's campaign; None if no row is concerned.
        row_id: The row's id; None if no row is concerned.
        recipient: The recipient of the row or payment.
        key: The row's key.
        uid: The vendor's uid of the operation.
        ledger: What the ledger said.
        vendor: What the vendor said.
        applied: Whether the row was changed to the state that the vendor proves.
    """

    kind: str
    campaign: str | None
    row_id: str | None
    recipient: str
    key: str | None
    uid: str | None
    ledger: str
    vendor: str
    applied: bool = field(converter=bool)


class LedgerReader:
    """Read a ledger; use it inside `with`, from one thread at a time.

    Args:
        path: The file.

    Raises:
        LedgerError: it does not exist, is not a ledger, or is newer than this program.
        TypeError: `path` is not a path.
        ValueError: `path` cannot be used.
    """

    def __init__(self, path: str | Path) -> None:
        self._database = connect_to_read(check_path(path, "path"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None) -> None:
        self._database.close()

    def campaigns(self) -> list[Campaign]:
        """Return the campaigns, oldest first."""
        found = self._database.execute("SELECT number, vendor, name, target, opened_at FROM campaigns ORDER BY number")
        return [_read(Campaign, row) for row in found]

    def lost_campaigns(self, vendor: str) -> list[Campaign]:
        """Return the campaigns that were paid from a newer copy of this ledger and have no row in this one."""
        found = self._database.execute(
            "SELECT number FROM campaigns WHERE vendor = ? AND restored_at IS NOT NULL "
            "AND NOT EXISTS (SELECT 1 FROM rows WHERE campaign = campaigns.number)",
            (vendor,),
        )
        lost = {number for (number,) in found}
        return [each for each in self.campaigns() if each.number in lost]

    def campaign(self, name: str | None = None, vendor: str | None = None) -> Campaign:
        """Return the only campaign that matches.

        Raises:
            CampaignUnclear: none matches, or several do.
        """
        known = self.campaigns()
        meant = [each for each in known if name in {None, each.name} and vendor in {None, each.vendor}]
        if len(meant) == 1:
            return meant[0]
        names = ", ".join(f"{each.name} ({each.vendor})" for each in known)
        if not known:
            told = "This ledger has no campaign yet."
        elif meant:
            told = f"This ledger has several campaigns: {names}. Name one with --campaign, and --vendor if two share a name."
        else:
            told = f"This ledger has no campaign {name or f'of {vendor}'}. It has {names}."
        raise CampaignUnclear(told, known=len(known), meant=len(meant))

    def counts(self, campaign: Campaign) -> dict[State, int]:
        """Return the number of rows in each state that has any."""
        found = self._database.execute("SELECT state, count(*) FROM rows WHERE campaign = ? GROUP BY state", (campaign.number,))
        return {State(state): int(count) for state, count in found}

    def entries(self, campaign: Campaign, states: Collection[State] = tuple(State)) -> Iterator[Entry]:
        """Yield a campaign's rows in those states, in the order they were planned."""
        marks = ", ".join("?" * len(states))
        for row in self._database.execute(
            f"SELECT {COLUMNS} FROM rows WHERE campaign = ? AND state IN ({marks}) ORDER BY number",  # noqa: S608 - constants
            (campaign.number, *states),
        ):
            yield entry_of(row)

    def find(self, campaign: Campaign, row_id: str) -> Entry | None:
        """Return a row, None if the campaign has none with that id."""
        found = self._database.execute(
            f"SELECT {COLUMNS} FROM rows WHERE campaign = ? AND id = ?",  # noqa: S608 - a constant
            (campaign.number, row_id),
        ).get
        return None if found is None else entry_of(found)

    def generation(self) -> tuple[str, int, str | None]:
        """Return the identity that all copies of this ledger share, its generation and its branch."""
        identity, generation, branch = self._database.execute("SELECT identity, generation, branch FROM ledger").get
        return str(identity), int(generation), branch

    def recipients(self, campaigns: Collection[Campaign]) -> Iterator[str]:
        """Yield every recipient of some campaigns, each once."""
        marks = ", ".join("?" * len(campaigns))
        for (recipient,) in self._database.execute(
            f"SELECT DISTINCT recipient FROM rows WHERE campaign IN ({marks})",  # noqa: S608 - question marks
            [campaign.number for campaign in campaigns],
        ):
            yield recipient

    def last_audit(self, campaign: Campaign) -> Audit | None:
        """Return the last complete audit of a campaign, None if there is none."""
        found = self._database.execute(
            "SELECT number FROM audits WHERE vendor = ? AND (campaign = ? OR (campaign IS NULL AND target = ?)) "
            "AND ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT 1",
            (campaign.vendor, campaign.number, campaign.target),
        ).get
        return None if found is None else self.audit(found)

    def audit(self, number: int) -> Audit:
        """Return the result of an audit so far."""
        database = self._database
        vendor, target, only, begun_at, ended_at, rows, requests, unchecked = database.execute(
            "SELECT vendor, target, campaign, begun_at, ended_at, rows, requests, unchecked FROM audits WHERE number = ?",
            (number,),
        ).get
        kinds: list[Any] = database.execute(
            "SELECT kind, count(*), sum(applied) FROM differences WHERE audit = ? GROUP BY kind", (number,)
        ).fetchall()
        counts = {kind: count for kind, count, _ in kinds}
        allowed, apart = database.execute(
            "SELECT coalesce(sum(CASE kind WHEN 'unknown_allowed' THEN vendor END), 0), count(DISTINCT row) "
            "FROM differences WHERE audit = ?",
            (number,),
        ).get
        if any(kind.startswith("balance") for kind in counts):  # those concern all rows of a recipient
            apart += database.execute(
                "SELECT count(*) FROM rows JOIN campaigns ON campaigns.number = campaign WHERE rows.vendor = ?1 "
                "AND target IN ('', ?2) AND coalesce(?3, campaign) = campaign AND recipient IN "
                "(SELECT recipient FROM differences WHERE audit = ?4 AND kind LIKE 'balance%')",
                (vendor, target, only, number),
            ).get
        return Audit(
            number=number,
            begun_at=begun_at,
            ended_at=ended_at,
            rows=rows,
            requests=requests,
            unchecked=unchecked,
            agree=rows - unchecked - apart,
            counts=counts,
            unknown_allowed=int(allowed),
            applied={kind: applied for kind, _, applied in kinds if applied},
        )

    def differences(self, audit: int, kinds: Collection[str]) -> Iterator[Difference]:
        """Yield the differences of these kinds that an audit found, in the order it found them."""
        marks = ", ".join("?" * len(kinds))
        for row in self._database.execute(
            "SELECT kind, name, rows.id, differences.recipient, rows.key, differences.uid, ledger, differences.vendor, applied "  # noqa: S608
            "FROM differences LEFT JOIN rows ON rows.number = row LEFT JOIN campaigns ON campaigns.number = rows.campaign "
            f"WHERE audit = ? AND kind IN ({marks}) ORDER BY differences.number",
            (audit, *kinds),
        ):
            yield _read(Difference, row)

    def first_key(self, entry: Entry) -> str:
        """Return a row's key before any retry."""
        found = self._database.execute("SELECT key FROM retired_keys WHERE row = ? AND retry = 0", (entry.number,)).get
        return entry.key if found is None else str(found)

    def owner_of_key(self, vendor: str, key: str) -> tuple[str, str] | None:
        """Return row id and campaign of the row that has a key or had it before a retry, None if there is none."""
        found = self._database.execute(
            "SELECT id, name FROM rows JOIN campaigns ON campaigns.number = campaign WHERE rows.vendor = ? AND key = ? "
            "UNION ALL SELECT id, name FROM retired_keys JOIN rows ON rows.number = row "
            "JOIN campaigns ON campaigns.number = campaign WHERE retired_keys.vendor = ? AND retired_keys.key = ? LIMIT 1",
            (vendor, key) * 2,
        ).get
        return None if found is None else (str(found[0]), str(found[1]))

    def paid_alike(self, vendor: str, fingerprint: str) -> list[int]:
        """Return the numbers of the campaigns that paid or may have paid a row with that fingerprint."""
        found = self._database.execute(
            f"SELECT DISTINCT campaign FROM rows WHERE vendor = ? AND likeness = ? AND state IN {_PAID}",  # noqa: S608 - a constant
            (vendor, fingerprint),
        )
        return [int(number) for (number,) in found]

    def paid_after_failure(self, entry: Entry) -> bool:
        """Return whether its campaign planned a row with the same fingerprint after it failed, and paid or may have paid it."""
        found = self._database.execute(
            "SELECT 1 FROM rows AS other JOIN rows AS own ON own.number = ?1 "  # noqa: S608 - a constant
            "WHERE other.vendor = own.vendor "
            "AND other.campaign = own.campaign AND other.likeness = own.likeness AND other.number != own.number "
            f"AND other.state IN {_PAID} "
            "AND other.planned_at > (SELECT min(settled_at) FROM retired_keys WHERE row = ?1) LIMIT 1",
            (entry.number,),
        )
        return found.get is not None

    def ids_alike(self, campaign: Campaign, fingerprint: str) -> Iterator[str]:
        """Yield the ids of a campaign's rows with that fingerprint that were or may have been paid."""
        for (row_id,) in self._database.execute(
            f"SELECT id FROM rows WHERE vendor = ? AND likeness = ? AND campaign = ? AND state IN {_PAID}",  # noqa: S608 - a constant
            (campaign.vendor, fingerprint, campaign.number),
        ):
            yield row_id

    def respelled(self, campaign: Campaign, row_id: str, recipient: str) -> str | None:
        """Return the id of another row of a campaign that is another spelling of this one, None if there is none."""
        spelling, payee = folded(row_id), folded(recipient)
        found: list[Any] = self._database.execute(
            "SELECT id, recipient FROM rows WHERE campaign = ?1 AND folded_id = ?2 "
            "UNION ALL SELECT id, recipient FROM rows WHERE campaign = ?1 AND id = ?2",
            (campaign.number, spelling),
        ).fetchall()
        for other, paid in found:
            if other != row_id and folded(paid) == payee:
                return str(other)
        return None

    def retired_keys(self, campaign: Campaign) -> Iterator[RetiredKey]:
        """Yield the keys that retries replaced, row by row, oldest first."""
        for row in self._database.execute(
            "SELECT rows.id, retry, retired_keys.key, replaced_by, retired_keys.state, retired_keys.uid, retired_keys.problem, "
            "retired_keys.note, retired_at FROM retired_keys JOIN rows ON rows.number = retired_keys.row WHERE campaign = ? "
            "ORDER BY row, retry",
            (campaign.number,),
        ):
            yield _read(RetiredKey, row)


def _read(record: type[T], row: Sequence[Any]) -> T:
    """Return a record of a row whose columns are selected in the order of its attributes."""
    return record(**dict(zip((each.name for each in fields(record)), row, strict=True)))
