"""The ledger: the rows of one campaign in a SQLite file; what is about to be sent is durable before its first byte leaves."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar, Unpack

from payouts.keys import derive_key, later_keys
from payouts.ledger import decisions, steps
from payouts.ledger.lock import LedgerLock
from payouts.ledger.planner import Planner
from payouts.ledger.schema import COLUMNS, entry_of
from payouts.ledger.writer import LedgerWriter
from payouts.states import PROVEN, Entry, LedgerError, LedgerInUse, State, WrongWay, by_hand_only, ways_of
from payouts.vendors import ROW_TYPES
from rewards_core.validation import check_callable, check_choice, check_instance, check_name, check_path, check_str

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from payouts.ledger.base import Facts, Move
    from payouts.rows import Row
    from rewards_core.sqlite.connection import Connection

T = TypeVar("T")

_RESTORED = "the ledger was restored from an older copy, from which this row may have been paid since"


class Ledger:
    """The rows of one campaign and their states, in a file that may hold many campaigns.

    Use it inside `async with`. A method returns once its changes are on the disk; changes that wait at one time share one fsync.
    Until the ledger is closed, this process must not open or copy the file, its `-wal` or its `-shm` by other means: closing
    them there would release SQLite's locks.

    Args:
        path: The file, created if it is missing; only its owner can read it.
        vendor: The name of the vendor that pays.
        campaign: The campaign's name, a part of every key.
        target: Where payments are sent, such as the vendor's base URL; the target of a campaign cannot change.
        lock: The ledger's lock, if the caller has already taken it; it is released when the ledger is closed.
        state: The folder of the note that records the newest copy of each ledger; by default `rewards-async` in the user's
            state folder.
        clock: Seconds since the epoch.

    Raises:
        LedgerInUse: another process uses the ledger.
        LedgerError: it is not a ledger, cannot be written, or the campaign was begun against another target.
        TypeError: an argument is of another type.
        ValueError: there is no such vendor, or a name or a path cannot be used.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        vendor: str,
        campaign: str,
        target: str = "",
        lock: LedgerLock | None = None,
        state: str | Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = check_path(path, "path")
        self.vendor = check_choice(vendor, "vendor", ROW_TYPES)
        self.campaign = check_name(campaign, "campaign")
        self._target = check_str(target, "target")
        self._clock = check_callable(clock, "clock")
        self._row_type = ROW_TYPES[vendor]
        self._ways = ways_of(has_lookup=self._row_type.has_lookup)
        self._writer = LedgerWriter(
            self.path,
            campaign=(vendor, campaign),
            lock=None if lock is None else check_instance(lock, "lock", LedgerLock),
            state=None if state is None else check_path(state, "state"),
        )
        self._in_a_run = False
        self._number = 0
        self._restored_at: float | None = None
        self._planner = Planner(vendor, campaign, 0)

    async def __aenter__(self) -> Self:
        try:
            await self._writer.open()
            self._number = await self._writer.run(self._open_campaign)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Finish the work that waits, close the file and release the lock; a second call does nothing."""
        await self._writer.aclose()

    @property
    def number(self) -> int:
        """The ledger's own number of the campaign."""
        return self._number

    @property
    def restored_at(self) -> float | None:
        """When the ledger was restored from an older copy, so that rows may have been paid that it does not know; else None."""
        return self._restored_at

    @property
    def commits(self) -> int:
        """How many groups of changes were committed, each with one fsync."""
        return self._writer.commits

    @asynccontextmanager
    async def one_run(self, *, rows_at_once: int = 1) -> AsyncIterator[None]:
        """Prevent any other run while the block runs: rows under way in one run would look lost to another run.

        Args:
            rows_at_once: Rows whose moves may wait for each other before they are written together, 1 or more.

        Raises:
            LedgerInUse: a run of this process pays from the ledger, or another process pays from a copy of it.
            AuditNeeded: it may be an older copy; nothing may be sent before an audit.
        """
        if self._in_a_run:
            told = f"{self.path}: another run of this process is paying from this ledger. Nothing was sent; wait until it ends."
            raise LedgerInUse(told, pid=os.getpid())
        self._in_a_run = True
        try:
            await self._writer.run(self._begin_run)
            self._writer.gather(rows_at_once)
            yield
        finally:
            self._in_a_run = False
            self._writer.gather(1)

    async def plan(self, rows: Sequence[Row]) -> list[Entry]:
        """Store the rows that are new, as `planned` and with a key, and return the entry of each row.

        Args:
            rows: In any order; an id that is there twice gives the same entry twice.

        Raises:
            TypeError: an entry is not a row of the ledger's vendor. None of these rows is stored then.
            RowChanged: the ledger holds a row with the same id and other content. None of these rows is stored then.
            KeyTaken: a row has the key of another row. None of these rows is stored then.
        """
        self._check_rows(rows)
        return await self.transact(partial(self._planner.plan, rows, self._clock()))

    async def plan_sent(self, rows: Sequence[Row], most: int) -> list[Entry]:
        """Store new rows as `sent` at once, until there are `most` of them.

        Args:
            rows: As in `plan`.
            most: How many may be stored, 1 or more; the rows after them are left alone.

        Returns:
            The entry of each row so far, also of those known before, once that is durable.

        Raises:
            AuditNeeded: the ledger may be an older copy. None of these rows is stored then.
            LedgerError: as `plan`.
        """
        self._check_rows(rows)
        work = partial(self._plan_sent, rows, most, self._clock())
        return await self._writer.run(partial(steps.all_or_nothing, work), rows=most)

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
            WrongWay: a row's state does not allow this step, or has changed since the row was read. The other rows have moved.
        """
        at = self._clock()
        return await self._writer.move([(entry, self._moved(entry, to, facts, at)) for entry, to, facts in wanted])

    async def move_all(self, wanted: Sequence[Move]) -> list[Entry]:
        """Move several rows or none; a settlement by hand is kept as a decision in the same commit.

        Raises:
            WrongWay: as `move`; then none of these rows has moved.
        """
        at = self._clock()
        pairs = [(entry, self._moved(entry, to, facts, at)) for entry, to, facts in wanted]
        by_hand = {entry.number: facts for entry, _, facts in wanted if facts.get("settled_by") == "hand"}
        await self.transact(partial(self._move_together, pairs, by_hand, at))
        return [now for _, now in pairs]

    def _moved(self, entry: Entry, to: State, facts: Facts, at: float) -> Entry:
        by = facts.get("settled_by")
        ways = PROVEN if by == "audit" else self._ways
        if to not in ways.get(entry.state, ()) or (by_hand_only(entry.state, to) and by not in {"hand", "audit"}):
            raise WrongWay(entry.id, entry.state, to)
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
            problem=entry.problem if note else None if problem is None else str(problem),
            note=note or entry.note,
            planned_at=entry.planned_at,
            sent_at=None if to is State.PLANNED else entry.sent_at or at,
            accepted_at=at if to is State.ACCEPTED else entry.accepted_at,
            settled_at=at if settled and to is not State.PLANNED else None,
        )

    async def transact(self, work: Callable[[Connection], T]) -> T:
        """Run work on the ledger's own connection and return its result once it is on the disk; a `LedgerError` undoes it.

        Args:
            work: Reads and writes; it runs on another thread, and not at the same time as anything else of this ledger.
        """
        return await self._writer.run(partial(steps.all_or_nothing, work))

    async def other_keys(self, entry: Entry) -> frozenset[str]:
        """Return the keys beside its own under which a row may have been paid.

        Those are the keys that retries replaced, and in a ledger that was restored from an older copy those of later retries.
        """
        if self._restored_at is None and not entry.retries:
            return frozenset()
        later = later_keys(self.vendor, self.campaign, entry.id, entry.retries) if self._restored_at is not None else frozenset()
        return later | await self._writer.read(partial(_retired_keys, entry.number))

    async def renew_key(self, entry: Entry) -> Entry:
        """Plan a rejected or failed row again under a new key; the old key and the decision are kept in the same commit.

        Raises:
            WrongWay: the row is neither rejected nor failed, or has moved since it was read.
        """
        if State.PLANNED not in self._ways.get(entry.state, ()) or entry.state is State.SENT:
            raise WrongWay(entry.id, entry.state, State.PLANNED)
        key = derive_key(self.vendor, self.campaign, entry.id, retry=entry.retries + 1)
        return await self.transact(partial(decisions.renew, entry=entry, key=key, at=self._clock()))

    async def find(self, row_id: str) -> Entry | None:
        """Return the entry of a row, None if this campaign has no row with that id."""
        return await self._writer.read(partial(self._find, row_id))

    async def entries(self, states: Collection[State], *, after: int = 0, limit: int = 500) -> list[Entry]:
        """Return some of the rows in those states, those with the lowest numbers above `after`."""
        return await self._writer.read(partial(self._entries, tuple(states), after, limit))

    async def counts(self) -> dict[State, int]:
        """Return how many rows are in each state."""
        return await self._writer.read(self._counts)

    def _check_rows(self, rows: Sequence[Row]) -> None:
        for row in rows:
            check_instance(row, "rows", self._row_type)

    def _plan_sent(self, rows: Sequence[Row], most: int, at: float, database: Connection) -> list[Entry]:
        entries, sent = self._planner.plan_sent(rows, most, at, database)
        if sent:
            self._writer.count_sent(at, database)
        return entries

    def _move_together(self, pairs: Sequence[steps.Step], by_hand: Mapping[int, Facts], at: float, database: Connection) -> None:
        if any(now.state is State.SENT for _, now in pairs):
            self._writer.count_sent(at, database)
        steps.write(pairs, database)
        for was, now in pairs if by_hand else ():
            if was.number in by_hand:
                facts = by_hand[was.number]
                said = {"note": facts.get("note"), "evidence": facts.get("evidence")}
                decisions.record(database, kind="resolve", at=at, campaign=self._number, entry=was, became=now.state, **said)

    def _begin_run(self, database: Connection) -> None:
        self._writer.begin_sending(database)
        database.execute("UPDATE campaigns SET run_at = ? WHERE number = ?", (self._clock(), self._number))

    def _open_campaign(self, database: Connection) -> int:
        found = database.execute(
            "SELECT number, target, restored_at FROM campaigns WHERE vendor = ? AND name = ?", (self.vendor, self.campaign)
        ).get
        if found is None:
            found = database.execute(
                "INSERT INTO campaigns (vendor, name, target, opened_at) VALUES (?, ?, ?, ?) "
                "RETURNING number, target, restored_at",
                (self.vendor, self.campaign, self._target, self._clock()),
            ).get
        number, target, restored_at = found
        if self._target and target and target.rstrip("/") != self._target.rstrip("/"):
            raise LedgerError(
                f"Campaign {self.campaign} was begun at {target}, but the base URL is now {self._target}. Nothing was sent. "
                "Set the base URL of the campaign, or use another campaign name or ledger."
            )
        self._restored_at = restored_at
        unsure = _RESTORED if restored_at is not None and not self._row_type.has_lookup else None
        self._planner = Planner(self.vendor, self.campaign, int(number), unsure=unsure)
        return int(number)

    def _find(self, row_id: str, database: Connection) -> Entry | None:
        found = database.execute(
            f"SELECT {COLUMNS} FROM rows WHERE campaign = ? AND id = ?",  # noqa: S608 - a constant
            (self._number, row_id),
        ).get
        return None if found is None else entry_of(found)

    def _entries(self, states: tuple[State, ...], after: int, limit: int, database: Connection) -> list[Entry]:
        marks = ", ".join("?" * len(states))
        found = database.execute(
            f"SELECT {COLUMNS} FROM rows WHERE number > ? AND campaign = ? AND state IN ({marks}) ORDER BY number LIMIT ?",  # noqa: S608
            (after, self._number, *states, limit),
        )
        return [entry_of(row) for row in found]

    def _counts(self, database: Connection) -> dict[State, int]:
        found = database.execute("SELECT state, count(*) FROM rows WHERE campaign = ? GROUP BY state", (self._number,))
        return {State(state): int(count) for state, count in found}


def _retired_keys(number: int, database: Connection) -> frozenset[str]:
    return frozenset(key for (key,) in database.execute("SELECT key FROM retired_keys WHERE row = ?", (number,)))
