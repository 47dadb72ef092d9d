"""The shutdown of a listener, alone and with workers: what was accepted is answered, and what has no end is cut off."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import pytest

from tests.webhooks.listener_process import ListenerProcess, delivery, get, half_sent, kept_uids, post, running, working


async def half_received(listener: ListenerProcess) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a delivery except its last byte, and return once the listener has its connection."""
    reader, writer = await half_sent(listener, delivery("1"))
    while (await get(listener.where["admin"] + "/metrics"))[1].count("webhooks_connections 1.0") != 1:
        pass
    return reader, writer


@pytest.mark.slow
async def test_stopped_under_load_it_answers_every_accepted_delivery_and_loses_none(tmp_path: Path) -> None:
    async with running(tmp_path) as listener:
        acknowledged: list[str] = []
        broken: list[str] = []
        begun = asyncio.Event()

        async def load(number: int) -> None:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
                for turn in range(10_000):
                    uid = f"{number}-{turn}"
                    try:
                        status = await post(session, listener.url, delivery(uid))
                    except aiohttp.ClientConnectorError:
                        return  # it listens no longer
                    except (aiohttp.ClientError, OSError):
                        broken.append(uid)
                        return
                    assert status == 200
                    acknowledged.append(uid)
                    if len(acknowledged) == 300:
                        begun.set()

        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(load(number))
            await begun.wait()
            listener.send_signal(signal.SIGTERM)
        assert await listener.process.wait() == 0
    in_store = await kept_uids(tmp_path)
    assert set(acknowledged) <= in_store
    assert broken == []


@pytest.mark.slow
async def test_a_second_signal_exits_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, "--body-timeout", "60", "--log-level", "info") as listener:
        reader, writer = await half_received(listener)
        listener.send_signal(signal.SIGTERM)
        await listener.log_until("draining; ")
        assert (await get(listener.where["admin"] + "/readyz")) == (503, "draining\n")
        listener.send_signal(signal.SIGINT)
        assert await listener.process.wait() == 4
        writer.close()
        del reader


@pytest.mark.slow
async def test_a_shutdown_cuts_off_an_endless_delivery_and_reports_it(tmp_path: Path) -> None:
    async with running(tmp_path, "--body-timeout", "60", "--drain", "0.5") as listener:
        _, writer = await half_received(listener)
        assert await listener.stop() == 4
        writer.close()


@pytest.mark.slow
async def test_a_shutdown_answers_deliveries_in_progress_in_every_worker(tmp_path: Path) -> None:
    async with working(tmp_path) as workers:
        held = []
        for number in (0, 1):
            async with workers.only(number):
                held.append(await half_sent(workers.listener, delivery(f"{number}")))
                while (await workers.metric("webhooks_connections")) != number + 1:
                    pass
        os.kill(workers.listener.process.pid, signal.SIGTERM)
        await workers.log_until("draining")
        assert (await workers.get("/readyz")) == (503, "draining\n")
        for number, (reader, writer) in enumerate(held):
            writer.write(delivery(f"{number}")[-1:])
            assert b" 200 " in await reader.readline()
            writer.close()
        assert await workers.listener.process.wait() == 0
        await workers.rest_of_log()


@pytest.mark.slow
@pytest.mark.parametrize("second", [False, True])
async def test_a_shutdown_cuts_off_an_endless_delivery_and_a_second_signal_does_so_at_once(tmp_path: Path, second: bool) -> None:
    options = ["--body-timeout", "1000", "--drain", "1000" if second else "0.5"]
    async with working(tmp_path, *options) as workers:
        _, writer = await half_sent(workers.listener, delivery("1"))
        while (await workers.metric("webhooks_connections")) != 1:
            pass
        os.kill(workers.listener.process.pid, signal.SIGTERM)
        await workers.log_until("draining")
        if second:
            os.kill(workers.listener.process.pid, signal.SIGINT)
        assert await workers.listener.process.wait() == 4
        await workers.rest_of_log()
        writer.close()


@pytest.mark.slow
async def test_a_signal_to_all_processes_is_one_signal(tmp_path: Path) -> None:
    async with working(tmp_path) as workers:
        reader, writer = await half_sent(workers.listener, delivery("1"))
        while (await workers.metric("webhooks_connections")) != 1:
            pass
        workers.listener.send_signal(signal.SIGINT)  # as a terminal does
        await workers.log_until("draining")
        writer.write(delivery("1")[-1:])
        assert b" 200 " in await reader.readline()
        writer.close()
        assert await workers.listener.process.wait() == 0
        assert not [line for line in await workers.rest_of_log() if " ERROR " in line or "Traceback" in line]


@pytest.mark.slow
async def test_a_shutdown_does_not_wait_for_a_worker_that_cannot_restart(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first:one_secret_of_this_length\n")
    async with working(tmp_path, "--keys-file", str(keys)) as workers:
        keys.unlink()
        os.kill(workers.pids[0], signal.SIGKILL)
        await workers.log_until("is restarted in 0.8 s")
        assert await workers.listener.stop() == 0
