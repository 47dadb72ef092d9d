"""A listener with worker processes: its log about them, its TLS, and what it stored."""

from __future__ import annotations

import os
import re
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import trustme

from tests.webhooks.listener_process import ListenerProcess, running
from webhooks.store.sqlite import SQLiteStore

TAKES = "takes deliveries as process"


class Workers:
    """A listener with workers, and its log about them.

    Attributes:
        listener: The supervisor.
        pids: The processes of the workers.
        lines: What was read of the log.
    """

    def __init__(self, listener: ListenerProcess) -> None:
        self.listener = listener
        self.url = listener.url
        self.pids: dict[int, int] = {}
        self.lines: list[str] = []

    async def log_until(self, words: str) -> str:
        """Read the log until a line contains these words."""
        while words not in (line := await self._line()):
            assert line, f"the log ended without {words!r}"
        return line

    async def rest_of_log(self) -> list[str]:
        """Read the log until every process that writes it has exited."""
        while await self._line():
            pass
        return self.lines

    async def replaced(self) -> int:
        """Return the number of the next worker that reports ready."""
        number, pid = re.findall(rf"worker (\d+) {TAKES} (\d+)", await self.log_until(TAKES))[0]
        self.pids[int(number)] = int(pid)
        return int(number)

    async def follow(self) -> None:
        """Read the log and record ready workers as long as the listener runs."""
        while True:
            await self.replaced()

    def kill(self, number: int) -> None:
        """Kill a worker; it is missing from `pids` until it is replaced."""
        os.kill(self.pids.pop(number), signal.SIGKILL)

    async def get(self, path: str) -> tuple[int, str]:
        """Return the admin port's response."""
        async with aiohttp.ClientSession() as session, session.get(self.listener.where["admin"] + path) as answer:
            return answer.status, await answer.text()

    async def metric(self, name: str) -> float:
        """Return the value of one sample."""
        _, text = await self.get("/metrics")
        (value,) = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(value)

    @contextmanager
    def suspended(self, *numbers: int) -> Iterator[None]:
        """Suspend workers."""
        pids = [self.pids[number] for number in numbers]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    @asynccontextmanager
    async def only(self, number: int) -> AsyncIterator[None]:
        """Suspend all workers but one, none of them while it holds the store's lock."""
        while True:
            with self.suspended(*(self.pids.keys() - {number})):
                status, text = await self.get("/readyz")
                if status == 200 and f"worker {number}" not in text:
                    yield
                    return

    async def _line(self) -> str:
        assert self.listener.process.stderr is not None
        line = (await self.listener.process.stderr.readline()).decode()
        self.lines.append(line)
        return line


@asynccontextmanager
async def working(folder: Path, *options: str, workers: int = 2, **more: Any) -> AsyncIterator[Workers]:
    """Start a listener with workers, and wait until all are ready."""
    async with running(folder, "--workers", str(workers), "--log-level", "info", *options, **more) as listener:
        assert listener.where["workers"] == workers
        found = Workers(listener)
        for _ in range(workers):
            await found.replaced()
        assert sorted(found.pids) == list(range(workers))
        try:
            yield found
        except BaseException:  # workers that outlive a killed supervisor must not outlive the test too
            with suppress(ProcessLookupError):
                listener.send_signal(signal.SIGKILL)
            raise


def client(**options: Any) -> aiohttp.ClientSession:
    """Return a client that opens a connection for each delivery."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True, **options))


async def kept(folder: Path) -> set[str]:
    """Return the uids of the events in the store."""
    store = SQLiteStore(folder / "inbox.db")
    try:
        return {one.event.ref.uid for one in await store.list_events(limit=100_000) if one.event.ref is not None}
    finally:
        await store.aclose()


def tls_options(authority: trustme.CA, folder: Path) -> list[str]:
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "cert.pem"))
    return ["--tls-cert", "cert.pem"]


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
