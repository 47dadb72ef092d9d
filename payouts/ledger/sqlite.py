"""The ledger: the rows of one campaign in a SQLite file; what is about to be sent is durable before its first byte leaves."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from payouts.ledger import steps
from payouts.ledger.campaign import CampaignLedger
from payouts.ledger.lock import LedgerLock
from payouts.ledger.writer import LedgerWriter
from payouts.states import LedgerInUse
from rewards_core.secrets import shielded
from rewards_core.validation import check_file, check_instance, check_path

if TYPE_CHECKING:
    from pathlib import Path

    from payouts.ledger.base import Database
    from payouts.rows import Row
    from payouts.states import Entry

T = TypeVar("T")


class Ledger(CampaignLedger):
    """The rows of one campaign and their states, in a file that may hold many campaigns.

    Use it inside `async with`. A method returns once its changes are on the disk; changes that wait at one time share one fsync.
    Until the ledger is closed, this process must not open or copy the file, its `-wal` or its `-shm` by other means: closing
    them there would release SQLite's locks.

    Args:
        path: The file, created if it is missing; only its owner can read it.
        vendor: The name of the vendor that pays, the `vendor` of its rows.
        campaign: The campaign's name, a part of every key.
        target: Where payments are sent, such as the vendor's base URL; the target of a campaign cannot change.
        lock: The ledger's lock, if the caller has already taken it; it is released when the ledger is closed.
        state: The folder of the note that records the newest copy of each ledger; by default `rewards-async` in the user's
            state folder.
        clock: Returns Unix time in seconds.

    Raises:
        LedgerInUse: another process uses the ledger.
        LedgerError: it is not a ledger, cannot be written, or the campaign has another target.
        TypeError: an argument is of another type.
        ValueError: there is no such vendor, or a name or a path cannot be used.
    """

    @shielded
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
        self.path = check_file(path, "path", "A ledger outlives its process; PostgresLedger(dsn) takes the URL of a database.")
        super().__init__(vendor=vendor, campaign=campaign, target=target, clock=clock)
        self._writer = LedgerWriter(
            self.path,
            campaign=(vendor, campaign),
            lock=None if lock is None else check_instance(lock, "lock", LedgerLock),
            state=None if state is None else check_path(state, "state"),
        )
        self._in_a_run = False

    async def _open(self) -> None:
        await self._writer.open()
        await self._writer.run(self._open_campaign)

    async def aclose(self) -> None:
        """Finish the work that waits, close the file and release the lock; a second call does nothing."""
        await self._writer.aclose()

    @property
    def commits(self) -> int:
        """How many groups of changes were committed, each with one fsync."""
        return self._writer.commits

    @asynccontextmanager
    async def one_run(self) -> AsyncIterator[None]:
        """Prevent any other run while the block runs: rows under way in one run would look lost to another run.

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
            yield
        finally:
            self._in_a_run = False

    async def plan_sent(self, rows: Sequence[Row], max_rows: int) -> list[Entry]:
        """Store new rows as `sent` at once, until there are `max_rows` of them.

        Args:
            rows: As in `plan`.
            max_rows: How many may be stored, 1 or more; the rows after them are left alone.

        Returns:
            The entry of each row so far, also of those known before, once that is durable.

        Raises:
            AuditNeeded: the ledger may be an older copy. None of these rows is stored then.
            LedgerError: as `plan`.
        """
        work = partial(self._plan_sent, rows, max_rows, self.now())
        self._check_rows(rows)
        return await self._writer.run(partial(steps.all_or_nothing, work))

    async def transact(self, work: Callable[[Database], T]) -> T:
        """Run work on the ledger's own connection and return its result once it is on the disk; a `LedgerError` undoes it.

        Args:
            work: Reads and writes; it runs on another thread, and not at the same time as anything else of this ledger.
        """
        return await self._writer.run(partial(steps.all_or_nothing, work))

    async def _read(self, work: Callable[[Database], T]) -> T:
        return await self._writer.read(work)

    async def _write(self, pairs: Sequence[steps.Step]) -> list[Entry]:
        return await self._writer.move(pairs)

    def _count_sent(self, at: float, database: Any) -> None:
        self._writer.count_sent(at, database)

    def _plan_sent(self, rows: Sequence[Row], max_rows: int, at: float, database: Database) -> list[Entry]:
        entries, sent = self._planner.plan_sent(rows, max_rows, at, database)
        if sent:
            self._count_sent(at, database)
        return entries

    def _begin_run(self, database: Any) -> None:
        at = self.now()
        self._writer.begin_sending(database)
        database.execute("UPDATE campaigns SET run_at = ? WHERE number = ?", (at, self._number))
