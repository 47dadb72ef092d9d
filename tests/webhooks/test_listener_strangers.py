"""The listener with default settings among crowds of strangers: no delivery is lost or refused, and memory is bounded."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme

from tests.webhooks.listener_process import ROOT, ListenerProcess, delivery, post, running
from tests.webhooks.test_listener_crash import everything_is_kept

KINDS = ("silent", "headers", "unsigned", "signed wrongly", "full", "pipelines")
SENDERS = 4


@asynccontextmanager
async def strangers(listener: ListenerProcess, count: int, *kinds: str, over: str = "plain") -> AsyncIterator[None]:
    """Run this many strangers of each kind against a listener, in their own process."""
    port = listener.where["url"].rpartition(":")[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks._strangers",
        ",".join(kinds),
        port,
        str(count),
        over,
        cwd=ROOT,
        stdout=PIPE,
        stderr=DEVNULL,
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        await process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("over", ["plain", "tls"])
async def test_no_delivery_is_lost_or_refused_among_strangers(tmp_path: Path, soak: bool, over: str) -> None:
    count, until = (2_000, time.monotonic() + 60) if soak else (120, 0.0)
    acknowledged: dict[str, bytes] = {}
    statuses: Counter[int] = Counter()

    async def send(url: str, number: int) -> None:
        least = number + 25 * SENDERS
        while number < least or time.monotonic() < until:
            uid = f"{number:012}"
            body = delivery(uid)
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session:
                status = await post(session, url, body)
            statuses[status] += 1
            acknowledged[uid] = body
            number += SENDERS

    options: tuple[str, ...] = () if soak else ("--max-connections", "60", "--max-per-peer", "10")
    if over == "tls":
        options += ("--tls-cert", str(certificate_in(tmp_path)))
    async with running(tmp_path, *options) as listener:
        async with strangers(listener, count // len(KINDS), *KINDS, over=over):
            await asyncio.gather(*(send(listener.url, number) for number in range(SENDERS)))
            assert most_resident(listener) <= 200_000_000
        assert await listener.stop() == 0
    assert statuses.keys() == {200}
    await everything_is_kept(tmp_path, acknowledged)


async def test_an_unfinished_handshake_takes_little_memory(tmp_path: Path) -> None:
    async with running(tmp_path, "--tls-cert", str(certificate_in(tmp_path))) as listener:
        before = await resident(listener)
        async with strangers(listener, 250, "silent"):
            assert await resident(listener) - before < 250 * 90_000


async def resident(listener: ListenerProcess) -> int:
    """Return the memory of a listener in bytes."""
    asked = await asyncio.create_subprocess_exec("ps", "-o", "rss=", "-p", str(listener.process.pid), stdout=PIPE)
    answer, _ = await asked.communicate()
    return int(answer) * 1_024


def most_resident(listener: ListenerProcess) -> int:
    """Return the peak memory of a listener in bytes; 0 if the system does not report it."""
    told = Path(f"/proc/{listener.process.pid}/status")
    lines = told.read_text("ascii").splitlines() if told.exists() else []
    return next((int(line.split()[1]) * 1_024 for line in lines if line.startswith("VmHWM")), 0)


def certificate_in(folder: Path) -> Path:
    """Return the file of a new certificate with its key."""
    file = folder / "certificate.pem"
    trustme.CA().issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(file))
    return file
