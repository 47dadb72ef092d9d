"""Signals during start-up: SIGHUP reloads keys and ends nothing, SIGTERM and ctrl-c end it without a traceback."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.webhooks.listener_process import KEYS, delivery, environment, killed_at_the_end, post

BEGUN = "begun"
FROM_THE_FIRST_LINE = f"import os, webhooks.__main__ as entry; os.write(1, b'{BEGUN}\\n'); entry.main()"
STARTS, STARTS_IN_A_SOAK = 3, 150


@asynccontextmanager
async def starting(folder: Path, *options: str, before: Sequence[str] = ()) -> AsyncIterator[Process]:
    """Start a listener, and return once its first lines have run."""
    async with begun(folder, ["-c", FROM_THE_FIRST_LINE, *before], *options) as process:
        assert process.stdout is not None
        assert (await process.stdout.readline()).decode().strip() == BEGUN
        yield process


@asynccontextmanager
async def begun(folder: Path, program: Sequence[str], *options: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *program,
        *("serve", "--port", "0", "--admin-port", "0", *options),
        cwd=folder,
        env=environment(),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
    )
    async with killed_at_the_end(process):
        yield process


async def hung_up_until_it_listens(process: Process) -> dict[str, str]:
    """Keep sending SIGHUP to the listener and its workers; return where it listens."""
    assert process.stdout is not None
    listening = asyncio.create_task(process.stdout.readline())
    while not listening.done():
        os.killpg(process.pid, signal.SIGHUP)
        await asyncio.wait([listening], timeout=0.005)
    return json.loads(listening.result())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "workers"),
    [((), ()), ((), ("--workers", "2")), (("--config", "listener.toml"), ()), (("--config=listener.toml",), ())],
    ids=["alone", "workers", "config", "config in one word"],
)
async def test_hang_ups_during_start_up_end_nothing(tmp_path: Path, before: tuple[str, ...], workers: tuple[str, ...]) -> None:
    (tmp_path / "listener.toml").write_text("[serve]\nmax-connections = 10\n")
    async with starting(tmp_path, *workers, before=before) as process, aiohttp.ClientSession() as session:
        where = await hung_up_until_it_listens(process)
        for number in range(4):
            assert await post(session, f"{where['url']}/webhooks/original", delivery(str(number))) == 200
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        log = (await process.stderr.read()).decode()
        assert (await process.wait(), "Traceback" in log) == (0, False)


@pytest.mark.slow
async def test_a_hang_up_during_start_up_is_handled_later(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(KEYS)
    keys.chmod(0o600)
    async with starting(tmp_path, "--verbose", "--keys-file", "keys") as process:
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        while "reloaded keys and certificate" not in (line := (await process.stderr.readline()).decode()):
            assert line, "the log ended without a word about the keys"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["alone", "workers"])
async def test_a_signal_at_any_moment_of_start_up_ends_it_without_a_traceback(
    tmp_path: Path, workers: tuple[str, ...], number: int, soak: bool
) -> None:
    chance = random.Random(7)
    for _ in range(STARTS_IN_A_SOAK if soak else STARTS):
        async with starting(tmp_path, *workers) as process:
            assert process.stdout is not None
            listening = asyncio.create_task(process.stdout.readline())
            await asyncio.wait([listening], timeout=chance.uniform(0, 1.5))
            os.killpg(process.pid, number)
            await listening
            assert process.stderr is not None
            log = (await process.stderr.read()).decode()
            assert (await process.wait(), "Traceback" in log) in {(0, False), (-number, False)}, log


async def test_other_commands_end_with_their_terminal(tmp_path: Path) -> None:
    words = FROM_THE_FIRST_LINE.replace("entry.main()", "import signal; signal.pause()")
    async with begun(tmp_path, ["-c", words, "tail"]) as process:
        assert process.stdout is not None
        await process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        assert await process.wait() == -signal.SIGHUP
