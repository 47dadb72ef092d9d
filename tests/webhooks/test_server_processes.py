"""Servers of several processes on one store: nothing is refused, nothing acknowledged is lost, every event is handled.

The test owns the listening socket and the servers inherit it, so that a connection made while processes come and go waits for
the next one, as under a supervisor that keeps its sockets.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.webhooks.listener_process import delivery, environment, signed
from webhooks.store.sqlite import SQLiteStore

pytestmark = pytest.mark.timeout(900)

PATH = "/webhooks/original"
CONNECTIONS = 12
WORKERS = 3
PAUSE = 0.03
"""Seconds after which a connection sends its next delivery, so that servers have time to start."""
UNHURRIED = "600"
"""Seconds after which a server may consider one of its processes stuck."""


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as made:
        yield made


class Server:
    """The processes of a server, and what they printed."""

    def __init__(self, process: asyncio.subprocess.Process, heard: Heard) -> None:
        self.process = process
        self._reading = asyncio.create_task(heard.listen(process))

    def send_signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Return the exit code, once all its processes have ended."""
        code = await self.process.wait()
        await self._reading
        return code

    async def kill(self) -> None:
        """Kill what is left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.ended()


class Heard:
    """What the processes of servers printed.

    Attributes:
        said: `up` or `down` to the processes, in order.
        ran: Uid to how often its handler ran.
    """

    def __init__(self) -> None:
        self.said: dict[str, list[int]] = {"up": [], "down": []}
        self.ran: Counter[str] = Counter()
        self._changed = asyncio.Condition()

    async def listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            word, _, rest = line.decode().strip().partition(" ")
            if word == "ran":
                self.ran[rest] += 1
            else:
                self.said[word].append(int(rest))
            async with self._changed:
                self._changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(condition)

    async def more(self, *, up: int = 0, down: int = 0) -> None:
        """Wait until this many more processes have started and ended."""
        wanted = len(self.said["up"]) + up, len(self.said["down"]) + down
        await self.until(lambda: len(self.said["up"]) >= wanted[0] and len(self.said["down"]) >= wanted[1])


@asynccontextmanager
async def serving(folder: Path, heard: Heard, listening: socket.socket, *command: str) -> AsyncIterator[Server]:
    """Run a server; it is killed if the test does not stop it."""
    listening.set_inheritable(True)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        start_new_session=True,
        pass_fds=[listening.fileno()],
    )
    server = Server(process, heard)
    try:
        yield server
    finally:
        await server.kill()


def uvicorn(listening: socket.socket) -> list[str]:
    program = ["-m", "uvicorn", "tests.webhooks.server_app:app", "--fd", str(listening.fileno()), "--log-level", "warning"]
    return [*program, "--workers", str(WORKERS), "--timeout-worker-healthcheck", UNHURRIED]


def gunicorn(listening: socket.socket, *options: str) -> list[str]:
    program = ["-m", "gunicorn", "tests.webhooks.server_app:app", "--worker-class", "uvicorn_worker.UvicornWorker"]
    program += ["--bind", f"fd://{listening.fileno()}", "--no-control-socket", "--log-level", "warning"]
    return [*program, "--workers", str(WORKERS), "--timeout", UNHURRIED, "--graceful-timeout", UNHURRIED, *options]


class Connection:
    """One connection of a client that retries a delivery only if it received no byte of a response."""

    def __init__(self, host: str, port: int) -> None:
        self._where = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def post(self, body: bytes) -> int:
        """Return the status."""
        head = "".join(f"{name}: {value}\r\n" for name, value in signed(body).items())
        request = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        while True:
            if self._streams is None:
                self._streams = await asyncio.open_connection(*self._where)
            reader, writer = self._streams
            try:
                writer.write(request)
                await writer.drain()
                first = await reader.read(1)
            except ConnectionError:
                first = b""
            if first:
                return await self._read(reader, first)
            self.close()

    async def _read(self, reader: asyncio.StreamReader, first: bytes) -> int:
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = [line.partition(":")[2] for line in head.splitlines() if line.startswith("content-length:")]
        await reader.readexactly(int(length[0]) if length else 0)
        if "connection: close" in head:
            self.close()
        return int(head.split()[1])

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Load:
    """Deliveries over many connections, and their responses.

    Attributes:
        acknowledged: The uids answered 200.
        answers: Status to how often it was answered.
    """

    def __init__(self, host: str, port: int, *, complete: bool = True) -> None:
        self.acknowledged: set[str] = set()
        self.answers: Counter[int] = Counter()
        self._where = host, port
        self._complete = complete
        self._next = 0
        self._changed = asyncio.Condition()

    async def more(self, count: int) -> None:
        """Wait until this many more deliveries are acknowledged."""
        wanted = len(self.acknowledged) + count
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.acknowledged) >= wanted or set(self.answers) > {200})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver continuously; deliveries in progress at the end are answered."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._send(stop))
            try:
                yield
            finally:
                stop.set()

    async def _send(self, stop: asyncio.Event) -> None:
        connection = Connection(*self._where)
        try:
            while not stop.is_set():
                self._next += 1
                uid = f"{self._next:012}"
                status = await connection.post(delivery(uid, complete=self._complete or self._next % 3 > 0))
                self.answers[status] += 1
                if status == 200:
                    self.acknowledged.add(uid)
                async with self._changed:
                    self._changed.notify_all()
                await asyncio.sleep(PAUSE)
        finally:
            connection.close()


@pytest.fixture
def times(soak: bool) -> int:
    """How often each server or worker is replaced."""
    return 10 if soak else 1


async def kept(path: Path) -> set[str]:
    store = SQLiteStore(path)
    try:
        return {one.event.ref.uid for one in await store.list_events(limit=1_000_000) if one.event.ref is not None}
    finally:
        await store.aclose()


async def everything_was_kept_and_handled(folder: Path, load: Load, ran: Counter[str]) -> None:
    assert set(load.answers) == {200}
    assert load.acknowledged <= await kept(folder / "inbox.db")
    assert load.acknowledged <= ran.keys()


async def end(server: Server, heard: Heard, load: Load) -> None:
    """Wait until every event is handled, then stop the server."""
    await heard.until(lambda: load.acknowledged <= heard.ran.keys())
    server.send_signal(signal.SIGTERM)
    assert await server.ended() == 0


@pytest.mark.slow
async def test_uvicorn_workers_store_and_handle_what_they_acknowledge(tmp_path: Path, listening: socket.socket) -> None:
    heard, load = Heard(), Load(*listening.getsockname())
    async with serving(tmp_path, heard, listening, *uvicorn(listening)) as server:
        async with load.running():  # from the start on: the first deliveries wait for the first worker
            await heard.more(up=WORKERS)
            await load.more(100)
        await end(server, heard, load)
        assert len(set(heard.said["up"])) == WORKERS
        assert sorted(heard.said["down"]) == sorted(heard.said["up"])
    await everything_was_kept_and_handled(tmp_path, load, heard.ran)


@pytest.mark.parametrize("preload", [True, pytest.param(False, marks=pytest.mark.soak)], ids=["preload", "each for itself"])
@pytest.mark.slow
async def test_gunicorn_replaces_all_its_workers_at_once(
    tmp_path: Path, listening: socket.socket, preload: bool, times: int
) -> None:
    heard, load = Heard(), Load(*listening.getsockname())
    async with serving(tmp_path, heard, listening, *gunicorn(listening, *(["--preload"] * preload))) as server:
        async with load.running():
            await heard.more(up=WORKERS)
            for _ in range(times):
                await load.more(50)
                server.send_signal(signal.SIGHUP)
                await heard.more(up=WORKERS, down=WORKERS)
            await load.more(50)
        await end(server, heard, load)
        assert len(set(heard.said["up"])) == (times + 1) * WORKERS
    await everything_was_kept_and_handled(tmp_path, load, heard.ran)


@pytest.mark.slow
async def test_gunicorn_replaces_its_workers_continuously(tmp_path: Path, listening: socket.socket, times: int) -> None:
    heard, load = Heard(), Load(*listening.getsockname())
    options = ("--preload", "--max-requests", "20", "--max-requests-jitter", "20")
    async with serving(tmp_path, heard, listening, *gunicorn(listening, *options)) as server:
        async with load.running():
            await heard.more(up=(times + 1) * WORKERS, down=times * WORKERS)
        await end(server, heard, load)
    await everything_was_kept_and_handled(tmp_path, load, heard.ran)


@pytest.mark.slow
async def test_a_rolling_restart_has_no_gap(tmp_path: Path, listening: socket.socket, times: int) -> None:
    heard, load = Heard(), Load(*listening.getsockname())
    program = ("-m", "tests.webhooks.server_app", str(listening.fileno()))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tmp_path, heard, listening, *program))
        async with load.running():
            await load.more(20)
            for _ in range(times):
                older = server
                server = await stack.enter_async_context(serving(tmp_path, heard, listening, *program))
                await heard.until(lambda pid=server.process.pid: pid in heard.said["up"])  # type: ignore[misc]
                await load.more(50)  # both take deliveries
                older.send_signal(signal.SIGTERM)
                assert await older.ended() == 0
                await load.more(50)
        await end(server, heard, load)
    await everything_was_kept_and_handled(tmp_path, load, heard.ran)
