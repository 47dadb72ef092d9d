"""Real processes: the vendor played on a port, and the command line that pays."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from enkash_async import EnkashClient, PasswordCredentials
from vendor_sandboxes import EnkashSandbox, OriginalSandbox
from vendor_sandboxes.__main__ import build

S = TypeVar("S", bound=OriginalSandbox | EnkashSandbox)

ROOT = Path(__file__).parents[2]
KEY, SECRET = "sandboxkey01", "sandbox-api-secret-of-more-than-thirty-two-characters"
WEBHOOK_KEYS = "4o3vfxtcmo7b:sandbox-webhook-secret-one"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """Return what a process needs to find this tree, without any credentials of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORIGINAL_", "ENKASH_"))}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


@contextmanager
def playing(sandbox: S) -> Iterator[S]:
    """Run a sandbox on a thread of its own."""
    ready, done = threading.Event(), threading.Event()

    async def play() -> None:
        try:
            async with sandbox:
                ready.set()
                await asyncio.to_thread(done.wait)
        finally:
            ready.set()

    thread = threading.Thread(target=asyncio.run, args=(play(),))
    thread.start()
    ready.wait()
    assert thread.is_alive(), "the sandbox cannot listen"
    try:
        yield sandbox
    finally:
        done.set()
        thread.join()


@contextmanager
def sandbox(vendor: str, *options: str) -> Iterator[str]:
    """Play a vendor, as its command line would, and yield its URL."""
    made = build([vendor, "--port=0", *options])
    assert isinstance(made, OriginalSandbox | EnkashSandbox)
    with playing(made) as played:
        yield played.url


def books(url: str) -> dict[str, Any]:
    """Return what the vendor knows."""
    base = url.removesuffix("/v1")
    with urllib.request.urlopen(f"{base}/_sandbox/books", timeout=30) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def quiet_books(url: str) -> dict[str, Any]:
    """Return what the vendor knows once nothing is left that it will do by itself, such as a late commit."""
    while (known := books(url))["under_way"]:
        pass
    return known


def original_at(url: str) -> dict[str, str]:
    """Return the environment of a process that pays by Original."""
    return environment(
        ORIGINAL_API_KEY=KEY, ORIGINAL_API_SECRET=SECRET, ORIGINAL_BASE_URL=url, ORIGINAL_WEBHOOK_KEYS=WEBHOOK_KEYS
    )


def enkash_at(url: str, folder: Path) -> dict[str, str]:
    """Return the environment of a process that pays by EnKash and keeps its state in a folder."""
    return environment(
        ENKASH_COINS_BASE_URL=url,
        ENKASH_AUTH_BASE_URL=url,
        ENKASH_CLIENT_ID="CEKSANDBOX",
        ENKASH_CLIENT_SECRET="0123456789abcdef0123456789abcdef01234567",
        ENKASH_USERNAME="9000000000",
        ENKASH_PASSWORD="sandbox-password",
        XDG_STATE_HOME=str(folder),
    )


def create_event(env: Mapping[str, str], event: str) -> None:
    """Configure a coin event."""

    async def create() -> None:
        credentials = PasswordCredentials(
            env["ENKASH_CLIENT_ID"], env["ENKASH_CLIENT_SECRET"], env["ENKASH_USERNAME"], env["ENKASH_PASSWORD"]
        )
        url = env["ENKASH_COINS_BASE_URL"]
        async with EnkashClient(coins_base_url=url, auth_base_url=url, credentials=credentials) as client:
            await client.create_event(event=event, amount=6)

    asyncio.run(create())


def payouts(*arguments: str | Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the command line."""
    command = [sys.executable, "-m", "payouts", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(env), cwd=ROOT)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def lines_of(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the JSON lines a process writes, as it writes them."""
    for line in _pipe(process.stdout):
        yield json.loads(line)


def end(process: subprocess.Popen[bytes]) -> str:
    """Read a process to its end and return what it said beside its results."""
    _, told = process.communicate(timeout=900)
    return told.decode()
