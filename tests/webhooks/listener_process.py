"""A real listener in processes of its own, with workers or without, signed deliveries to it, and what it stored of them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import ssl
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import trustme

from original_async import OriginalWebhooks
from webhooks.store.sqlite import SQLiteStore

ROOT = Path(__file__).resolve().parents[2]
KEY_ID, SECRET = "4o3vfxtcmo7b", "a webhook secret of some length"
KEYS = f"{KEY_ID}:a_webhook_secret_of_some_length"
SECRETS = {KEY_ID: "a_webhook_secret_of_some_length"}
SOURCE = OriginalWebhooks(SECRETS)
APP = {"uid": "UB2DG8MW5KBQ", "name": "App", "region": "EU", "environment": "Development"}


def delivery(uid: str, *, complete: bool = True, name: str = "reward.allocated", **words: Any) -> bytes:
    """Return the body of an event about an allocation."""
    resource: dict[str, Any] = {"uid": uid}
    if complete:
        resource |= {
            "status": "done",
            "reward_uid": "151854912345",
            "to_user_uid": "754566475542",
            "amount": "1.23",
            "nonce": f"nonce_{uid}",
            "created_at": "2023-08-10T14:07:14.494142Z",
        }
    return json.dumps({"data": {"app": APP, "allocation": resource | words}, "event": name, "sent_at": "now"}).encode()


def signed(body: bytes, source: OriginalWebhooks = SOURCE) -> dict[str, str]:
    """Return the headers of a delivery."""
    return {"x-webhook-signature": source.sign(body), "Content-Type": "application/json"}


@asynccontextmanager
async def killed_at_the_end(process: Process) -> AsyncIterator[Process]:
    """Lend the first process of a session, and kill what is left of the session."""
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


class ListenerProcess:
    """A running `serve`.

    Attributes:
        process: The process.
        where: What it said about where it listens.
        folder: Where it runs; its store is `inbox.db` there.
    """

    def __init__(self, process: Process, where: Mapping[str, Any], folder: Path) -> None:
        self.process = process
        self.where = where
        self.folder = folder
        self.url = f"{where.get('url', 'http://listener')}/webhooks/original"

    def send_signal(self, number: int) -> None:
        """Signal its process group, if it still runs."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    async def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def stop(self) -> int:
        """Stop it, and return its exit code."""
        if self.process.returncode is None:
            self.send_signal(signal.SIGTERM)
        return await self.process.wait()

    async def log_until(self, words: str) -> str:
        """Read its log until a line contains these words, and return that line."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            if words in line.decode():
                return line.decode()
        raise AssertionError(f"the log ended without {words!r}")


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORIGINAL_", "WEBHOOK_"))}
    return {**kept, "PYTHONPATH": str(ROOT), "ORIGINAL_WEBHOOK_KEYS": KEYS, "COLUMNS": "200", **more}


async def start(
    folder: Path,
    *options: str,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    program: Sequence[str] = ("-m", "webhooks"),
    command: Sequence[str] = ("serve", "--admin-port", "0"),
    where: Callable[[bytes], Mapping[str, Any]] = json.loads,
    listens: bool = True,
) -> ListenerProcess:
    """Start a listener, and return it once its first line says `where` it listens."""
    process = await asyncio.create_subprocess_exec(
        *prefix,
        sys.executable,
        *program,
        *command,
        *(("--port", "0") if listens else ()),
        *options,
        cwd=folder,
        env=environment(**(env or {})),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        _, words = await process.communicate()
        raise AssertionError(f"the listener did not start: {words.decode()}")
    return ListenerProcess(process, where(line), folder)


@asynccontextmanager
async def running(folder: Path, *options: str, **more: Any) -> AsyncIterator[ListenerProcess]:
    """Start a listener; stop it at the end, or kill it after a timeout."""
    listener = await start(folder, *options, **more)
    try:
        yield listener
    finally:
        if listener.process.returncode is None:
            listener.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(120):
                    await listener.process.wait()
            except TimeoutError:
                await listener.kill()


async def post(session: aiohttp.ClientSession, url: str, body: Any, headers: Mapping[str, str] | None = None) -> int:
    """Deliver a body, signed unless headers are given, and return the status."""
    async with session.post(url, data=body, headers=signed(body) if headers is None else headers) as answer:
        return answer.status


async def kept(folder: Path) -> list[Any]:
    store = SQLiteStore(folder / "inbox.db")
    try:
        return list(await store.list_events(limit=100_000))
    finally:
        await store.aclose()


async def get(url: str, **headers: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, await answer.text()


async def half_sent(listener: ListenerProcess, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a delivery except its last byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(listener.where["url"].rpartition(":")[2]))
    head = "".join(f"{name}: {value}\r\n" for name, value in signed(body).items())
    writer.write(f"POST /webhooks/original HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-1])
    await writer.drain()
    return reader, writer


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


async def kept_uids(folder: Path) -> set[str]:
    """Return the uids of the events in the store."""
    return {one.event.ref.uid for one in await kept(folder) if one.event.ref is not None}


def tls_options(authority: trustme.CA, folder: Path) -> list[str]:
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "cert.pem"))
    return ["--tls-cert", "cert.pem"]


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context
