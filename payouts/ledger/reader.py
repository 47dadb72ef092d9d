"""Read-only access to a ledger, also during a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Self, TypeVar

from attrs import AttrsInstance, fields

from payouts import money
from payouts.ledger.entries import COLUMNS, entry_of, marks
from payouts.ledger.fingerprints import folded
from payouts.ledger.readings import Audit, Campaign, Difference, Fleet, RetiredKey, Sum, WorkerSeen
from payouts.ledger.schema import connect_to_read
from payouts.ledger.stretches import counts_of, cut, last_number, stretches_of, whole_ledger
from payouts.states import CampaignUnclear, Entry, State
from rewards_core.secrets import shielded
from rewards_core.sqlite.connection import temporary
from rewards_core.validation import check_instance, check_path, check_whole

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from payouts.ledger.base import Database

__all__ = ["Audit", "Campaign", "Difference", "Fleet", "LedgerReader", "RetiredKey", "Sum", "WorkerSeen"]

T = TypeVar("T", bound=AttrsInstance)
R = TypeVar("R")

PAGE = 4_000
"""Rows that one statement returns."""

_URLS = ("postgresql://", "postgres://")
_PAID = "('sent', 'accepted', 'done', 'mismatch', 'unknown')"
"""The states of rows that were or may have been paid."""


class LedgerReader:
    """Read a ledger; use it inside `with`, or call `close()`; from one thread at a time.

    With PostgreSQL, no event loop may run in that thread: call it by `asyncio.to_thread(...)` in a coroutine.

    Args:
        path: The file, or the URL of a PostgreSQL database such as `"postgresql://user@host/database"`.
        schema: The name of the schema in that database, if it is not the usual one; without effect on a file.

    Raises:
        ImportError: the URL needs the extra `postgres`, which is not installed.
        LedgerError: it does not exist, is not a ledger, or is newer than this program.
        TypeError: `path` is not a path.
        ValueError: `path` cannot be used.
        RuntimeError: it is a database, and an event loop runs in this thread.

    Attributes:
        shared: Whether several processes may pay from the ledger at a time, as they may in a database. They send planned rows
            without a further check, so such a row counts as one that may be paid.
    """

    @shielded
    def __init__(self, path: str | Path, *, schema: str | None = None) -> None:
        self._database: Any
        if is_database(path):
            from payouts.ledger.postgres import connect_to_database  # noqa: PLC0415 - it needs packages that files do not

            self._database = connect_to_database(str(path), schema)
            self.shared = True
        else:
            self._database = connect_to_read(check_path(path, "path"))
            self._database.create_aggregate_function("exact_sum", money.ExactSum, 1)
            self.shared = False
        self._sum = "sum(CAST(amount AS numeric))" if self.shared else "exact_sum(amount)"
        self._paid = _PAID.replace("(", "('planned', ") if self.shared else _PAID

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the ledger; a second call does nothing."""
        self._database.close()

    def ask(self, work: Callable[[Database], R]) -> R:
        """Return the result of work that only reads."""
        return work(self._database)

    def campaigns(self) -> list[Campaign]:
        """Return the campaigns, oldest first."""
        found = self._database.execute("SELECT number, vendor, name, target, opened_at FROM campaigns ORDER BY number")
        return [_read(Campaign, row) for row in found]

    def lost_campaigns(self, vendor: str) -> list[Campaign]:
        """Return the campaigns that were paid from a newer copy of this ledger and have no row in this one."""
        wanted = "SELECT number FROM campaigns WHERE vendor = ? AND restored_at IS NOT NULL"
        restored = {number for (number,) in self._database.execute(wanted, (vendor,))}
        return [each for each in self.campaigns() if each.number in restored and not any(self._stretches(each))]

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
        return counts_of(self._database, _number(campaign), shared=self.shared)

    def fleet(self, campaign: Campaign) -> Fleet | None:
        """Return the workers of a campaign, None if the ledger is a file."""
        if not self.shared:
            return None
        found = self._database.execute(
            "SELECT host, process, rate, began_at, lease_until - now_s() FROM workers WHERE campaign = ? AND alive "
            "ORDER BY number",
            (_number(campaign),),
        )
        workers = [_read(WorkerSeen, row) for row in found]
        now = self._database.execute("SELECT now_s(), condition, generation FROM campaigns WHERE number = ?", (campaign.number,))
        at, condition, claimed = now.get
        return Fleet(at=at, condition=condition, claimed=claimed, workers=workers)

    def sums(self, campaign: Campaign) -> Iterator[Sum]:
        """Yield the number of rows and the exact sum of each item and state, in the order in which the items were planned.

        An item and state may come several times, each time for other rows: they add up.
        """
        for begin, end in self._stretches(campaign):
            found = self._database.execute(
                f"SELECT min(number), max(number), item, state, count(*), {self._sum} FROM rows "
                "WHERE number > ? AND number <= ? AND +campaign = ? GROUP BY item, state ORDER BY min(number)",
                (begin, end, campaign.number),
            )
            for row in found.fetchall():
                yield _read(Sum, row)

    def entries(
        self, campaign: Campaign, states: Collection[State] = tuple(State), *, after: int = 0, until: int | None = None
    ) -> Iterator[Entry]:
        """Yield a campaign's rows in those states, in the order they were planned.

        Args:
            campaign: The campaign.
            states: The states.
            after: Leave out the rows up to this number.
            until: Leave out the rows after this number.
        """
        wanted = f"SELECT {COLUMNS} FROM rows WHERE number > ? AND number <= ? AND +campaign = ? AND state IN ({marks(states)})"
        for begin, end in self._stretches(campaign, after, until):
            for row in self._pages(wanted, "number", begin, end, (campaign.number, *states)):
                yield entry_of(row)

    def find(self, campaign: Campaign, row_id: str) -> Entry | None:
        """Return a row, None if the campaign has none with that id."""
        found = self._database.execute(
            f"SELECT {COLUMNS} FROM rows WHERE campaign = ? AND id = ?",
            (_number(campaign), row_id),
        ).get
        return None if found is None else entry_of(found)

    def identity(self) -> str:
        """Return the identity that all copies of this ledger share."""
        return str(self._database.execute("SELECT identity FROM ledger").get)

    def generation(self) -> tuple[str, int, str | None]:
        """Return the identity, the generation and the branch of a ledger in a file."""
        identity, generation, branch = self._database.execute("SELECT identity, generation, branch FROM ledger").get
        return str(identity), int(generation), branch

    def recipients(self, campaigns: Collection[Campaign]) -> Iterator[str]:
        """Yield every recipient of some campaigns, each once."""
        with closing(temporary()) as met:
            met.execute("PRAGMA journal_mode=OFF; BEGIN; CREATE TABLE met (recipient TEXT PRIMARY KEY) WITHOUT ROWID").fetchall()
            for campaign in campaigns:
                for begin, end in self._stretches(campaign):
                    found = self._database.execute(
                        "SELECT DISTINCT recipient FROM rows WHERE number > ? AND number <= ? AND +campaign = ?",
                        (begin, end, campaign.number),
                    )
                    for (recipient,) in found.fetchall():
                        met.execute("INSERT OR IGNORE INTO met VALUES (?)", (recipient,))
                        if met.changes():
                            yield recipient

    def last_audit(self, campaign: Campaign) -> Audit | None:
        """Return the last complete audit of a campaign, None if there is none."""
        found = self._database.execute(
            "SELECT number FROM audits WHERE vendor = ? AND (campaign = ? OR (campaign IS NULL AND target = ?)) "
            "AND ended_at IS NOT NULL ORDER BY ended_at DESC LIMIT 1",
            (check_instance(campaign, "campaign", Campaign).vendor, campaign.number, campaign.target),
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
            "SELECT coalesce(sum(CASE kind WHEN 'unknown_allowed' THEN CAST(vendor AS bigint) END), 0), count(DISTINCT row) "
            "FROM differences WHERE audit = ?",
            (number,),
        ).get
        if any(kind.startswith("balance") for kind in counts):  # those concern all rows of a recipient
            apart += sum(
                database.execute(
                    "SELECT count(*) FROM rows WHERE number > ?5 AND number <= ?6 AND coalesce(?3, campaign) = campaign AND "
                    "(SELECT 1 FROM campaigns WHERE number = campaign AND vendor = ?1 AND target IN ('', ?2)) = 1 AND "
                    "recipient IN (SELECT recipient FROM differences WHERE audit = ?4 AND kind LIKE 'balance%')",
                    (vendor, target, only, number, begin, end),
                ).get
                for begin, end in whole_ledger(database)
            )
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
            applied={kind: int(applied) for kind, _, applied in kinds if applied},
        )

    def differences(self, audit: Audit | int, kinds: Collection[str] | None = None) -> Iterator[Difference]:
        """Yield the differences that an audit found, in the order it found them.

        Args:
            audit: The audit, or its number.
            kinds: Words of `Difference.kind`; None for all of them, also those of what is no difference.
        """
        number = audit.number if isinstance(audit, Audit) else check_whole(audit, "audit", at_least=1)
        of_kinds = "" if kinds is None else f" AND kind IN ({marks(kinds)})"
        last = self._database.execute("SELECT max(number) FROM differences WHERE audit = ?", (number,)).get
        wanted = (  # a plan for a join may read all rows
            "SELECT number, kind, (SELECT name FROM campaigns WHERE number = "
            "(SELECT campaign FROM rows WHERE number = differences.row)), (SELECT id FROM rows WHERE number = differences.row), "
            "recipient, (SELECT key FROM rows WHERE number = differences.row), uid, ledger, vendor, applied "
            f"FROM differences WHERE number > ? AND number <= ? AND audit = ?{of_kinds}"
        )
        for begin, end in cut(0, last or 0):
            for row in self._pages(wanted, "number", begin, end, (number, *(kinds or ()))):
                yield _read(Difference, row[1:])

    def retired_keys(self, campaign: Campaign) -> Iterator[RetiredKey]:
        """Yield the keys that retries replaced, row by row, oldest first."""
        number = _number(campaign)
        first, last = self._database.execute(
            "SELECT (SELECT min(row) FROM retired_keys), (SELECT max(row) FROM retired_keys)"
        ).get
        for begin, end in cut((first or 1) - 1, last or 0, PAGE):
            found = self._database.execute(
                "SELECT (SELECT id FROM rows WHERE number = retired_keys.row), retry, key, replaced_by, state, uid, problem, "
                "note, retired_at FROM retired_keys WHERE retired_keys.row > ? AND retired_keys.row <= ? "
                "AND (SELECT campaign FROM rows WHERE number = retired_keys.row) = ? ORDER BY retired_keys.row, retry",
                (begin, end, number),
            )
            for row in found.fetchall():
                yield _read(RetiredKey, row)

    def find_each(self, campaign: Campaign, row_ids: Iterable[str]) -> dict[str, Entry]:
        """Return those rows of a campaign that it has, by their ids."""
        found = self._each(row_ids, f"SELECT {COLUMNS} FROM rows WHERE campaign = ?2 AND id = ?1", campaign.number)
        return {row_id: entry_of(row) for row_id, *row in found}

    def first_keys(self, entries: Iterable[Entry]) -> dict[str, str]:
        """Return the keys of rows before any retry, by the ids of the rows."""
        entries = list(entries)
        retried = (str(entry.number) for entry in entries if entry.retries)
        found = self._each(retried, "SELECT key FROM retired_keys WHERE row = CAST(?1 AS bigint) AND retry = 0")
        retired = {int(number): str(key) for number, key in found}
        return {entry.id: retired.get(entry.number, entry.key) for entry in entries}

    def owners_of_keys(self, vendor: str, keys: Iterable[str]) -> dict[str, tuple[str, str]]:
        """Return row id and campaign of the rows that have these keys or had them before a retry, by key."""
        found = self._each(
            keys,
            "SELECT id, name FROM rows JOIN campaigns ON campaigns.number = campaign WHERE rows.vendor = ?2 AND key = ?1 "
            "UNION ALL SELECT id, name FROM retired_keys JOIN rows ON rows.number = row "
            "JOIN campaigns ON campaigns.number = campaign WHERE retired_keys.vendor = ?2 AND retired_keys.key = ?1 LIMIT 1",
            vendor,
        )
        return {key: (str(row_id), str(campaign)) for key, row_id, campaign in found}

    def paid_alike(self, vendor: str, fingerprints: Iterable[str]) -> dict[str, list[int]]:
        """Return the numbers of the campaigns that paid, or may have paid, rows with these fingerprints, by fingerprint."""
        alike: dict[str, list[int]] = {}
        wanted = f"SELECT DISTINCT campaign FROM rows WHERE vendor = ?2 AND likeness = ?1 AND state IN {self._paid}"
        for fingerprint, campaign in self._each(fingerprints, wanted, vendor):
            alike.setdefault(fingerprint, []).append(int(campaign))
        return alike

    def paid_after_failure(self, entry: Entry) -> bool:
        """Return whether its campaign planned a row with the same fingerprint after it failed, and paid or may have paid it."""
        found = self._database.execute(
            "SELECT 1 FROM rows AS other JOIN rows AS own ON own.number = ?1 "
            "WHERE other.vendor = own.vendor "
            "AND other.campaign = own.campaign AND other.likeness = own.likeness AND other.number != own.number "
            f"AND other.state IN {self._paid} "
            "AND other.planned_at > (SELECT min(settled_at) FROM retired_keys WHERE row = ?1) LIMIT 1",
            (entry.number,),
        )
        return found.get is not None

    def ids_alike(self, campaign: Campaign, fingerprint: str) -> Iterator[str]:
        """Yield the ids of a campaign's rows with that fingerprint that were or may have been paid."""
        wanted = (
            "SELECT number, id FROM rows WHERE +number > ? AND +number <= ? AND vendor = ? AND likeness = ? AND +campaign = ? "
            f"AND state IN {self._paid}"
        )
        last = last_number(self._database)
        for _, row_id in self._pages(wanted, "+number", 0, last, (campaign.vendor, fingerprint, campaign.number)):
            yield row_id

    def respelled(self, campaign: Campaign, grants: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Return, for those ids and recipients that are another spelling of a row of the campaign, the id of that row by id."""
        spellings = {row_id: (folded(row_id), folded(recipient)) for row_id, recipient in grants}
        known: dict[str, list[tuple[str, str]]] = {}
        found = self._each(
            {spelling for spelling, _ in spellings.values()},
            "SELECT id, recipient FROM rows WHERE campaign = ?2 AND folded_id = ?1 "
            "UNION ALL SELECT id, recipient FROM rows WHERE campaign = ?2 AND id = ?1",
            campaign.number,
        )
        for spelling, other, paid in found:
            known.setdefault(spelling, []).append((str(other), folded(paid)))
        others: dict[str, str] = {}
        for row_id, (spelling, payee) in spellings.items():
            other = next((other for other, paid in known.get(spelling, ()) if other != row_id and paid == payee), None)
            if other is not None:
                others[row_id] = other
        return others

    def _stretches(self, campaign: Campaign, after: int = 0, until: int | None = None) -> Iterator[tuple[int, int]]:
        """Yield the number before each stretch of the campaign's rows, and its last."""
        return stretches_of(self._database, _number(campaign), shared=self.shared, after=after, until=until)

    def _pages(self, wanted: str, key: str, after: int, until: int, values: Sequence[Any]) -> Iterator[Any]:
        """Yield what a query finds between two numbers, by its first column, a page at a time."""
        while True:
            found = self._database.execute(f"{wanted} ORDER BY {key} LIMIT ?", (after, until, *values, PAGE)).fetchall()
            yield from found
            if len(found) < PAGE:
                return
            after = found[-1][0]

    def _each(self, texts: Iterable[str], query: str, *values: Any) -> Iterator[Any]:
        """Yield each text, which is `?1` of the query, with each row that is found for it."""
        if not self.shared:
            for text in texts:
                for row in self._database.execute(query, (text, *values)).fetchall():
                    yield (text, *row)
        elif given := list(texts):  # one by one in an index: the plan for a join may read all rows
            query = query.replace("?1", "given")
            yield from self._database.execute(
                f"SELECT given, found.* FROM unnest(?1::text[]) AS given CROSS JOIN LATERAL ({query} OFFSET 0) AS found",
                (given, *values),
            )


def is_database(ledger: object) -> bool:
    """Return whether a ledger is named by the URL of a PostgreSQL database, not by its file."""
    return isinstance(ledger, str) and ledger.startswith(_URLS)


def _number(campaign: Campaign) -> int:
    return check_instance(campaign, "campaign", Campaign).number


def _read(record: type[T], row: Sequence[Any]) -> T:
    """Return a record of a row whose columns are selected in the order of its attributes."""
    return record(**dict(zip((each.name for each in fields(record)), row, strict=True)))
