"""PostgreSQL for stores: the database of commands, schemas whose clock moves only when a test moves it, and a pooler."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from rewards_core.postgres.migrations import migrate
from tests.postgres_server import Server, as_server_user, programs
from tests.webhooks.contract_process import SharedTime
from tests.webhooks.store_contract import EPOCH
from tests.webhooks.store_contract.handlers import HOUR
from webhooks.store import postgres_life, postgres_upkeep
from webhooks.store.postgres import PostgresStore
from webhooks.store.postgres_schema import SCHEMA

OFTEN = 0.05
_numbers = itertools.count(1)
_TABLES = (
    *("identity", "event", "also", "job", "outcome", "conflict", "pending", "process", "interest", "subscription", "served"),
    *("budget", "rate", "meta"),
)
_EMPTY = "; ".join(
    [
        *(f"DELETE FROM {table}" for table in _TABLES),
        "UPDATE moment SET at = '-infinity'",
        f"UPDATE clock SET at = {EPOCH}",
        "SELECT setval('event_id', 1, false), setval('outcome_seq', 1, false)",
    ]
)


def store_in(url: str, schema: str, passed: Path) -> PostgresStore:
    """Return a store object in a schema, on a host whose uptime a file holds; it looks often for what it was not notified of."""
    postgres_life.RENEW_EVERY = OFTEN  # type: ignore[attr-defined]
    postgres_upkeep.uptime = SharedTime(passed).uptime  # type: ignore[attr-defined]
    return PostgresStore(url, schema=schema)


def store_with_its_clock_off(url: str, schema: str, seconds: float) -> PostgresStore:
    """Return a store object of a process whose wall clock is wrong."""
    real = time.time
    time.time = lambda: real() + seconds
    postgres_life.RENEW_EVERY = OFTEN  # type: ignore[attr-defined]
    return PostgresStore(url, schema=schema)


class DatabaseTime:
    """The clock of a database, which a test moves and sets, that of this process, which it sets, and the uptime of its host.

    Attributes:
        schema: The schema whose clock it is.
        passed: The file that holds the uptime.
        stores: The stores in it.
    """

    def __init__(self, url: str, schema: str, passed: Path, connection: Any) -> None:
        self.url = url
        self.schema = schema
        self.passed = passed
        self._host = SharedTime(passed)
        self.connection = connection
        self.wall = EPOCH
        self.stores: list[Any] = []
        self._set_ahead = 0.0

    def clock(self, *, real: Any = time.time) -> float:
        """Return this process's own time."""
        return float(real()) + self._set_ahead

    def uptime(self) -> float:
        return self._host.uptime()

    async def advance(self, seconds: float) -> None:
        stores = self.stores if seconds >= HOUR else []
        for store in stores:  # so that they know the time from which it advances
            await store.renew()
        self._host.move(wall=0.0, passed=seconds)
        await self.set(self.wall + seconds)
        for store in stores:
            await store.renew()

    async def jump(self, seconds: float) -> None:
        self._set_ahead += seconds

    async def set(self, wall: float) -> None:
        """Set the clock of the database."""
        self.wall = wall
        await self.connection.execute("UPDATE clock SET at = $1", wall)

    def open(self, url: str = "", **options: Any) -> PostgresStore:
        """Return another store object in the schema."""
        store = PostgresStore(url or self.url, schema=self.schema, **options)
        self.stores.append(store)
        return store


@asynccontextmanager
async def schema_of_its_own(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DatabaseTime]:
    """Lend an empty schema with a clock that stands still. It is made once and emptied: that takes a tenth of the time."""
    connection = await asyncpg.connect(server.url)
    try:
        schema = server.spare_schemas.pop() if server.spare_schemas else await _make_schema(connection)
        await connection.execute(f"SET search_path = {schema}")
        with tempfile.TemporaryDirectory() as folder:
            moved = DatabaseTime(server.url, schema, Path(folder) / "passed", connection)
            monkeypatch.setattr("time.time", moved.clock)
            monkeypatch.setattr("webhooks.store.postgres_upkeep.uptime", moved.uptime)
            yield moved
        await connection.execute(_EMPTY)
        server.spare_schemas.append(schema)
    finally:
        await connection.close()


@asynccontextmanager
async def schema_at_rest(server: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DatabaseTime]:
    """Lend such a schema, whose stores renew nothing by themselves and are closed at the end."""
    monkeypatch.setattr("webhooks.store.postgres_life.RENEW_EVERY", 3_600.0)
    async with schema_of_its_own(server, monkeypatch) as moved:
        yield moved
        for store in moved.stores:
            await store.aclose()


async def _make_schema(connection: Any) -> str:
    schema = f"test_{next(_numbers)}"
    async with connection.transaction():
        await migrate(connection, schema, SCHEMA)
    await connection.execute(
        f"SET search_path = {schema}; CREATE TABLE clock (at double precision); INSERT INTO clock VALUES ({EPOCH}); "
        "CREATE OR REPLACE FUNCTION now_s() RETURNS double precision LANGUAGE sql VOLATILE "
        f"AS 'SELECT at FROM {schema}.clock'"
    )
    return schema


PASSWORD = "pa55-canary"


def url_of(server: Server, **options: str) -> str:
    """Return the URL of a server's database, with a password that it does not ask for."""
    more = "".join(f"&{name}={value}" for name, value in options.items())
    return f"postgresql://postgres:{PASSWORD}@/postgres?{_place(server)}{more}"


def shown_url(server: Server) -> str:
    """Return that URL as commands show it."""
    return f"postgresql://postgres@/postgres?{_place(server)}"


def _place(server: Server) -> str:
    return f"host={server.folder}" + (f"&port={server.port}" if server.port else "")


def run_sql(server: Server, *statements: str) -> str:
    """Run statements, each in a transaction of its own, and return what they answer."""
    psql = [str(programs() / "psql"), "-h", str(server.folder), "-p", str(server.port or 5432), "-U", "postgres", "-qAt"]
    commands = [part for statement in statements for part in ("-c", statement)]
    done = subprocess.run([*psql, "-v", "ON_ERROR_STOP=1", *commands], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def pooler_before(server: Server, **settings: str) -> Iterator[int]:
    """Run a pooler before a server with a TCP port, in transaction mode unless a setting says otherwise, and lend its port."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    assert Path(program).exists(), "run tests/install_system_parts.sh"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    usual = {"listen_addr": "127.0.0.1", "listen_port": str(port), "unix_socket_dir": "", "auth_type": "any"}
    chosen = {**usual, "pool_mode": "transaction", "default_pool_size": "3", **settings}
    lines = ["[databases]", f"postgres = host=127.0.0.1 port={server.port} user=postgres", "[pgbouncer]"]
    file = server.folder / "pgbouncer.ini"
    file.write_text("\n".join([*lines, *(f"{name} = {value}" for name, value in chosen.items())]) + "\n")
    if os.getuid() == 0:
        os.chown(file, pwd.getpwnam("postgres").pw_uid, -1)
    with subprocess.Popen([program, file], stderr=subprocess.PIPE, text=True, **as_server_user()) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "process up" in line:
                break
        reader = threading.Thread(target=process.stderr.read)  # or the pooler would wait once the pipe is full
        reader.start()
        try:
            yield port
        finally:
            process.send_signal(signal.SIGKILL)
            reader.join()
