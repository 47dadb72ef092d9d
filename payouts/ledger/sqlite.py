"""The memory of a payout: what is about to be sent is in it, on the disk, before the first byte leaves."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Self, TypedDict, TypeVar, Unpack

from payouts.ledger import decisions, steps
from payouts.ledger.generation import GenerationNote, Standing, standing
from payouts.ledger.group_commit import GroupCommit
from payouts.ledger.lock import LedgerLock
from payouts.ledger.planner import Planner
from payouts.ledger.schema import COLUMNS, connect_to_write, entry_of, seal_branch
from payouts.rows import ROW_TYPES, Row, derive_key, later_keys
from payouts.states import (
    PROVEN,
    WAYS,
    AuditNeeded,
    Entry,
    LedgerError,
    LedgerInUse,
    State,
    WrongWay,
    by_hand_only,
)
from rewards_core.sqlite.files import OpenFiles
from rewards_core.validation import check_callable, check_choice, check_instance, check_name, check_path, check_str

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from rewards_core.sqlite.connection import Connection


T = TypeVar("T")

_RESTORED = "the ledger was restored from an older copy, from which this row may have been paid since"


class Facts(TypedDict, total=False):
    """What is known when a row moves on.

    Attributes:
        uid: The vendor's name of the operation.
        settled_by: What brought the news: `"webhook"`, `"poll"`, `"reply"`, `"hand"`, `"audit"` or `"lookup"`.
        problem: The error that led there; its type and text are kept.
        note: What somebody says who settles it by hand; the error that was there stays.
        evidence: What a settlement by hand rests on; it is kept with the decision.
    """

    uid: str | None
    settled_by: str | None
    problem: BaseException | str | None
    note: str | None
    evidence: str | None


class Ledger:
    """The rows of one campaign and how far each has come, in a file that may hold many campaigns.

    Use it inside `async with`. A method returns once what it did is on the disk; all that wait at one moment share one fsync.
    Until it is closed, this process must not open or copy the file, its `-wal` or its `-shm` by other means: closing them there
    would give up the locks that SQLite has on them.

    Args:
        path: The file, made if it is not there; only its owner can read it.
        vendor: `"original"` or `"enkash"`.
        campaign: The campaign's name, a part of every key.
        target: Where the money goes out, such as the vendor's base URL; a campaign keeps the one it began with.
        lock: The ledger's lock, if it has been taken already; it is given back when the ledger is closed.
        state: The folder in which is noted how far the ledger has come; `rewards-async` in the user's state folder if not given.
        clock: Seconds since the epoch.

    Raises:
        LedgerInUse: another process works with it.
        LedgerError: it is no ledger, cannot be written, or the campaign was begun against another target.
        TypeError: an argument is of another type.
        ValueError: there is no such vendor, or a name or a path cannot be used.
    """

    _database: Connection
    _held: LedgerLock
    _files: OpenFiles

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
        self.vendor = check_choice(vendor, "vendor", WAYS)
        self.campaign = check_name(campaign, "campaign")
        self._target = check_str(target, "target")
        self._clock = check_callable(clock, "clock")
        self._row_type = ROW_TYPES[vendor]
        self._ways = WAYS[vendor]
        self._lock = None if lock is None else check_instance(lock, "lock", LedgerLock)
        self._state = None if state is None else check_path(state, "state")
        self._note: GenerationNote | None = None
        self._generation = 0
        self._branch: str | None = None
        self._begun_branch = False
        self._to_note: float | None = None
        self._writer = GroupCommit(self._connect, str(self.path), before=self._check_lock, after=self._after_commit)
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
        """Finish what waits, close the file and give the lock back; a second call does nothing."""
        try:
            await self._writer.aclose()
        finally:
            if self._note is not None:
                self._note.release()
            if self._lock is not None:
                self._lock.release()

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
    async def one_run(self) -> AsyncIterator[None]:
        """Keep other runs away while one pays: what it has under way would look to them as if nobody knew its end.

        Raises:
            LedgerInUse: a run of this process pays from it, or another process pays from a copy of it.
            AuditNeeded: it may be an older copy; nothing may be sent before an audit.
        """
        if self._in_a_run:
            told = f"{self.path}: another run of this process is paying from this ledger. Nothing was sent; wait until it ends."
            raise LedgerInUse(told, pid=os.getpid())
        self._in_a_run = True
        try:
            await self._writer.run(self._begin_run)
            yield
        finally:
            self._in_a_run = False

    async def plan(self, rows: Sequence[Row]) -> list[Entry]:
        """Take up rows and return how far each has come; a row not met before is `planned`, its key made.

        Args:
            rows: In any order; an id that is there twice gives the same entry twice.

        Raises:
            TypeError: one is no row of the ledger's vendor. None of these rows is taken up then.
            RowChanged: a row is known with other content. None of these rows is taken up then.
            KeyTaken: a row brings the key of another. None of these rows is taken up then.
        """
        for row in rows:
            check_instance(row, "rows", self._row_type)
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
        """Lead several rows on in one go, each as `move` does; what is settled by hand is kept as a decision in the same commit.

        Raises:
            WrongWay: as `move`; then none of these rows has moved.
        """
        at = self._clock()
        pairs = [(entry, self._moved(entry, to, facts, at)) for entry, to, facts in wanted]
        decided = {entry.number: facts for entry, _, facts in wanted if facts.get("settled_by") == "hand"}
        await self._writer.run(partial(self._write, pairs, decided, at))
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
        return await self._writer.run(partial(steps.whole, work))

    async def other_keys(self, entry: Entry) -> frozenset[str]:
        """Return the keys beside its own under which a row may have been paid.

        Those are the keys that retries replaced, and in a ledger that was restored from an older copy those of later retries.
        """
        if self._restored_at is None and not entry.retries:
            return frozenset()
        later = later_keys(self.vendor, self.campaign, entry.id, entry.retries) if self._restored_at is not None else frozenset()
        return later | await self._writer.run(partial(_retired_keys, entry.number))

    async def renew_key(self, entry: Entry) -> Entry:
        """Plan a rejected or failed row again under another key; the old key and the decision are kept in the same commit.

        Raises:
            WrongWay: the row is neither rejected nor failed, or has moved since it was read.
        """
        if State.PLANNED not in self._ways.get(entry.state, ()) or entry.state is State.SENT:
            raise WrongWay(entry.id, entry.state, State.PLANNED)
        key = derive_key(self.vendor, self.campaign, entry.id, retry=entry.retries + 1)
        return await self.transact(partial(decisions.renew, entry=entry, key=key, at=self._clock()))

    async def find(self, row_id: str) -> Entry | None:
        """Return how a row stands, None if this campaign has none of that id."""
        return await self._writer.run(partial(self._find, row_id))

    async def entries(self, states: Collection[State], *, after: int = 0, limit: int = 500) -> list[Entry]:
        """Return some of the rows in those states, those with the lowest numbers above `after`."""
        return await self._writer.run(partial(self._entries, tuple(states), after, limit))

    async def counts(self) -> dict[State, int]:
        """Return how many rows are in each state."""
        return await self._writer.run(self._counts)

    def _connect(self) -> Connection:
        if self._lock is None:
            self._lock = LedgerLock(self.path)
            self._lock.acquire()
        connection = self._database = connect_to_write(self.path)
        self._files = OpenFiles(self.path)
        self._held = self._lock
        return connection

    def _check_lock(self) -> None:
        self._held.check()

    def _after_commit(self) -> None:
        self._check_place()
        if self._to_note is not None and self._note is not None and self._branch is not None:
            branches = (self._branch, self._branch)
            self._note.write(self._generation, self._to_note, branches, (self.vendor, self.campaign))
            self._to_note = None
            if not self._begun_branch:
                self._begun_branch = True
                seal_branch(self._database)

    def _write(self, pairs: Sequence[steps.Step], decided: Mapping[int, Facts], at: float, database: Connection) -> None:
        sends = any(now.state is State.SENT for _, now in pairs)
        if sends:
            self._take_note(database)
            self._begin_branch(at, database)
        steps.write(pairs, database)
        for was, now in pairs if decided else ():
            if was.number in decided:
                facts = decided[was.number]
                said = {"note": facts.get("note"), "evidence": facts.get("evidence")}
                decisions.record(database, kind="resolve", at=at, campaign=self._number, entry=was, became=now.state, **said)
        if sends:
            self._generation += 1
            self._to_note = at
            database.execute("UPDATE ledger SET generation = ?", (self._generation,))

    def _begin_run(self, database: Connection) -> None:
        self._take_note(database)
        database.execute("UPDATE campaigns SET run_at = ? WHERE number = ?", (self._clock(), self._number))

    def _take_note(self, database: Connection) -> None:
        """Make sure, once, that nothing was sent from a newer copy of this ledger, and keep it so."""
        if self._note is not None:
            return
        identity, self._generation, self._branch = database.execute("SELECT identity, generation, branch FROM ledger").get
        note = GenerationNote(identity, self._state)
        note.take()
        found = standing(self._generation, self._branch, note.read())
        if found is not Standing.NEWEST:
            note.release()
            raise AuditNeeded(self.path, found.value, may_be_newest=found is Standing.UNKNOWN)
        self._note = note

    def _begin_branch(self, at: float, database: Connection) -> None:
        """Tell this opening of the ledger apart from whatever is done later with a copy of it; once, before anything is sent."""
        if self._begun_branch or self._to_note is not None or self._note is None:
            return
        known, self._branch = self._branch, secrets.token_hex(8)
        self._note.write(self._generation, at, (known, self._branch))
        database.execute("UPDATE ledger SET branch = ?", (self._branch,))

    def _check_place(self) -> None:
        """Refuse to go on where nobody would ever read what was written."""
        if not self._files.whole:
            raise LedgerError(
                f"{self.path}: the ledger or its -wal file was moved, deleted or replaced while it was open. Put both back "
                "before you run again, or what was paid since is not remembered."
            )

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
                f"Campaign {self.campaign} was begun at {target}; this is {self._target}. Nothing was sent. "
                "Use another campaign name or another ledger for another place."
            )
        self._restored_at = restored_at
        unsure = _RESTORED if restored_at is not None and self.vendor == "enkash" else None
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
