"""One of several workers that pay a campaign: which rows it owns, how long, and when each may leave."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self, Unpack

from attrs import frozen

from payouts.ledger import postgres_worker as statements
from payouts.ledger.entries import entry_of
from payouts.ledger.fleet_note import RESTORED, FleetNote
from payouts.states import AuditNeeded, Entry, LeaseLost, LedgerError, LedgerInUse, State
from rewards_core.clock import uptime
from rewards_core.validation import check_number

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from payouts.ledger.base import Facts, Move
    from rewards_core.postgres.connection import Connection

logger = logging.getLogger(__name__)

LEASE = 60.0
GRACE = 30.0
HORIZON = 0.25
"""Seconds by which rows are claimed ahead of the moment at which they may leave."""
PERMIT_LASTS = 0.25
"""Seconds after that moment in which a row may still leave; later it needs another permit."""

_RENEWALS = 6
"""Renewals in one lease."""
_DOUBT_LASTS = 30.0
"""Seconds after which a claim that failed can no longer be carried out by the server: twice its limit for a statement."""


@frozen(kw_only=True)
class Turn:
    """What a worker may send.

    Attributes:
        entries: Rows that it owns now, marked as sent.
        permits: How many rows may leave; more than `entries` if fewer are planned.
        begins: When the first may leave, in seconds of the uptime.
        interval: Seconds between two of them.
        condition: `"running"`, `"paused"` or `"stopped"`.
    """

    entries: Sequence[Entry]
    permits: int
    begins: float
    interval: float
    condition: str


class SharedCampaign(Protocol):
    """The campaign of a `PostgresLedger`."""

    @property
    def number(self) -> int:
        """Its number in the ledger."""
        ...

    vendor: str
    """The name of the vendor that pays it."""

    @property
    def where(self) -> str:
        """The database, without its password."""
        ...

    def check_opened(self, audited_at: float | None) -> None:
        """Refuse a database that was restored and audited since the ledger was opened; raise `LedgerError`."""
        ...

    def set_time(self, now: float) -> None:
        """Take over the database's time."""
        ...

    async def call(self, work: Callable[[Connection], Awaitable[Any]]) -> Any:
        """Run one statement; raise `LedgerUnavailable` if the database failed."""
        ...

    async def move_owned(self, wanted: Sequence[Move], worker: int) -> Sequence[Entry]:
        """Move rows that a worker owns; raise `LeaseLost` if others own one of them."""
        ...

    async def other_keys(self, entry: Entry) -> Collection[str]:
        """Return the keys beside its own under which a row may have been paid."""
        ...


class Worker:
    """One worker of a campaign, and the ledger of the rows that it owns; see `PostgresLedger.one_worker`.

    Args:
        campaign: The campaign.
        rate: Rows that all workers together send per second; None for no limit.
        lease: Seconds for which it owns its rows after it last told the database that it lives.
        grace: Seconds after a lease before the rows of a lost worker are looked up.
        state: The state folder.
    """

    number = 0
    """The database's number of the worker; rows that it owns bear it."""

    def __init__(self, campaign: SharedCampaign, *, rate: float | None, lease: float, grace: float, state: Path | None) -> None:
        self.vendor = campaign.vendor
        self._campaign = campaign
        self._rate = None if rate is None else float(check_number(rate, "rate", at_least=1e-6, unit="rows per second"))
        self._lease = lease
        self._grace = grace
        self._note = FleetNote(state)
        self._owned_until = 0.0
        self._renewed = asyncio.Event()
        self._claims = 0
        self._doubtful: dict[int, float] = {}  # claim to the uptime until which the server may still carry it out
        self._doubtful_taking: dict[int, float] = {}
        self._after = 0

    @asynccontextmanager
    async def at_work(self, *, forgotten: bool = False) -> AsyncIterator[Self]:
        """Own rows while the block runs, which is cancelled if others have taken them.

        Args:
            forgotten: Whether the database forgets the worker at its end, unless it leaves rows: there are many such workers.

        Raises:
            AuditNeeded: as `begin`.
            LedgerError: the database failed.
        """
        ended_well = False
        try:
            await self.begin()
            async with asyncio.TaskGroup() as tasks:
                renewing = tasks.create_task(self.keep_alive(), name="keep the worker's lease")
                yield self
                renewing.cancel()
            ended_well = True
        finally:
            await self.end(forgotten=forgotten and ended_well)  # else a claim may still be carried out

    async def move(self, entry: Entry, to: State, **facts: Unpack[Facts]) -> Entry:
        """Move a row that the worker owns, and return its entry once that is durable."""
        return (await self.move_each([(entry, to, facts)]))[0]

    async def move_each(self, wanted: Sequence[Move]) -> Sequence[Entry]:
        """Move rows that the worker owns, and return their entries once that is durable.

        Raises:
            LeaseLost: others own one of the rows now; the other rows have moved.
        """
        moved = await self._campaign.move_owned(wanted, self.number)
        if any(now.state is State.SENT for now in moved):  # again: the vendor could not be reached the first time
            generation, at = await self._call(statements.GENERATION, self._campaign.number, row=True)
            await asyncio.to_thread(self._note.write, generation, at)
        return moved

    async def other_keys(self, entry: Entry) -> Collection[str]:
        """Return the keys beside its own under which a row may have been paid."""
        return await self._campaign.other_keys(entry)

    async def begin(self) -> None:
        """Tell the database of this worker.

        Raises:
            AuditNeeded: the database may be an older copy.
            LedgerInUse: a command such as `payouts resolve` is changing the campaign.
        """
        identity, vendor, name = await self._call(statements.NAMES, self._campaign.number, row=True)
        await asyncio.to_thread(self._note.open, identity, vendor, name)
        # the note is read first: another worker of this machine may send, and note it, at this moment
        intact, audited_at, generation, now = await self._call(statements.STANDING, self._campaign.number, row=True)
        if not intact:
            raise AuditNeeded(self._campaign.where, RESTORED, may_be_newest=True)
        self._check(generation, self._note.generation)
        self._campaign.check_opened(audited_at)
        await asyncio.to_thread(self._note.write, generation, now)  # it must be writable before a row is marked as sent
        asked_at = uptime()
        begun = await self._call(
            statements.BEGIN, self._campaign.number, socket.gethostname(), os.getpid(), self._rate, self._lease, row=True
        )
        if begun is None:
            told = "A command such as payouts resolve is changing this campaign. Nothing was sent. Start again when it has ended."
            raise LedgerInUse(told, pid=None)
        self.number, now = begun
        self._own_from(asked_at, now)

    async def end(self, *, forgotten: bool = False) -> None:
        """Tell the database that the worker has ended; others continue with its rows."""
        if not self.number:
            return
        try:
            await self._plan_doubtful()
            await self._call(statements.RELEASE, self._campaign.number, self.number)
            await self._call(statements.END, self.number)
            if forgotten:
                await self._call(statements.FORGET, self._campaign.number, self.number)
        except LedgerError as problem:
            logger.warning("could not release the rows of this worker; others take them when its lease has expired: %s", problem)

    async def keep_alive(self) -> None:
        """Renew the lease until cancelled.

        Raises:
            LeaseLost: another worker has taken the rows.
        """
        while True:
            await asyncio.sleep(self._lease / _RENEWALS)
            asked_at = uptime()
            try:
                now = await self._call(statements.RENEW, self.number, self._lease)
            except LedgerError as problem:
                logger.warning("could not renew the lease of this worker; trying again: %s", problem)
                continue
            if now is None:
                raise LeaseLost(self.number)
            self._own_from(asked_at, now)

    async def outlast(self, seconds: float) -> None:
        """Wait until the rows are owned for `seconds` more, or for half of the lease if that is less."""
        while not self.outlasts(seconds):
            self._renewed.clear()
            await self._renewed.wait()

    def outlasts(self, seconds: float) -> bool:
        """Return whether the rows are owned for `seconds` more, or for half of the lease if that is less."""
        return self._owned_until - uptime() >= min(seconds, self._lease / 2)

    async def claim(self, max_rows: int, *, row: int | None = None) -> Turn:
        """Own up to `max_rows` planned rows, marked as sent, as far as the rate lets them leave soon.

        Args:
            max_rows: How many, 1 or more.
            row: The number of the only row that is wanted, if it is one.

        Raises:
            AuditNeeded: the database was restored beneath this worker.
            LeaseLost: another worker has taken the rows.
            LedgerError: the database failed; no row is sent for that.
        """
        await self._plan_doubtful()
        claim, asked_at, sent_before = self._next_claim(), uptime(), self._note.generation
        try:
            statement, which = (statements.CLAIM, self._after) if row is None else (statements.CLAIM_ROW, row)
            found = await self._call(statement, self._campaign.number, self.number, max_rows, HORIZON, which, claim, rows=True)
            entries = [entry_of(row[7:]) for row in found if row[7] is not None]
            turn = self._turn(found[0][:6], asked_at, entries)
            if entries:
                generation, now = found[0][6], found[0][1]
                self._check(generation - len(entries), sent_before)
                await asyncio.to_thread(self._note.write, generation, now)
        except BaseException:
            self._doubtful[claim] = uptime() + _DOUBT_LASTS
            raise
        if entries:
            self._after = entries[-1].number
        elif turn.permits:
            self._after = 0  # rows that were given back have lower numbers
        return turn

    async def permits(self, max_permits: int) -> Turn:
        """Return how many rows that the worker owns already may leave; errors are those of `claim`."""
        asked_at = uptime()
        found = await self._call(statements.PERMIT, self._campaign.number, self.number, max_permits, HORIZON, row=True)
        return self._turn(found, asked_at, ())

    async def take_over(self, max_rows: int, *, unknown: bool = True, row: int | None = None) -> Sequence[Entry]:
        """Own rows that no living worker owns; planned ones are free again.

        Args:
            max_rows: How many, 1 or more.
            unknown: Whether to take unknown rows besides those that are sent or accepted.
            row: The number of the only row that is wanted, if it is one.
        """
        self._doubtful_taking = await self._undo(statements.LET_GO, self._doubtful_taking)
        claim = self._next_claim()
        statement, which = (statements.TAKE_OVER, ()) if row is None else (statements.TAKE_OVER_ROW, (row,))
        values = (self._campaign.number, self.number, self._grace, max_rows, unknown, claim, *which)
        try:
            found = await self._call(statement, *values, rows=True)
        except BaseException:
            self._doubtful_taking[claim] = uptime() + _DOUBT_LASTS
            raise
        return [entry_of(row) for row in found]

    async def others_have_rows(self, *, resting: bool) -> bool:
        """Return whether rows are planned, or under way with other workers that do not rest.

        Args:
            resting: Whether this worker has nothing left to do for the rows that it owns.
        """
        return bool(await self._call(statements.OTHERS, self._campaign.number, self.number, resting))

    def _turn(self, found: Sequence[Any], asked_at: float, entries: Sequence[Entry]) -> Turn:
        """Return the turn that a claim or permit gave; raise `LeaseLost`."""
        condition, now, starts_in, per_second, alive, count = found
        self._campaign.set_time(now)
        if not alive:
            raise LeaseLost(self.number)
        interval = 0.0 if per_second is None else 1.0 / per_second
        return Turn(entries=entries, permits=count, begins=asked_at + starts_in, interval=interval, condition=condition)

    def _next_claim(self) -> int:
        self._claims += 1
        return self._claims

    def _own_from(self, asked_at: float, now: float) -> None:
        self._campaign.set_time(now)
        self._owned_until = asked_at + self._lease
        self._renewed.set()

    def _check(self, generation: int, known: int) -> None:
        """Refuse a database from which less was sent than this machine knew of."""
        if generation < known:
            raise AuditNeeded(self._campaign.where, "an older copy of a ledger that was paid from since")

    async def _plan_doubtful(self) -> None:
        self._doubtful = await self._undo(statements.GIVE_BACK, self._doubtful)

    async def _undo(self, statement: str, doubtful: dict[int, float]) -> dict[int, float]:
        """Undo what failed claims may have done, of which this worker did not learn; return those to be undone again."""
        if not doubtful:
            return doubtful
        await self._call(statement, self._campaign.number, self.number, list(doubtful))
        now = uptime()
        return {claim: until for claim, until in doubtful.items() if until > now}

    async def _call(self, statement: str, *values: Any, row: bool = False, rows: bool = False) -> Any:
        if rows:
            return await self._campaign.call(lambda db: db.fetch(statement, *values))
        return await self._campaign.call(lambda db: (db.fetchrow if row else db.fetchval)(statement, *values))
