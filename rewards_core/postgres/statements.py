"""Statements for code that does not await, so that one and the same code serves SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from rewards_core.errors import StoreError
from rewards_core.install_hint import install_hint
from rewards_core.postgres.connection import DATABASE_ERRORS, as_store_error
from rewards_core.postgres.migrations import SchemaMissing

try:
    from greenlet import getcurrent, greenlet
except ImportError:
    raise ImportError(f"PostgreSQL needs the package greenlet. Run {install_hint('postgres')}.") from None

if TYPE_CHECKING:
    from rewards_core.postgres.connection import Connection
    from rewards_core.postgres.engine import Engine

T = TypeVar("T")

_placeholder = re.compile(r"\?(\d*)")


class Rows(list[Any]):
    """The rows that a statement returned."""

    @property
    def get(self) -> Any:
        """The first row, or its value if it has only one; None without a row."""
        if not self:
            return None
        return self[0][0] if len(self[0]) == 1 else tuple(self[0])

    def fetchall(self) -> Rows:
        """Return the rows."""
        return self


class Statements:
    """Run statements on a connection. Placeholders are those of SQLite, `?` and `?1`.

    Args:
        connection: The connection.
        result: Waits for what the connection does, and returns its result.
    """

    def __init__(self, connection: Connection, result: Callable[[Awaitable[Any]], Any]) -> None:
        self._connection = connection
        self._result = result

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Rows:
        """Run a statement and return its rows."""
        return Rows(self._result(self._connection.fetch(_numbered(statement), *values)))

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row of values."""
        self._result(self._connection.executemany(_numbered(statement), rows))

    def copy(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Add rows to a table by COPY."""
        self._result(self._connection.copy_records_to_table(table, columns=columns, records=rows))


async def run_work(connection: Connection, work: Callable[[Statements], T]) -> T:
    """Run work whose statements are awaited here, while it pauses in a greenlet of its own."""
    here = getcurrent()
    pausing = greenlet(work)
    given = pausing.switch(Statements(connection, here.switch))
    while not pausing.dead:
        try:
            result = await given
        except BaseException as problem:  # noqa: BLE001 - the work gets it
            given = pausing.throw(problem)
        else:
            given = pausing.switch(result)
    return given  # type: ignore[no-any-return]  # what the work returned


class BlockingConnection(Statements):
    """A connection of a thread's own, in which no event loop runs; a statement has ended when its call returns.

    Args:
        engine: Where it is from.
        error: Made of the message if, here or at a call, the database failed or does not answer.

    Raises:
        SchemaMissing: the schema is not to be created, and is missing.
    """

    def __init__(self, engine: Engine, error: Callable[[str], Exception] = StoreError) -> None:
        self._engine = engine
        self._error = error
        self._loop = asyncio.new_event_loop()
        try:
            connection = self._loop.run_until_complete(engine.connect())
        except BaseException as problem:
            self._loop.run_until_complete(engine.aclose())
            self._loop.close()
            if isinstance(problem, SchemaMissing) or not isinstance(problem, StoreError):
                raise
            raise error(str(problem)) from None
        super().__init__(connection, self._until_complete)
        if engine.pooled:  # its settings and locks are those of a session
            self.close()
            raise error(
                f"{engine.address} is behind a pooler in transaction mode. Give the URL of PostgreSQL itself, or of a pool of "
                "sessions."
            )

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        if not self._loop.is_closed():
            self._loop.run_until_complete(self._end())
            self._loop.close()

    async def _end(self) -> None:
        self._engine.close(self._connection)
        await self._engine.aclose()

    def _until_complete(self, awaited: Awaitable[T]) -> T:
        try:
            return self._loop.run_until_complete(_await(awaited))
        except DATABASE_ERRORS as problem:
            told = str(as_store_error(problem, self._engine.address))
        raise self._error(told)


async def _await(awaited: Awaitable[T]) -> T:
    return await awaited


@lru_cache(maxsize=1_024)
def _numbered(statement: str) -> str:
    """Return a statement with the placeholders of PostgreSQL."""
    count = 0

    def number(found: re.Match[str]) -> str:
        nonlocal count
        count += 1
        return f"${found[1] or count}"

    return _placeholder.sub(number, statement)
