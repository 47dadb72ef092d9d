"""The admin port of a running listener: health, readiness and metrics."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest

from rewards_core.install_hint import install_hint
from tests.webhooks.listener_process import delivery, environment, get, post, running
from webhooks.cli.admin import ADMIN_LIMITS


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_health_is_public_and_metrics_need_the_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token\n")
    options = ["--admin-host", "0.0.0.0", "--admin-token-file", "token"]
    async with running(tmp_path, *options) as listener, aiohttp.ClientSession() as session:
        admin = listener.where["admin"].replace("0.0.0.0", "127.0.0.1")
        assert await post(session, listener.url, delivery("1")) == 200
        assert await post(session, listener.url, delivery("1")) == 200
        assert await post(session, listener.url, delivery("2"), {}) == 401
        assert await get(f"{admin}/healthz") == (200, "ok\n")
        assert await get(f"{admin}/readyz") == (200, "ready\n")
        assert (await get(f"{admin}/metrics"))[0] == 401
        assert (await get(f"{admin}/metrics", Authorization="Bearer a-tokeñ"))[0] == 401
        status, text = await get(f"{admin}/metrics", Authorization="Bearer a-token")
    assert status == 200
    path = 'path="/webhooks/original"'
    for line in (
        f"webhooks_accepted_total{{{path}}} 1.0",
        f"webhooks_duplicates_total{{{path}}} 1.0",
        f'webhooks_rejected_total{{{path},reason="missing"}} 1.0',
        "webhooks_delivery_seconds_count 2.0",
        'webhooks_settled_total{via="webhook"} 1.0',
        'webhooks_settled_total{via="poll"} 0.0',
        "webhooks_waiters 0.0",
        "webhooks_store_ready 1.0",
        "webhooks_inbox_lag_seconds 0.0",
        "webhooks_dead_letters 0.0",
        "webhooks_conflicts 0.0",
    ):
        assert line in text


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_connections_to_the_admin_port_do_not_delay_deliveries(tmp_path: Path) -> None:
    program = (
        "-c",
        ("import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (160, 160)); from webhooks.__main__ import main; main()"),
    )
    async with running(tmp_path, "--max-connections", "20", program=program) as listener, aiohttp.ClientSession() as session:
        port = int(listener.where["admin"].rpartition(":")[2])
        held: list[asyncio.StreamWriter] = []
        files = Path(f"/proc/{listener.process.pid}/fd")
        before = len(list(files.iterdir()))
        try:
            for _ in range(200):
                with suppress(OSError):  # one that is refused at once holds nothing
                    held.append((await asyncio.open_connection("127.0.0.1", port))[1])
            async with asyncio.timeout(120):
                assert await post(session, listener.url, delivery("1")) == 200
                assert await get(f"{listener.where['admin']}/readyz") == (200, "ready\n")
            assert len(list(files.iterdir())) < before + 2 * ADMIN_LIMITS.connections  # each connection is a file
        finally:
            for writer in held:
                writer.close()
            await asyncio.gather(*(writer.wait_closed() for writer in held), return_exceptions=True)


@pytest.mark.slow
async def test_the_admin_port_answers_404_405_and_head(tmp_path: Path) -> None:
    async with running(tmp_path) as listener, aiohttp.ClientSession() as session:
        admin = listener.where["admin"]
        assert (await get(f"{admin}/other"))[0] == 404
        async with session.post(f"{admin}/healthz") as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")
        async with session.head(f"{admin}/metrics") as answer:
            assert (answer.status, await answer.read()) == (200, b"")


@pytest.mark.slow
async def test_metrics_are_served_while_the_store_fails(tmp_path: Path) -> None:
    program = (
        "-c",
        (
            "from webhooks.store.sqlite import SQLiteStore\n"
            "from rewards_core.errors import StoreError\n"
            "async def refuse(self): raise StoreError('the disk is gone')\n"
            "pinged = []\n"
            "async def once(self): pinged.append(len(pinged) > 0 and await refuse(self))\n"
            "SQLiteStore.statistics, SQLiteStore.ping = refuse, once\n"
            "from webhooks.__main__ import main; main()"
        ),
    )
    async with running(tmp_path, program=program) as listener, aiohttp.ClientSession() as session:
        assert await post(session, listener.url, delivery("1")) == 200
        assert await get(f"{listener.where['admin']}/readyz") == (503, "the disk is gone\n")
        assert await get(f"{listener.where['admin']}/healthz") == (200, "ok\n")
        status, text = await get(f"{listener.where['admin']}/metrics")
    assert status == 200
    assert 'webhooks_accepted_total{path="/webhooks/original"} 1.0' in text
    assert "webhooks_store_ready 0.0" in text
    assert "webhooks_dead_letters" not in text


@pytest.mark.slow
async def test_without_the_metrics_extra_it_names_the_extra(tmp_path: Path) -> None:
    (tmp_path / "prometheus_client.py").write_text("raise ImportError")
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{environment()['PYTHONPATH']}"}
    async with running(tmp_path, env=env) as listener, aiohttp.ClientSession() as session:
        assert await post(session, listener.url, delivery("1")) == 200
        assert await get(listener.where["admin"] + "/metrics") == (
            501,
            f"Metrics need the package prometheus-client. Run {await asyncio.to_thread(install_hint, 'metrics')}.\n",
        )
