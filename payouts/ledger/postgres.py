"""The ledger of a campaign that any number of processes pay, in a PostgreSQL database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from payouts.ledger import decisions, steps
from payouts.ledger.campaign import CampaignLedger
from payouts.ledger.entries import COLUMNS, entry_of
from payouts.ledger.postgres_lock import PLANNING, PostgresLock
from payouts.ledger.postgres_planner import PostgresPlanner
from payouts.ledger.postgres_schema import SCHEMA, SCHEMA_NAME
from payouts.ledger.worker import GRACE, LEASE, Worker
from payouts.states import Entry, LeaseLost, LedgerError, LedgerUnavailable, State
from rewards_core.backoff import outage_delay
from rewards_core.clock import boot_id, uptime
from rewards_core.errors import StoreError
from rewards_core.log_limit import LogLimit
from rewards_core.postgres.connection import StatementRefused, address_of
from rewards_core.postgres.engine import Engine
from rewards_core.postgres.groups import Groups
from rewards_core.postgres.migrations import SchemaMissing
from rewards_core.postgres.statements import BlockingConnection, run_work
from rewards_core.secrets import shielded
from rewards_core.validation import check_number, check_path

if TYPE_CHECKING:
    from pathlib import Path

    from payouts.ledger.base import Database, Move
    from payouts.rows import Row
    from payouts.states import InvalidTransition
    from rewards_core.postgres.connection import Connection

T = TypeVar("T")

logger = logging.getLogger(__name__)

_Moves: TypeAlias = "tuple[Sequence[steps.Step], int | None]"
"""Steps of rows, and the worker that must own them."""

_CONNECTIONS = 3
_COMMAND_TIMEOUT = 15.0


class PostgresLedger(CampaignLedger):
    """The rows of one campaign and their states, in a database that any number of workers share.

    Use it inside `async with`, in one event loop. A method returns once its changes are durable, as the settings of the database
    say. All times are the database's. It needs the extra `postgres`, without which importing it raises `ImportError`.

    Args:
        dsn: `"postgresql://user@host/database"`, as for `webhooks.PostgresStore`. Its password appears in no log.
        vendor: The name of the vendor that pays, the `vendor` of its rows.
        campaign: The campaign's name, a part of every key.
        target: Where payments are sent, such as the vendor's base URL; the target of a campaign cannot change.
        schema: The name of the schema in that database, created if missing.
        lease: Seconds for which a worker owns its rows after it last told the database that it lives, above 0. A request that
            pays must take less than half of it.
        grace: Seconds after a lease before the rows of a lost worker are looked up, 0 or more: a request that was under way may
            still be carried out. Not the `grace` of `RunOptions`.
        state: The folder of the note that tells a restored database; by default `rewards-async` in the user's state folder.
        lock: The lock that keeps workers away, if the caller has taken it: a change is refused once it is lost.

    Raises:
        LedgerError: the database cannot be used, or the campaign has another target.
        TypeError: an argument is of another type.
        ValueError: there is no such vendor, a name cannot be used, or the URL cannot be read.
    """

    _planner_type = PostgresPlanner
    shared = True

    @shielded
    def __init__(
        self,
        dsn: str,
        *,
        vendor: str,
        campaign: str,
        target: str = "",
        schema: str = SCHEMA_NAME,
        lease: float = LEASE,
        grace: float = GRACE,
        state: str | Path | None = None,
        lock: PostgresLock | None = None,
    ) -> None:
        super().__init__(vendor=vendor, campaign=campaign, target=target, clock=self._database_time)
        self._engine = engine_of(dsn, schema)
        self.lease = float(check_number(lease, "lease", above=0, unit="seconds"))
        self._grace = float(check_number(grace, "grace", at_least=0, unit="seconds"))
        self._state = None if state is None else check_path(state, "state")
        self._lock = lock
        self._moving = Groups("move rows", self._move_batch, notify=_nothing)
        self._ahead = 0.0
        self._audited_at: float | None = None
        self._log_limit = LogLimit()

    @property
    def where(self) -> str:
        """The database, without its password."""
        return self._engine.address.typed

    async def _open(self) -> None:
        await asyncio.to_thread(boot_id)  # it is read from a file once; audits ask for it on the loop
        self.set_time(await self.call(lambda db: db.fetchval("SELECT now_s()")))
        await self.transact(self._open_campaign)

    async def aclose(self) -> None:
        """Finish the work that waits, and close the connections; a second call does nothing."""
        await self._moving.aclose()
        await self._engine.aclose()

    def set_time(self, now: float) -> None:
        """Take over the database's time."""
        self._ahead = now - uptime()

    def check_opened(self, audited_at: float | None) -> None:
        """Refuse a database that was restored and audited since this ledger was opened.

        Raises:
            LedgerError: it was; rows may have been paid of which this object does not know.
        """
        if audited_at != self._audited_at:
            raise LedgerError(
                f"{self.where} was restored from a copy and released by an audit since this ledger was opened. Nothing more was "
                "sent. Open the ledger again."
            )

    def _plan(self, rows: Sequence[Row], at: float, database: Database) -> list[Entry]:
        entries = super()._plan(rows, at, database)
        self.check_opened(database.execute("SELECT audited_at FROM ledger").get)
        return entries

    def _open_campaign(self, database: Database) -> None:
        self._audited_at = database.execute("SELECT audited_at FROM ledger").get
        super()._open_campaign(database)

    async def transact(self, work: Callable[[Database], T]) -> T:
        """Run work in a transaction and return its result once it is durable; a `LedgerError` undoes it.

        Raises:
            LedgerError: from the work, or because the database failed; then the work was done, or not.
        """
        return await _as_ledger_error(self._engine.transact(lambda connection: run_work(connection, partial(self._locked, work))))

    async def call(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run one statement and return its result once it is durable.

        Raises:
            LedgerError: the database failed; then the statement was carried out, or not.
        """
        return await _as_ledger_error(self._engine.run(work, first=True))

    @asynccontextmanager
    async def one_worker(self, *, rate: float | None = 20.0) -> AsyncIterator[Worker]:
        """Take part in paying the campaign while the block runs; see `Worker.at_work`.

        Args:
            rate: Rows that all workers together send per second, above 0; the lowest rate of a running worker applies. None
                for no limit.

        Raises:
            AuditNeeded: the database may have been restored from an older copy; nothing may be sent before an audit.
            LedgerError: the database failed, or a command such as `payouts resolve` is changing the campaign.
        """
        async with self.new_worker(rate=rate).at_work() as worker:
            yield worker

    def new_worker(self, *, rate: float | None) -> Worker:
        """Return a worker that is not at work yet; any number of them may be at work at a time."""
        return Worker(self, rate=rate, lease=self.lease, grace=self._grace, state=self._state)

    async def move_owned(self, wanted: Sequence[Move], worker: int) -> list[Entry]:
        """Move rows as `move_each`, if a worker owns them; while the database fails this is repeated until they are stored.

        Raises:
            LeaseLost: others own one of the rows now; the other rows have moved.
        """
        return await self._write(self._steps(wanted, self.now()), worker)

    async def pause(self) -> None:
        """Stop all workers from sending rows until `resume`; answers under way are stored."""
        await self._set_condition("paused", "pause")

    async def resume(self) -> None:
        """Let workers send rows again, after `pause` or `stop`."""
        await self._set_condition("running", "resume")

    async def stop(self) -> None:
        """Stop all workers; planned rows stay planned until `resume` and the next worker."""
        await self._set_condition("stopped", "stop")

    async def condition(self) -> str:
        """Return whether the campaign is `"running"`, `"paused"` or `"stopped"`."""
        return str(await self.call(lambda db: db.fetchval("SELECT condition FROM campaigns WHERE number = $1", self._number)))

    async def _set_condition(self, condition: str, kind: decisions.Kind) -> None:
        def change(database: Database) -> None:
            was = database.execute("SELECT condition FROM campaigns WHERE number = ? FOR UPDATE", (self._number,)).get
            if was != condition:
                database.execute("UPDATE campaigns SET condition = ? WHERE number = ?", (condition, self._number))
                decisions.record(database, kind=kind, at=self.now(), campaign=self._number)

        await self.transact(change)

    async def _read(self, work: Callable[[Database], T]) -> T:
        return await _as_ledger_error(self._engine.run(lambda connection: run_work(connection, work)))

    async def _write(self, pairs: Sequence[steps.Step], worker: int | None = None) -> list[Entry]:
        moved = await _as_ledger_error(self._moving.add((pairs, worker), limited=False))
        if isinstance(moved, LedgerError):
            raise moved
        return moved  # type: ignore[no-any-return]  # the rows

    def _locked(self, work: Callable[[Database], T], database: Database) -> T:
        if self._lock is not None:
            self._lock.check(database)
        return work(database)

    def _count_sent(self, _: float, database: Database) -> None:
        database.execute("UPDATE campaigns SET generation = generation + 1 WHERE number = ?", (self._number,))

    def _renew(self, entry: Entry, key: str, at: float, database: Database) -> Entry:
        database.execute("UPDATE row_states SET worker = NULL, claim = NULL WHERE number = ?", (entry.number,))  # for any worker
        return super()._renew(entry, key, at, database)

    def _database_time(self) -> float:
        """Return the database's time in seconds since the epoch, estimated from its last answer and the uptime."""
        return uptime() + self._ahead

    async def _move_batch(self, calls: Sequence[_Moves]) -> tuple[list[list[Entry] | LedgerError], list[Any]]:
        """Write the steps of calls, each by itself; while the database fails, a worker's are repeated: no answer may be lost."""
        repeats = 0
        while True:
            try:
                work = partial(self._write_calls, calls, repeats > 0)
                problems = await self._engine.transact(partial(run_work, work=work))
            except StatementRefused:
                raise
            except StoreError as problem:
                if all(worker is None for _, worker in calls):
                    raise LedgerUnavailable(str(problem)) from None
                if self._log_limit.allows("moves"):
                    logger.warning("the ledger failed; the vendor's answers are kept in memory until it is back: %s", problem)
                await asyncio.sleep(outage_delay(repeats))
                repeats += 1
            else:
                break
        results: list[list[Entry] | LedgerError] = []
        for (pairs, worker), met in zip(calls, problems, strict=True):
            wrong = next(filter(None, met), None)
            if wrong is None:
                results.append([now for _, now in pairs])
            else:
                results.append(wrong if worker is None else LeaseLost(worker))
        return results, []

    def _write_calls(self, calls: Sequence[_Moves], again: bool, database: Database) -> list[list[InvalidTransition | None]]:
        """Write the steps of calls, those of one worker together, and return the problems of each call's steps."""
        problems: list[list[InvalidTransition | None]] = [[] for _ in calls]
        for worker in dict.fromkeys(worker for _, worker in calls):
            places = [place for place, (_, owner) in enumerate(calls) if owner == worker]
            met = iter(_write([step for place in places for step in calls[place][0]], worker, again, database))
            for place in places:
                problems[place] = list(islice(met, len(calls[place][0])))
        if any(now.state is State.SENT for pairs, _ in calls for _, now in pairs):
            self._count_sent(0.0, database)
        return problems


@shielded
def engine_of(dsn: str, schema: str = SCHEMA_NAME, *, read_only: bool = False) -> Engine:
    """Return the engine of a ledger."""
    limits: dict[str, Any] = {"connections": _CONNECTIONS, "command_timeout": _COMMAND_TIMEOUT}
    return Engine(address_of(dsn, "dsn"), SCHEMA, namespace=schema, read_only=read_only, **limits)


@shielded
def connect_to_database(url: str, schema: str | None = None) -> BlockingConnection:
    """Open a ledger read-only, from a thread in which no event loop runs.

    Raises:
        LedgerError: the database cannot be used, or holds no ledger yet.
        ValueError: the URL cannot be read.
        RuntimeError: an event loop runs in this thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # none runs
        pass
    else:
        raise RuntimeError(
            "A ledger in a database is read from a thread in which no event loop runs. In a coroutine, move the call into a "
            "thread: await asyncio.to_thread(...)."
        )
    try:
        return BlockingConnection(engine_of(url, schema or SCHEMA_NAME, read_only=True), LedgerUnavailable)
    except SchemaMissing as missing:
        raise LedgerError(f"{missing} Name the database of an earlier plan with --ledger.") from None


@shielded
def holds_ledger(url: str) -> bool:
    """Return whether a database holds a ledger; errors are those of `connect_to_database`."""
    try:
        BlockingConnection(engine_of(url, read_only=True), LedgerUnavailable).close()
    except SchemaMissing:
        return False
    return True


@shielded
def lock_of(url: str, campaigns: Collection[int] | None) -> PostgresLock:
    """Return the lock of campaigns; if `campaigns` is None, the lock under which files are planned."""
    connect = partial(BlockingConnection, engine_of(url), LedgerUnavailable)
    return PostgresLock(connect, [PLANNING] if campaigns is None else campaigns, grace=GRACE)


async def _as_ledger_error(call: Awaitable[T]) -> T:
    try:
        return await call
    except StatementRefused as problem:  # it would be refused again
        raise LedgerError(str(problem)) from None
    except StoreError as problem:
        raise LedgerUnavailable(str(problem)) from None


def _write(wanted: Sequence[steps.Step], worker: int | None, again: bool, database: Database) -> list[InvalidTransition | None]:
    """Write steps; of those that are written again, each may have been written before."""
    if not again:
        return steps.write_each(wanted, database, worker)
    found = database.execute(
        f"SELECT {COLUMNS} FROM rows WHERE number = ANY(?1::bigint[]) AND (?2::bigint IS NULL OR worker = ?2)",
        ([now.number for _, now in wanted], worker),
    )
    written = {entry.number: entry for entry in map(entry_of, found)}
    left = [place for place, (_, now) in enumerate(wanted) if written.get(now.number) != now]
    problems: list[InvalidTransition | None] = [None] * len(wanted)
    for place, problem in zip(left, steps.write_each([wanted[place] for place in left], database, worker), strict=True):
        problems[place] = problem
    return problems


def _nothing(_: object) -> None:
    """Notify nobody."""
