"""One connection that receives notifications from other processes."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from rewards_core.backoff import JITTER, delay
from rewards_core.errors import StoreError
from rewards_core.postgres.connection import DATABASE_ERRORS, as_store_error

if TYPE_CHECKING:
    from rewards_core.postgres.connection import Connection
    from rewards_core.postgres.engine import Engine

T = TypeVar("T")

logger = logging.getLogger(__name__)

PROBE_EVERY = 3.0
"""Seconds between two probes of a connection: a half-open one is silent."""
ANSWER_WITHIN = 2.0
"""Seconds after which a probe counts as lost."""
FIRST_DELAY, _MAX_DELAY = 0.25, 8.0


class Listener:
    """Receive the notifications of one channel; after any gap, `gap` is called once the connection is back.

    Args:
        engine: Opens the connection.
        channel: The channel of this process.
        hear: Called with each payload.
        gap: Called after a time in which notifications may have been lost.
    """

    def __init__(self, engine: Engine, channel: str, *, hear: Callable[[str], None], gap: Callable[[], None]) -> None:
        self._engine = engine
        self._channel = channel
        self._hear = hear
        self._gap = gap
        self._connection: Connection | None = None
        self._lock = asyncio.Lock()
        self._lost = asyncio.Event()
        self._echo = asyncio.Event()
        self._deaf = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start to receive notifications; a lost connection is opened again until `stop`. Raises `StoreError`."""
        async with self._lock:
            if self._task is None:
                self._connection = await self._listen()
                self._task = asyncio.create_task(self._stay(), name="listen for notifications")

    async def stop(self) -> None:
        """Close the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._drop()

    async def run(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """Run a read on this connection, whose snapshots follow one another. Raises `StoreError`, also while it is lost."""
        problem: BaseException
        async with self._lock:
            if self._connection is None:
                raise StoreError(f"The connection for notifications to {self._engine.address} is lost and is opened again.")
            try:
                return await self._engine.run_on(self._connection, work)
            except DATABASE_ERRORS as error:
                self._lost.set()
                problem = error
        raise as_store_error(problem, self._engine.address)

    async def _listen(self) -> Connection:
        connection = await self._engine.connect()
        problem: BaseException
        try:
            lost = self._lost = asyncio.Event()  # the end of an earlier connection does not concern this one
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(self._channel, self._receive)
            await self._check_hearing()
        except DATABASE_ERRORS as error:
            self._engine.close(connection)
            problem = error
        except BaseException:
            self._engine.close(connection)
            raise
        else:
            return connection
        raise as_store_error(problem, self._engine.address)

    def _receive(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        if payload == "":
            self._echo.set()
        else:
            self._hear(str(payload))

    async def _check_hearing(self) -> None:
        """Notify ourselves by another connection: behind a pooler, a session that listens is soon another's."""
        self._echo.clear()
        await self._engine.run(lambda other: other.execute("SELECT pg_notify($1, '')", self._channel))
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                await self._echo.wait()
            self._deaf = False
        except TimeoutError:
            if not self._deaf:
                self._deaf = True
                logger.warning(
                    "%s delivers no notifications, as behind a pooler in transaction mode: waiters wake at the renewal, every "
                    "10 s. Connect to PostgreSQL directly, or to a pool in session mode.",
                    self._engine.address,
                )

    async def _stay(self) -> None:
        """Probe the connection, and open it again when it is lost or anything else fails."""
        failures = 0
        while True:
            try:
                if self._connection is not None:
                    await self._until_lost(self._connection)
                    logger.warning("the connection for notifications to %s was lost and is opened again", self._engine.address)
                    self._drop()
                async with self._lock:
                    self._connection = await self._listen()
                self._gap()
                failures = 0
            except Exception as problem:  # nobody else would notice the end of this task
                self._drop()
                unexpected = None if isinstance(problem, StoreError) else problem
                logger.warning(
                    "notifications of %s cannot be received yet: %s", self._engine.address, problem, exc_info=unexpected
                )
                pause = delay(failures, first=FIRST_DELAY, longest=_MAX_DELAY, jitter=JITTER, chance=random.random())  # noqa: S311 - no secret
                failures += 1
                await asyncio.sleep(pause)

    def _drop(self) -> None:
        if self._connection is not None:
            self._engine.close(self._connection)
            self._connection = None

    async def _until_lost(self, connection: Connection) -> None:
        while not self._lost.is_set():
            try:
                async with asyncio.timeout(PROBE_EVERY):
                    await self._lost.wait()
            except TimeoutError:
                pass
            else:
                return
            try:
                async with self._lock, asyncio.timeout(ANSWER_WITHIN):
                    await connection.execute("SELECT 1")
            except DATABASE_ERRORS:
                return
