"""A few connections to one PostgreSQL database, for statements and short transactions that may be repeated.

A commit counts when the server says so, and when its synchronous standby has it, if there is one. While the server does not
answer, one call at a time tries it and the others fail at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from rewards_core.clock import loop_time
from rewards_core.errors import StoreError
from rewards_core.log_limit import LogLimit
from rewards_core.postgres.connection import (
    DATABASE_ERRORS,
    OLDEST,
    REPEATABLE_ERRORS,
    STALE_ERRORS,
    Address,
    Connection,
    StatementRefused,
    as_store_error,
    connect,
    is_of_transaction_pool,
    is_unicode,
    is_usable,
    literal,
    quoted,
    tell_answered,
)
from rewards_core.postgres.migrations import Schema, layout_of, migrate

T = TypeVar("T")

logger = logging.getLogger(__name__)

KEPT = 2
"""Connections that are kept for calls with `first`, of more than these."""
MAX_WAITING = 1_000
"""Calls that wait for a connection; further ones fail at once."""
MAX_IDLE = 60.0
"""Seconds after which an idle connection is replaced: firewalls and load balancers forget it without a word."""

ATTEMPTS = 5
CLOSE_WITHIN = 2.0
_KEEP_SYNCHRONOUS = (
    "SELECT set_config('synchronous_commit', 'on', {local}) "
    "WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')"
)
_COMMIT = "SELECT pg_logical_emit_message(true, 'rewards', ''); COMMIT"
"""A commit that writes to the log waits for the standby. Even if the transaction found everything done, it may have found a
commit whose own wait for the standby was cancelled."""


class Engine:
    """Run statements and transactions; connections are opened at the first call.

    Args:
        address: The database.
        schema: The tables, created or migrated when the first connection opens.
        namespace: The name of the schema.
        connections: Maximum number of connections at a time; some are kept for calls with `first`.
        command_timeout: Seconds that a statement, or a wait for a connection, may take.
        read_only: Whether no call may change anything; then the schema must exist.
    """

    def __init__(
        self,
        address: Address,
        schema: Schema,
        *,
        namespace: str,
        connections: int,
        command_timeout: float,
        read_only: bool = False,
    ) -> None:
        self.address = address
        self.command_timeout = command_timeout
        self._schema = schema
        self._read_only = read_only
        self._namespace = namespace
        self._connections = connections
        self._kept = min(KEPT, connections - 1)
        self._settings = {
            "search_path": quoted(namespace),
            "application_name": "rewards-async",
            "statement_timeout": _milliseconds(command_timeout * 0.9),  # so a healthy server answers before we give up
            "lock_timeout": _milliseconds(command_timeout * 0.8),
            "idle_in_transaction_session_timeout": _milliseconds(command_timeout * 2.0),
            "plan_cache_mode": "force_generic_plan",
            "enable_seqscan": "off",  # a plan that was made while the tables were small would scan them for ever
            "jit": "off",
            "max_parallel_workers_per_gather": "0",  # a plan without values expects many rows where a statement returns few
        }
        self._pid: int | None = None
        self._home: asyncio.AbstractEventLoop | None = None
        self._slots = self._first_slots = asyncio.Semaphore(connections)
        self._idle: list[Connection] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._pooled = False
        self._migrated = False
        self._waiting = self._active = 0
        self._silent = False
        self._log_limit = LogLimit()

    @property
    def pooled(self) -> bool:
        """Whether a pooler may give each transaction another session."""
        return self._pooled

    @property
    def forked(self) -> bool:
        """Whether this process was forked from a process that used the engine."""
        return self._pid is not None and self._pid != os.getpid()

    async def run(self, work: Callable[[Connection], Awaitable[T]], *, first: bool = False) -> T:
        """Run one statement, whose effect is durable when this returns. It must be idempotent.

        Args:
            work: Runs the statement.
            first: Whether it waits for no call without `first`.

        Raises:
            StoreError: the database failed or does not answer; the statement may or may not have had its effect.
        """
        return await self._repeat(lambda connection: self.run_on(connection, work), first=first)

    async def transact(self, work: Callable[[Connection], Awaitable[T]], *, first: bool = False) -> T:
        """Run several statements in a transaction, which is durable when this returns. They must be idempotent together.

        Args and errors are those of `run`.
        """
        return await self._repeat(lambda connection: self._transact_on(connection, work), first=first)

    async def run_on(self, connection: Connection, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run one statement on a connection, as `run` does; raise what the database raises."""
        if self._pooled:
            return await self._transact_on(connection, work)
        connection.warning = None
        result = await work(connection)
        _check_commit(connection)
        return result

    async def connect(self) -> Connection:
        """Open a connection beside the others, which the caller closes. Raises `StoreError`."""
        self._check_usable()
        problem: BaseException
        try:
            return await self._connect()
        except DATABASE_ERRORS as error:
            problem = error
        raise as_store_error(problem, self.address)

    def check_answering(self) -> None:
        """Raise `StoreError` if the server has not answered in time and a call is trying it again."""
        self._check_usable()
        if self._silent and self._active:
            raise StoreError(
                f"{self.address} has not answered for {self.command_timeout:g} s. Nothing was read or written by this call. It "
                "is tried again without restart."
            )

    async def aclose(self) -> None:
        """Wait for the calls in flight and close the connections; does nothing in a forked child."""
        if self.forked or self._home is not asyncio.get_running_loop():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self.command_timeout):
                for slots, count in ((self._first_slots, self._kept), (self._slots, self._connections - self._kept)):
                    for _ in range(count):
                        await slots.acquire()
        self._close_idle()
        while self._closing:
            await asyncio.wait(self._closing)

    def close(self, connection: Connection) -> None:
        """Close a connection in the background, after a request in flight was cancelled at the server."""
        task = asyncio.get_running_loop().create_task(_close(connection), name="close a connection")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _repeat(self, work: Callable[[Connection], Awaitable[T]], *, first: bool) -> T:
        """Run work on a connection, again after a deadlock; raise what the database raises as `StoreError`."""
        problem: BaseException
        for _ in range(ATTEMPTS):
            try:
                return await self._lend(work, self._first_slots if first else self._slots)
            except REPEATABLE_ERRORS as error:
                problem = error
            except (*DATABASE_ERRORS, StoreError) as error:
                problem = error
                if self._pooled or not is_of_transaction_pool(error):
                    break
                self._use_pooler()
        failure = as_store_error(problem, self.address)
        if not isinstance(failure, StatementRefused) and self._log_limit.allows(str(failure)):
            logger.error("a call of the store failed; its caller gets this error: %s", failure)
        del problem
        raise failure

    async def _lend(self, work: Callable[[Connection], Awaitable[T]], slots: asyncio.Semaphore) -> T:
        self.check_answering()
        await self._wait_for_slot(slots)
        connection: Connection | None = None
        problem: BaseException | None = None
        try:
            self.check_answering()
            self._active += 1
            try:
                connection = self._next_idle() or await self._connect()
                return await work(connection)
            except BaseException as error:
                problem = error
                raise
            finally:
                self._active -= 1
                self._silent = isinstance(problem, TimeoutError) or (self._silent and not tell_answered(problem))
                if connection is not None:
                    self._give_back(connection, problem)
                problem = None
        finally:
            slots.release()

    async def _wait_for_slot(self, slots: asyncio.Semaphore) -> None:
        if slots is self._slots and slots.locked() and self._waiting >= MAX_WAITING:
            raise StoreError(f"{self.address} is slow and {MAX_WAITING:,} calls wait for it. Repeat this one later.")
        self._waiting += 1
        try:
            async with asyncio.timeout(self.command_timeout):
                await slots.acquire()
        except TimeoutError:
            raise StoreError(
                f"All {self._connections} connections to {self.address} were busy for {self.command_timeout:g} s. Nothing was "
                "read or written by this call; repeat it later, or allow more connections."
            ) from None
        finally:
            self._waiting -= 1

    def _next_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_closed():
                continue
            if loop_time() - connection.idle_since <= MAX_IDLE:
                return connection
            self.close(connection)
        return None

    def _give_back(self, connection: Connection, problem: BaseException | None) -> None:
        if is_usable(connection, problem):
            connection.idle_since = loop_time()
            self._idle.append(connection)
            return
        self.close(connection)
        if isinstance(problem, STALE_ERRORS):
            self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self.close(self._idle.pop())

    async def _connect(self) -> Connection:
        try:
            connection = await self._open()
        except DATABASE_ERRORS as problem:
            if self._pooled or not is_of_transaction_pool(problem):
                raise
            self._use_pooler()
            connection = await self._open()
        try:
            major = connection.get_server_version().major
            if major < OLDEST:
                raise StoreError(f"{self.address} is version {major}. Use PostgreSQL {OLDEST} or newer.")
            if not is_unicode(connection):
                encoding = connection.get_settings().server_encoding
                raise StoreError(
                    f"The encoding of {self.address} is {encoding}, which cannot hold every text. Create a database with the "
                    "encoding UTF8."
                )
            if not self._pooled:
                await connection.execute(_KEEP_SYNCHRONOUS.format(local="false"))
            if self._migrated:
                await layout_of(connection, self._namespace, self._schema)  # a newer version may have migrated it meanwhile
            else:
                async with connection.transaction():  # behind a pooler, the next statement may have another session
                    await migrate(connection, self._namespace, self._schema, create=not self._read_only)
                self._migrated = True
            if self._read_only:  # only now: servers that are read-only from the start are taken for standbys
                await connection.execute("SET default_transaction_read_only = on")
        except BaseException:
            self.close(connection)
            raise
        return connection

    async def _open(self) -> Connection:
        return await connect(
            self.address,
            settings={} if self._pooled else self._settings,
            connect_timeout=self.command_timeout,
            command_timeout=self.command_timeout,
            prepared=not self._pooled,
        )

    def _use_pooler(self) -> None:
        """From now on, run everything in transactions that bring their settings along."""
        if not self._pooled:
            logger.info(
                "%s is behind a pooler in transaction mode, so every call is a transaction of its own and no statement stays "
                "prepared, which is slower. Connect to PostgreSQL directly, or to a session pool that passes settings on.",
                self.address,
            )
        self._pooled = True
        self._close_idle()

    async def _transact_on(self, connection: Connection, work: Callable[[Connection], Awaitable[T]]) -> T:
        connection.warning = None
        await connection.execute(self._begin())
        try:
            result = await work(connection)
            await connection.execute(_COMMIT)
        except Exception as problem:
            if not connection.is_closed() and (tell_answered(problem) or not isinstance(problem, DATABASE_ERRORS)):
                with suppress(*DATABASE_ERRORS):
                    await connection.execute("ROLLBACK")
            raise
        _check_commit(connection)
        return result

    def _begin(self) -> str:
        if not self._pooled:
            return "BEGIN"
        settings = ", ".join(f"set_config('{name}', {literal(value)}, true)" for name, value in self._settings.items())
        return f"BEGIN; SELECT {settings}; {_KEEP_SYNCHRONOUS.format(local='true')}"

    def _check_usable(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is self._home and self._pid == os.getpid():
            return
        if self.forked:
            raise StoreError(f"{self.address} was opened before this process was forked. Make the store after the fork.")
        if self._home is not None and not self._home.is_closed():
            raise StoreError(f"{self.address} is in use by another event loop. Make a store for each loop.")
        self._pid, self._home = os.getpid(), loop
        self._idle, self._closing = [], set()
        self._slots = self._first_slots = asyncio.Semaphore(self._connections - self._kept)
        if self._kept:
            self._first_slots = asyncio.Semaphore(self._kept)
        self._waiting = self._active = 0


def _check_commit(connection: Connection) -> None:
    if connection.warning is not None:
        raise StoreError(
            "The wait for the synchronous standby was cancelled, so the change may be lost at a failover. Nothing was "
            "acknowledged; the call may be repeated."
        )


async def _close(connection: Connection) -> None:
    with suppress(Exception):
        await connection.close(timeout=CLOSE_WITHIN)


def _milliseconds(seconds: float) -> str:
    return str(max(1, round(seconds * 1_000)))
