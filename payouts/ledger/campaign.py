"""The rows of one campaign and their states, independent of the database that stores them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Self, TypeVar, Unpack

from payouts.keys import derive_key, later_keys
from payouts.ledger import decisions, steps
from payouts.ledger.entries import COLUMNS, entry_of, marks
from payouts.ledger.planner import Planner
from payouts.ledger.stretches import counts_of
from payouts.states import BY_HAND_ONLY, PROVEN, Entry, InvalidTransition, LedgerError, State, ways_of
from payouts.vendors import ROW_TYPES
from rewards_core.validation import check_callable, check_choice, check_instance, check_name, check_str

if TYPE_CHECKING:
    from types import TracebackType

    from payouts.ledger.base import Database, Facts, Move
    from payouts.rows import Row

T = TypeVar("T")

_LAST = 2**63 - 1
"""No row has a higher number: between two bounds PostgreSQL expects few rows, and looks up their contents one by one."""
_RESTORED = "the ledger was restored from an older copy, from which this row may have been paid since"


class CampaignLedger(ABC):
    """The rows of one campaign and their states, in a ledger that may hold many campaigns.

    Args:
        vendor: The name of the vendor that pays.
        campaign: The campaign's name, a part of every key.
        target: Where payments are sent, such as the vendor's base URL; the target of a campaign cannot change.
        clock: Returns the ledger's time, in seconds since the epoch.

    Raises:
        TypeError: an argument is of another type.
        ValueError: there is no such vendor, or a name cannot be used.
    """

    _planner: Planner
    _planner_type: type[Planner] = Planner
    shared: ClassVar[bool] = False
    """Whether several processes may pay from the ledger at a time."""

    def __init__(self, *, vendor: str, campaign: str, target: str, clock: Callable[[], float]) -> None:
        self.vendor = check_choice(vendor, "vendor", ROW_TYPES)
        self.campaign = check_name(campaign, "campaign")
        self._target = check_str(target, "target")
        self._clock = check_callable(clock, "clock")
        self._row_type = ROW_TYPES[vendor]
        self._ways = ways_of(has_lookup=self._row_type.has_lookup)
        self._number = 0
        self._restored_at: float | None = None

    @property
    def number(self) -> int:
        """The ledger's own number of the campaign."""
        return self._number

    @property
    def restored_at(self) -> float | None:
        """When the ledger was restored from an older copy, so that rows may have been paid that it does not know; else None."""
        return self._restored_at

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    @abstractmethod
    async def _open(self) -> None:
        """Open the ledger and the campaign."""

    @abstractmethod
    async def aclose(self) -> None:
        """Finish the work that waits, and close the ledger; a second call does nothing."""

    @abstractmethod
    async def transact(self, work: Callable[[Database], T]) -> T:
        """Run work in a transaction and return its result once it is durable; a `LedgerError` undoes it."""

    @abstractmethod
    async def _read(self, work: Callable[[Database], T]) -> T:
        """Return the result of work that changes nothing."""

    @abstractmethod
    async def _write(self, pairs: Sequence[steps.Step]) -> list[Entry]:
        """Write steps of rows, each by itself, and return the rows after them once that is durable."""

    @abstractmethod
    def _count_sent(self, at: float, database: Database) -> None:
        """Count a commit that marks rows as sent."""

    def now(self) -> float:
        """Return the ledger's time, in seconds since the epoch."""
        return self._clock()

    async def plan(self, rows: Sequence[Row]) -> list[Entry]:
        """Store the rows that are new, as `planned` and with a key, and return the entry of each row.

        Args:
            rows: In any order; an id that is there twice gives the same entry twice.

        Raises:
            TypeError: an entry is not a row of the ledger's vendor. None of these rows is stored then.
            RowChanged: the ledger holds a row with the same id and other content. None of these rows is stored then.
            KeyTaken: a row has the key of another row. None of these rows is stored then.
            LedgerError: the ledger cannot be written, or was restored and released by an audit since it was opened.
        """
        self._check_rows(rows)
        return await self.transact(partial(self._plan, rows, self.now()))

    async def move(self, entry: Entry, to: State, **facts: Unpack[Facts]) -> Entry:
        """Move a row to its next state, and return its entry once that is durable; see `move_each`.

        Args:
            entry: The row as it was read last.
            to: The next state.
            facts: What is known now; see `Facts`.
        """
        if facts.get("settled_by") == "hand":
            return (await self.move_all([(entry, to, facts)]))[0]
        return (await self.move_each([(entry, to, facts)]))[0]

    async def move_each(self, wanted: Sequence[Move]) -> list[Entry]:
        """Move rows, each by itself, and return their entries once that is durable.

        Moves of about the same time are written together. They are written even if the caller is cancelled.

        Raises:
            InvalidTransition: a row's state does not allow this step, or has changed since it was read. The others have moved.
        """
        return await self._write(self._steps(wanted, self.now()))

    async def move_all(self, wanted: Sequence[Move]) -> list[Entry]:
        """Move several rows or none; a settlement by hand is kept as a decision in the same commit.

        Raises:
            InvalidTransition: as `move`; then none of these rows has moved.
        """
        at = self.now()
        pairs = self._steps(wanted, at)
        by_hand = {entry.number: facts for entry, _, facts in wanted if facts.get("settled_by") == "hand"}
        await self.transact(partial(self._move_together, pairs, by_hand, at))
        return [now for _, now in pairs]

    def _steps(self, wanted: Sequence[Move], at: float) -> list[steps.Step]:
        return [(entry, self._moved(entry, to, facts, at)) for entry, to, facts in wanted]

    def _moved(self, entry: Entry, to: State, facts: Facts, at: float) -> Entry:
        by = facts.get("settled_by")
        ways = PROVEN if by == "audit" else self._ways
        if to not in ways.get(entry.state, ()) or ((entry.state, to) in BY_HAND_ONLY and by not in {"hand", "audit"}):
            raise InvalidTransition(entry.id, entry.state, to)
        problem, note = facts.get("problem"), facts.get("note")
        kind = type(problem).__name__ if isinstance(problem, BaseException) else None
        settled = to is not State.SENT and to is not State.ACCEPTED
        return Entry(  # what attrs.evolve would do, in half the time
            number=entry.number,
            id=entry.id,
            line=entry.line,
            recipient=entry.recipient,
            item=entry.item,
            amount=entry.amount,
            key=entry.key,
            state=to,
            retries=entry.retries,
            uid=facts.get("uid") or entry.uid,
            settled_by=by,
            answer=getattr(problem, "status", entry.answer if note else None),
            absent_since=entry.absent_since,
            absent_at=entry.absent_at,
            problem_kind=entry.problem_kind if note else kind,
            problem=entry.problem if note else None if problem is None else _storable(str(problem)),
            note=note or entry.note,
            planned_at=entry.planned_at,
            sent_at=None if to is State.PLANNED else entry.sent_at or at,
            accepted_at=at if to is State.ACCEPTED else entry.accepted_at,
            settled_at=at if settled and to is not State.PLANNED else None,
            details=entry.details,
        )

    async def other_keys(self, entry: Entry) -> frozenset[str]:
        """Return the keys beside its own under which a row may have been paid.

        Those are the keys that retries replaced, and in a ledger that was restored from an older copy those of later retries.
        """
        if self._restored_at is None and not entry.retries:
            return frozenset()
        later = later_keys(self.vendor, self.campaign, entry.id, entry.retries) if self._restored_at is not None else frozenset()
        return later | await self._read(partial(_retired_keys, entry.number))

    async def renew_key(self, entry: Entry) -> Entry:
        """Plan a rejected or failed row again under a new key; the old key and the decision are kept in the same commit.

        The caller has looked the row up, as `payouts retry` does: it may have been paid under the old key in the meantime.

        Raises:
            InvalidTransition: the row is neither rejected nor failed, or has moved since it was read.
        """
        if State.PLANNED not in self._ways.get(entry.state, ()) or entry.state is State.SENT:
            raise InvalidTransition(entry.id, entry.state, State.PLANNED)
        key = derive_key(self.vendor, self.campaign, entry.id, retry=entry.retries + 1)
        return await self.transact(partial(self._renew, entry, key, self.now()))

    async def find(self, row_id: str) -> Entry | None:
        """Return the entry of a row, None if this campaign has no row with that id."""
        return await self._read(partial(self._find, row_id))

    async def entries(self, states: Collection[State], *, after: int = 0, limit: int = 500) -> list[Entry]:
        """Return rows in those states, in the order of their numbers.

        Args:
            states: The states.
            after: Leave out the rows up to this number.
            limit: Return at most this many; for more, pass the last number as `after`.
        """
        return await self._read(partial(self._entries, tuple(states), after, limit))

    async def counts(self) -> dict[State, int]:
        """Return how many rows are in each state."""
        return await self._read(partial(counts_of, campaign=self._number, shared=self.shared))

    def _check_rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            check_instance(row, "rows", self._row_type)

    def _plan(self, rows: Sequence[Row], at: float, database: Database) -> list[Entry]:
        return self._planner.plan(rows, at, database)

    def _move_together(self, pairs: Sequence[steps.Step], by_hand: Mapping[int, Facts], at: float, database: Database) -> None:
        if any(now.state is State.SENT for _, now in pairs):
            self._count_sent(at, database)
        steps.write(pairs, database)
        for was, now in pairs if by_hand else ():
            if was.number in by_hand:
                facts = by_hand[was.number]
                said = {"note": facts.get("note"), "evidence": facts.get("evidence")}
                decisions.record(database, kind="resolve", at=at, campaign=self._number, entry=was, became=now.state, **said)

    def _renew(self, entry: Entry, key: str, at: float, database: Database) -> Entry:
        return decisions.renew(database, entry, key, at=at)

    def _open_campaign(self, database: Database) -> None:
        known = partial(
            database.execute,
            "SELECT number, target, restored_at FROM campaigns WHERE vendor = ? AND name = ?",
            (self.vendor, self.campaign),
        )
        found = known().get
        if found is None:  # another process may begin it at this moment
            database.execute(
                "INSERT INTO campaigns (vendor, name, target, opened_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (self.vendor, self.campaign, self._target, self.now()),
            )
            found = known().get
        number, target, restored_at = found
        if self._target and target and target.rstrip("/") != self._target.rstrip("/"):
            raise LedgerError(
                f"Campaign {self.campaign} began with the base URL {target}, but the base URL is now {self._target}. Nothing was "
                "sent. Set the first base URL again, or use another campaign name or ledger."
            )
        self._restored_at = restored_at
        self._number = int(number)
        unsure = _RESTORED if restored_at is not None and not self._row_type.has_lookup else None
        self._planner = self._planner_type(self.vendor, self.campaign, self._number, unsure=unsure)

    def _find(self, row_id: str, database: Database) -> Entry | None:
        found = database.execute(
            f"SELECT {COLUMNS} FROM rows WHERE campaign = ? AND id = ?",
            (self._number, row_id),
        ).get
        return None if found is None else entry_of(found)

    def _entries(self, states: tuple[State, ...], after: int, limit: int, database: Database) -> list[Entry]:
        found = database.execute(
            f"SELECT {COLUMNS} FROM rows WHERE number > ? AND number <= ? AND campaign = ? AND state IN ({marks(states)}) "
            "ORDER BY number LIMIT ?",
            (after, _LAST, self._number, *states, limit),
        )
        return list(map(entry_of, found))


def _storable(text: str) -> str:
    """Return a vendor's text without what some databases cannot hold."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _retired_keys(number: int, database: Database) -> frozenset[str]:
    return frozenset(key for (key,) in database.execute("SELECT key FROM retired_keys WHERE row = ?", (number,)))
