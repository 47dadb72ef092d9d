"""Workers of a listener that end are replaced without a loss, and end with their supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from tests.webhooks.listener_process import Workers, client, delivery, half_sent, kept_uids, post, tls_options, trusting, working


async def forever(work: Callable[[], Awaitable[Any]]) -> None:
    """Repeat something until it fails."""
    while True:
        await work()


@pytest.mark.repeats_itself
@pytest.mark.slow
@pytest.mark.parametrize("how", ["tcp", "tls", "unix"])
async def test_replaced_workers_break_no_connection_and_leave_nothing_unanswered(
    tmp_path: Path, authority: trustme.CA, how: str, soak: bool
) -> None:
    times, pause = (50, 0.0) if soak else (2, 0.02)
    broken: list[str] = []
    answered: list[str] = []
    over = asyncio.Event()
    options = {"tcp": [], "tls": tls_options(authority, tmp_path), "unix": ["--unix", str(tmp_path / "in.sock")]}[how]
    context = trusting(authority)

    def connector(**more: Any) -> aiohttp.BaseConnector:
        if how == "unix":
            return aiohttp.UnixConnector(str(tmp_path / "in.sock"), limit=1, **more)
        return aiohttp.TCPConnector(limit=1, ssl=context, **more)

    async def load(workers: Workers, number: int) -> None:
        async with aiohttp.ClientSession(connector=connector(force_close=number % 2 == 0)) as session:
            turn = 0
            while not over.is_set():
                turn += 1
                uid = f"{number}-{turn}"
                try:
                    assert await post(session, workers.url, delivery(uid)) == 200
                    answered.append(uid)
                except (aiohttp.ClientError, OSError) as problem:
                    broken.append(repr(problem))
                await asyncio.sleep(pause)  # leaves the new workers time to start

    async with working(tmp_path, *options) as workers:
        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(load(workers, number))
            for turn in range(times):
                os.kill(workers.pids[turn % 2], signal.SIGTERM)
                assert await workers.replaced() == turn % 2
            over.set()
        assert broken == []
        assert await workers.metric("webhooks_worker_restarts_total") == times
        assert await workers.listener.stop() == 0
        assert [line for line in await workers.rest_of_log() if " ERROR " in line] == []
    assert set(answered) <= await kept_uids(tmp_path)


@pytest.mark.slow
async def test_a_killed_worker_is_replaced_and_the_others_continue(tmp_path: Path) -> None:
    async with working(tmp_path) as workers, client() as session:
        killed = workers.pids[1]
        os.kill(killed, signal.SIGKILL)
        for number in range(20):
            assert await post(session, workers.url, delivery(f"{number}")) == 200
        line = await workers.log_until("crashed and is restarted")
        assert f"worker 1 crashed and is restarted in 0.1 s: process {killed} was ended by SIGKILL" in line
        assert await workers.replaced() == 1
        async with workers.only(1):
            assert await post(session, workers.url, delivery("x")) == 200


async def test_workers_whose_supervisor_was_killed_answer_their_deliveries_and_exit(tmp_path: Path) -> None:
    async with working(tmp_path) as workers:
        body = delivery("1")
        reader, writer = await half_sent(workers.listener, body)
        while await workers.metric("webhooks_connections") != 1:
            pass
        os.kill(workers.listener.process.pid, signal.SIGKILL)
        with pytest.raises(aiohttp.ClientConnectorError):
            await forever(partial(workers.get, "/healthz"))
        writer.write(body[-1:])
        assert b" 200 " in await reader.readline()
        writer.close()
        await workers.rest_of_log()
        with pytest.raises(ConnectionRefusedError):
            await half_sent(workers.listener, body)


@pytest.mark.slow
async def test_a_worker_that_cannot_restart_is_retried_until_it_can(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first:one_secret_of_this_length\n")
    async with working(tmp_path, "--keys-file", str(keys)) as workers:
        keys.write_text("nonsense")
        os.kill(workers.pids[0], signal.SIGTERM)
        for seconds in ("0.1", "0.2"):
            line = await workers.log_until("crashed and is restarted")
            assert f"worker 0 crashed and is restarted in {seconds} s: {keys}: " in line
        status, text = await workers.get("/readyz")
        assert (status, text.startswith("ready\nworker 0: ")) == (200, True)
        keys.write_text("first:one_secret_of_this_length\n")
        assert await workers.replaced() == 0
        assert await workers.listener.stop() == 0
