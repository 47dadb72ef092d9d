"""The memory of a payout: what is about to be sent is in it, on the disk, before the first byte leaves."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from payouts import steps
from payouts.group_commit import GroupCommit
from payouts.ledger_lock import LedgerLock
from payouts.ledger_schema import COLUMNS, connect_to_write, entry_of
from payouts.planning import Planner
from payouts.rows import Row, derive_key
from payouts.states import WAYS, Entry, LedgerError, LedgerInUse, State, WrongWay, by_hand_only
from webhooks.store.sqlite_guard import InPlace

if TYPE_CHECKING:
    import sqlite3
    from types import TracebackType


class Facts(TypedDict, total=False):
    """What is known when a row moves on.

    Attributes:
        uid: The vendor's name of the operation.
        settled_by: What brought the news: `"webhook"`, `"poll"`, `"reply"` or `"hand"`.
        problem: The error that led there; its type and text are kept.
        note: What somebody says who settles it by hand; the error that was there stays.
    """

    uid: str | None
    settled_by: str | None
    problem: BaseException | str | None
    note: str | None


class Ledger:
    """The rows of one campaign and how far each has come, in a file that may hold many campaigns.

    Use it inside `async with`. A method returns once what it did is on the disk; all that wait at one moment share one fsync.

    Args:
        path: The file, made if it is not there; only its owner can read it.
        vendor: `"original"` or `"enkash"`.
        campaign: The campaign's name, a part of every key.
        target: Where the money goes out, such as the vendor's base URL; a campaign keeps the one it began with.
        lock: The ledger's lock, if it has been taken already; it is given back when the ledger is closed.
        clock: Seconds since the epoch.

    Raises:
        LedgerInUse: another process works with it.
        LedgerError: it is no ledger, cannot be written, or the campaign was begun against another target.
    """

    _held: LedgerLock
    _in_place: InPlace

    def __init__(
        self,
        path: str | Path,
        *,
        vendor: str,
        campaign: str,
        target: str = "",
        lock: LedgerLock | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = Path(path)
        self.vendor = vendor
        self.campaign = campaign
        self._target = target
        self._clock = clock
        self._ways = WAYS[vendor]
        self._lock = lock
        self._writer = GroupCommit(self._connect, str(path), before=self._check_lock, after=self._check_place)
        self._in_a_run = False
        self._number = 0
        self._planner = Planner(vendor, campaign, 0)

    async def __aenter__(self) -> Self:
        try:
            await self._writer.open()
            self._number = await self._writer.run(self._open_campaign)
            self._planner = Planner(self.vendor, self.campaign, self._number)
        except BaseException:
            await self.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Finish what waits, close the file and give the lock back; a second call does nothing."""
        try:
            await self._writer.aclose()
        finally:
            if self._lock is not None:
                self._lock.release()

    @property
    def commits(self) -> int:
        """How many groups of changes were committed, each with one fsync."""
        return self._writer.commits

    @contextmanager
    def one_run(self) -> Iterator[None]:
        """Keep other runs away while one pays: what it has under way would look to them as if nobody knew its end.

        Raises:
            LedgerInUse: a run of this process pays from it.
        """
        if self._in_a_run:
            told = f"{self.path}: expected to pay from it alone, but another run of this process does; let that one end first"
            raise LedgerInUse(told, pid=os.getpid())
        self._in_a_run = True
        try:
            yield
        finally:
            self._in_a_run = False

    async def plan(self, rows: Sequence[Row]) -> list[Entry]:
        """Take up rows and return how far each has come; a row not met before is `planned`, its key made.

        Args:
            rows: In any order; an id that is there twice gives the same entry twice.

        Raises:
            RowChanged: a row is known with other content. None of these rows is taken up then.
            KeyTaken: a row brings the key of another. None of these rows is taken up then.
        """
        return await self._writer.run(partial(self._planner.plan, rows, self._clock()))

    async def move(self, entry: Entry, to: State, **facts: Unpack[Facts]) -> Entry:
        """Lead a row on to its next state and return how it stands then.

        Args:
            entry: The row as it was read last.
            to: The next state.
            facts: What is known now: see `Facts`.

        Raises:
            WrongWay: there is no way from the row's state to that one, or the row has moved since it was read.
        """
        return (await self.move_all([(entry, to, facts)]))[0]

    async def move_all(self, wanted: Sequence[tuple[Entry, State, Facts]]) -> list[Entry]:
        """Lead several rows on in one go, each as `move` does.

        Raises:
            WrongWay: as `move`; then none of these rows has moved.
        """
        at = self._clock()
        pairs = [(entry, self._moved(entry, to, facts, at)) for entry, to, facts in wanted]
        await self._writer.run(partial(steps.write, pairs))
        return [now for _, now in pairs]

    def _moved(self, entry: Entry, to: State, facts: Facts, at: float) -> Entry:
        by_hand = facts.get("settled_by") == "hand"
        if to not in self._ways.get(entry.state, ()) or (by_hand_only(entry.state, to) and not by_hand):
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
            settled_by=facts.get("settled_by"),
            problem_kind=entry.problem_kind if note else kind,
            problem=entry.problem if note else None if problem is None else str(problem),
            note=note or entry.note,
            planned_at=entry.planned_at,
            sent_at=None if to is State.PLANNED else entry.sent_at or at,
            accepted_at=at if to is State.ACCEPTED else entry.accepted_at,
            settled_at=at if settled and to is not State.PLANNED else None,
        )

    async def renew_key(self, entry: Entry) -> Entry:
        """Plan a rejected or failed row anew under another key, and keep the old one beside it.

        Raises:
            WrongWay: the row is neither rejected nor failed, or has moved since it was read.
        """
        if State.PLANNED not in self._ways.get(entry.state, ()) or entry.state is State.SENT:
            raise WrongWay(entry.id, entry.state, State.PLANNED)
        key = derive_key(self.vendor, self.campaign, entry.id, retry=entry.retries + 1)
        return await self._writer.run(partial(self._renew, entry, key))

    async def find(self, row_id: str) -> Entry | None:
        """Return how a row stands, None if this campaign has none of that id."""
        return await self._writer.run(partial(self._find, row_id))

    async def entries(self, states: Collection[State], *, after: int = 0, limit: int = 500) -> list[Entry]:
        """Return some of the rows in those states, those with the lowest numbers above `after`."""
        return await self._writer.run(partial(self._entries, tuple(states), after, limit))

    async def counts(self) -> dict[State, int]:
        """Return how many rows are in each state."""
        return await self._writer.run(self._counts)

    def _connect(self) -> sqlite3.Connection:
        if self._lock is None:
            self._lock = LedgerLock(self.path)
            self._lock.acquire()
        connection = connect_to_write(self.path)
        self._in_place = InPlace(self.path)
        self._held = self._lock
        return connection

    def _check_lock(self) -> None:
        self._held.check()

    def _check_place(self) -> None:
        """Refuse to go on where nobody would ever read what was written."""
        if not self._in_place.whole:
            raise LedgerError(
                f"{self.path}: expected the files that were opened, one was moved, deleted or replaced meanwhile; "
                "put the ledger back with its -wal file beside it before you run again, or what was paid since is not remembered"
            )

    def _open_campaign(self, database: sqlite3.Connection) -> int:
        found = database.execute(
            "SELECT number, target FROM campaigns WHERE vendor = ? AND name = ?", (self.vendor, self.campaign)
        ).fetchone()
        if found is None:
            return int(
                database.execute(
                    "INSERT INTO campaigns (vendor, name, target, opened_at) VALUES (?, ?, ?, ?) RETURNING number",
                    (self.vendor, self.campaign, self._target, self._clock()),
                ).fetchone()[0]
            )
        number, target = found
        if self._target and target and target != self._target:
            raise LedgerError(
                f"campaign {self.campaign}: expected {target}, where it was begun, got {self._target}; "
                "name another campaign or another ledger for another place"
            )
        return int(number)

    def _select(self, row_id: str, database: sqlite3.Connection) -> Any:
        return database.execute(
            f"SELECT {COLUMNS} FROM rows WHERE campaign = ? AND id = ?",  # noqa: S608 - a constant
            (self._number, row_id),
        ).fetchone()

    def _find(self, row_id: str, database: sqlite3.Connection) -> Entry | None:
        found = self._select(row_id, database)
        return None if found is None else entry_of(found)

    def _renew(self, entry: Entry, key: str, database: sqlite3.Connection) -> Entry:
        at = self._clock()
        moved = database.execute(
            "INSERT INTO retired_keys "
            "SELECT vendor, key, number, retries, ?, state, uid, problem_kind, problem, sent_at, settled_at, ?, note FROM rows "
            "WHERE number = ? AND state = ? AND key = ?",
            (key, at, entry.number, entry.state, entry.key),
        )
        if not moved.rowcount:
            raise WrongWay(entry.id, entry.state, State.PLANNED)
        database.execute(
            "UPDATE rows SET state = 'planned', key = ?, planned_at = ?, retries = retries + 1, uid = NULL, settled_by = NULL, "
            "problem_kind = NULL, problem = NULL, note = NULL, sent_at = NULL, accepted_at = NULL, settled_at = NULL "
            "WHERE number = ?",
            (key, at, entry.number),
        )
        return entry_of(self._select(entry.id, database))

    def _entries(self, states: tuple[State, ...], after: int, limit: int, database: sqlite3.Connection) -> list[Entry]:
        marks = ", ".join("?" * len(states))
        found = database.execute(
            f"SELECT {COLUMNS} FROM rows WHERE number > ? AND campaign = ? AND state IN ({marks}) ORDER BY number LIMIT ?",  # noqa: S608
            (after, self._number, *states, limit),
        )
        return [entry_of(row) for row in found]

    def _counts(self, database: sqlite3.Connection) -> dict[State, int]:
        found = database.execute("SELECT state, count(*) FROM rows WHERE campaign = ? GROUP BY state", (self._number,))
        return {State(state): int(count) for state, count in found}
