"""The commands of `webhook-listener`, run as functions or processes: what they print, and how they end."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from typer.testing import CliRunner, Result

from tests.rewards_core.sqlite_kit import Other, other_process
from tests.webhooks.listener_process import (
    KEY_ID,
    ListenerProcess,
    environment,
    post,
    running,
    signed,
)
from tests.webhooks.store_contract import claim, event, ref, resource, wants
from webhooks.cli import app
from webhooks.store.sqlite import SQLiteStore

FORWARD = "forward /webhooks/original"
STRANGE = "a\x1b[31mred\x1b[0m\u202eevil\x07"
"""What a stranger may say; a terminal must not obey it."""
CONTROL = frozenset("\x1b\x07\u202e")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def lines(result: Result) -> list[dict[str, Any]]:
    """Return what a program reads of a command that ended well."""
    assert result.exit_code == 0, result.stderr
    return records(result)


def records(result: Result) -> list[dict[str, Any]]:
    """Return what a program reads, however the command ended."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def screen(*arguments: str) -> list[str]:
    """Return the lines that a person sees of a command that ended well."""
    result = run(*arguments, "--text")
    assert result.exit_code == 0, result.stderr
    assert not CONTROL.intersection(result.stdout)
    return [line.rstrip() for line in result.stdout.splitlines()]


def alone(*arguments: str, stdin: int = subprocess.DEVNULL, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    command = [sys.executable, "-m", "webhooks", *arguments]
    return subprocess.run(command, stdin=stdin, capture_output=True, text=True, env=environment(), check=False, **options)


def fill(folder: Path, work: Callable[[SQLiteStore], Awaitable[object]], **options: Any) -> None:
    """Open the store of a folder, do something with it, and close it."""

    async def filling() -> None:
        store = SQLiteStore(folder / "inbox.db", **options)
        try:
            await work(store)
        finally:
            await store.aclose()

    asyncio.run(filling())


async def some_events(store: SQLiteStore) -> None:
    """Keep three events: one done, one done of another scope, and a dead letter that could not be read."""
    await store.accept(event("1", of=ref("324167489835"), complete=resource("324167489835"), correlation_id=STRANGE))
    await store.accept(event("2", name="reward.claimed", scope="other"))
    await store.accept(event("3", problem="The body names the app A, not this source's app B."))


async def a_dead_job(store: SQLiteStore) -> None:
    """Keep a dead letter that its handler gave up on."""
    await store.register_handlers([wants(FORWARD)])
    await store.accept(event("dead", of=ref("324167489835")))
    (claimed,) = await claim(store, FORWARD)
    await store.fail_job(claimed.job, reason="http://127.0.0.1:9000/hooks answered 500", retry_in=None)


@asynccontextmanager
async def neighbour(folder: Path) -> AsyncIterator[Other]:
    """Hold the store of a folder open in another process, as a listener does; see `neighbour_process`."""
    async with other_process(folder / "inbox.db", "tests.webhooks.neighbour_process") as other:
        yield other


async def beside(*arguments: str) -> Result:
    """Run a command while the loop goes on."""
    return await asyncio.to_thread(run, *arguments)


@contextmanager
def served(application: Callable[[], web.Application], open_at: Callable[[web.AppRunner], Awaitable[None]]) -> Iterator[None]:
    """Serve an application from another thread, where `open_at` says."""
    started, over, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        runner = web.AppRunner(application())
        await runner.setup()
        await open_at(runner)
        started.set()
        await over.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    started.wait()
    yield
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


class Target:
    """Takes deliveries and answers as told.

    Attributes:
        status: What it answers.
        got: The headers, in small letters, and bodies of what came.
        url: Where it is.
    """

    def __init__(self, status: int) -> None:
        self.status = status
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = ""


@contextmanager
def destination(tls: ssl.SSLContext | None = None) -> Iterator[Target]:
    """Serve a place for deliveries on this machine."""
    target = Target(200)

    async def take(request: web.Request) -> web.Response:
        target.got.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response(status=target.status)

    def application() -> web.Application:
        made = web.Application()
        made.router.add_post("/in", take)
        return made

    async def open_at(runner: web.AppRunner) -> None:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        target.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{runner.addresses[0][1]}/in"

    with served(application, open_at):
        yield target


async def command(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> tuple[int, list[dict[str, Any]], str]:
    """Run a command with piped output, and return its exit code, JSON lines and standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "webhooks", *arguments),
        cwd=folder,
        env=environment(**(env or {})),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, [json.loads(line) for line in out.splitlines()], err.decode()


BODY = (
    '{"data": {"app": {"uid": "UB2DG8MW5KBQ", "name": "दिवाली Rewards", "environment": "Development"},\n'
    ' "allocation": {"uid": "213134081289", "status": "done", "reward_uid": "112144981245", "to_user_uid": "223144788242",\n'
    '  "amount": "1.50", "nonce": "diwali_2024_0001", "created_at": "2023-08-10T14:07:14.494142Z"},\n'
    ' "user": {"uid": "223144788242", "email": "janelisabeth.doe@mail.getoriginal.com", "wallets":\n'
    '  [{"address": "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045",\n'
    '   "url": "https:\\/\\/amoy.polygonscan.com\\/address\\/0xd8dA6BF2"}]},\n'
    ' "transaction_log": {"type": "mint", "chain_id": 80002, "block": 8812345.5}},\n'
    ' "event": "reward.allocated", "event_time": "2024-08-01T11:24:36.531141+00:00", "sent_at": "%s"}'
)
CORRELATION = "6f1d0a4e-9a55-4b0e-8b5f-2f6f3c1d9a10"
ORIGINALS = (
    "UB2DG8MW5KBQ",
    "213134081289",
    "112144981245",
    "223144788242",
    "diwali",
    "janelisabeth",
    "getoriginal",
    "d8dA6BF2",
    "polygonscan",
    "8812345",
    CORRELATION,
    KEY_ID,
    "दिवाली",
    "2024-08-01",
    "1.50",
)


def body_of(sent_at: str = "2024-08-01T11:24:37.000001+00:00") -> bytes:
    return (BODY % sent_at).encode()


def headers_of(body: bytes, attempt: int = 1, more: Mapping[str, str] | None = None) -> dict[str, str]:
    return {**signed(body), "x-webhook-attempt": str(attempt), "x-webhook-correlation-id": CORRELATION, **(more or {})}


class CaptureProcess:
    """A running `capture`.

    Attributes:
        listener: The process and where it listens.
        folder: Where it writes.
    """

    def __init__(self, listener: ListenerProcess) -> None:
        self.listener = listener
        self.url = listener.url
        self.folder = listener.folder / "captured"

    async def told(self) -> dict[str, Any]:
        """Return the next line of its output."""
        assert self.listener.process.stdout is not None
        return json.loads(await self.listener.process.stdout.readline())

    async def ended(self) -> int:
        """Return its exit code once it has ended by itself."""
        return await self.listener.process.wait()

    async def shown(self) -> str:
        """Return what it still writes to standard output until it has ended."""
        return (await self.listener.process.communicate())[0].decode()

    async def rest(self) -> str:
        """Return what it still tells, on both streams, until it has ended."""
        out, err = await self.listener.process.communicate()
        return (out + err).decode()

    def written(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return json.loads((self.listener.folder / record["file"]).read_text("utf-8"))

    def sample(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return json.loads((self.listener.folder / record["sample"]).read_text("utf-8"))


@asynccontextmanager
async def capturing(folder: Path, *options: str, **more: Any) -> AsyncIterator[CaptureProcess]:
    where = _listening_at if "--text" in options else json.loads
    async with running(folder, *options, command=["capture"], where=where, **more) as listener:
        yield CaptureProcess(listener)


def _listening_at(line: bytes) -> dict[str, str]:
    """Return where a listener listens by its line for people."""
    found = re.match(r"listening on (\S+) for /webhooks/original; ", line.decode())
    assert found is not None
    return {"url": found[1]}


async def send(url: str, body: Any, headers: Mapping[str, str] | None = None) -> int:
    async with aiohttp.ClientSession() as session:
        return await post(session, url, body, headers)


async def kept(folder: Path) -> list[bytes]:
    """Return the bodies in the store of a folder."""
    store = SQLiteStore(folder / "inbox.db")
    try:
        return [stored.event.body for stored in await store.list_events(limit=100)]
    finally:
        await store.aclose()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def chunks(body: bytes) -> AsyncIterator[bytes]:
    yield body[:3]
    yield body[3:]
