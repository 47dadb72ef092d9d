"""`webhook-listener serve --workers N` as processes: several workers on the sockets that one supervisor opened."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from original_async import OriginalClient
from tests.texts import said
from tests.webhooks.listener_process import (
    KEYS,
    client,
    delivery,
    kept_uids,
    post,
    start,
    working,
)
from vendor_sandboxes.original import API_KEY, API_SECRET, REWARDS, OriginalSandbox
from webhooks.cli.listener import Listener
from webhooks.cli.settings import ListenerSettings
from webhooks.cli.sources import SourceSpec


@pytest.mark.slow
async def test_each_worker_takes_deliveries_and_every_200_is_in_the_store(tmp_path: Path) -> None:
    async with working(tmp_path, workers=3) as workers, client() as session:
        for number in range(3):
            async with workers.only(number):
                assert await post(session, workers.url, delivery(f"{number}")) == 200
        statuses = await asyncio.gather(*(post(session, workers.url, delivery(f"n{number}")) for number in range(90)))
        assert statuses == [200] * 90
        assert await kept_uids(tmp_path) == {*"012", *(f"n{number}" for number in range(90))}
        assert await workers.listener.stop() == 0


@pytest.mark.slow
async def test_the_admin_port_sums_worker_metrics_and_shows_the_store_once(tmp_path: Path) -> None:
    async with working(tmp_path) as workers, client() as session:
        for number in (0, 1):
            async with workers.only(number):
                assert await post(session, workers.url, delivery(f"{number}"), {}) == 401
                assert await post(session, workers.url + "/other", delivery(f"{number}"), {}) == 404
        assert await post(session, workers.url, delivery("1")) == 200
        assert await workers.get("/healthz") == (200, "ok\n")
        assert await workers.get("/readyz") == (200, "ready\n")
        assert (await workers.get("/other"))[0] == 404
        text = (await workers.get("/metrics"))[1].splitlines()
        for line in (
            'webhooks_rejected_total{path="/webhooks/original",reason="missing"} 2.0',
            'webhooks_rejected_total{path="",reason="path"} 2.0',
            "webhooks_delivery_seconds_count 1.0",
            'webhooks_settled_total{via="webhook"} 1.0',
            "webhooks_outcomes 1.0",
            "webhooks_connections 0.0",
            "webhooks_store_ready 1.0",
            "webhooks_dead_letters 0.0",
            'webhooks_workers{state="ready"} 2.0',
            'webhooks_workers{state="starting"} 0.0',
            "webhooks_worker_restarts_total 0.0",
        ):
            assert text.count(line) == 1, line


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_workers_share_the_polls(tmp_path: Path) -> None:
    async with OriginalSandbox(confirm=(0.0, 0.0)) as sandbox:
        env = {"ORIGINAL_API_KEY": API_KEY, "ORIGINAL_API_SECRET": API_SECRET, "ORIGINAL_BASE_URL": sandbox.url}
        async with working(tmp_path, "--poll-first-after", "0.1", env=env) as workers, client() as session:
            async with OriginalClient(API_KEY, API_SECRET, base_url=sandbox.url) as original:
                for number in range(20):
                    created = await original.create_allocation(
                        reward_uid=next(iter(REWARDS)), to_user_uid="754566475542", amount="1.23", nonce=f"n{number}"
                    )
                    assert await post(session, workers.url, delivery(created.uid, complete=False)) == 200
            while await workers.metric("webhooks_pending") != 0:
                pass
            settled = [await workers.metric(f'webhooks_settled_total{{via="{via}"}}') for via in ("webhook", "poll")]
            assert sum(settled) == 20
            assert 20 <= await workers.metric("webhooks_polls_total") < 40


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_the_counts_of_a_worker_remain_after_its_exit(tmp_path: Path) -> None:
    refused = 'webhooks_rejected_total{path="/webhooks/original",reason="missing"}'
    async with working(tmp_path) as workers, client() as session:
        for number in (0, 1):
            async with workers.only(number):
                assert await post(session, workers.url, delivery("1"), {}) == 401
        assert await workers.metric(refused) == 2
        os.kill(workers.pids[0], signal.SIGKILL)
        assert await workers.replaced() == 0
        assert await workers.metric(refused) == 2
        async with workers.only(1):
            assert await post(session, workers.url, delivery("1"), {}) == 401
        os.kill(workers.pids[1], signal.SIGTERM)  # it tells once more what it counted
        assert await workers.replaced() == 1
        assert await workers.metric(refused) == 3
        assert await workers.metric("webhooks_worker_restarts_total") == 2
        assert await workers.metric("webhooks_store_ready") == 1


@pytest.mark.slow
async def test_it_is_ready_while_one_worker_is_and_names_the_others(tmp_path: Path) -> None:
    async with working(tmp_path) as workers:
        with workers.suspended(1):
            ready, one = await workers.get("/readyz")
            assert await workers.metric("webhooks_store_ready") == 1
            with workers.suspended(0):
                unready, none = await workers.get("/readyz")
                assert await workers.get("/healthz") == (200, "ok\n")
        while await workers.get("/readyz") != (200, "ready\n"):
            pass
    assert (ready, unready) == (200, 503)
    said("workers: one of two answers, then none", f"{one}\n{none}")


@pytest.mark.slow
async def test_the_path_of_a_unix_socket_is_shared_by_the_workers_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"
    async with working(tmp_path, "--unix", str(path)) as workers:
        os.kill(workers.pids[0], signal.SIGTERM)
        assert await workers.replaced() == 0
        for number in (0, 1):
            connector = aiohttp.UnixConnector(str(path))
            async with workers.only(number), aiohttp.ClientSession(connector=connector) as session:
                assert await post(session, workers.url, delivery(f"{number}")) == 200
        with pytest.raises(AssertionError, match=r"in\.sock"):
            await start(tmp_path, "--workers", "2", "--unix", str(path))
        os.kill(workers.listener.process.pid, signal.SIGKILL)
        await workers.rest_of_log()
    assert path.is_socket()
    async with working(tmp_path, "--unix", str(path)) as workers:  # a dead one is replaced
        assert await workers.listener.stop() == 0
    assert not path.exists()


@pytest.mark.slow
async def test_each_worker_inherits_a_raised_limit_of_open_files(tmp_path: Path) -> None:
    program = (
        "-c",
        (
            "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1])); "
            "from webhooks.__main__ import main; main()"
        ),
    )
    async with working(tmp_path, program=program) as workers:
        async with workers.only(1):
            pass
        with workers.suspended(0):
            port = int(workers.listener.where["url"].rpartition(":")[2])
            held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(99)]
            async with client() as session:
                assert await post(session, workers.url, delivery("1"), {}) == 401
            for _, writer in held:
                writer.close()
                await writer.wait_closed()


async def test_only_the_first_worker_maintains_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocking_calls_fail: Any
) -> None:
    blocking_calls_fail.deactivate()  # starting and ending, a listener reads files as it needs them
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    settings = ListenerSettings(sources=[SourceSpec()], store=f"sqlite:///{tmp_path}/inbox.db")
    names: list[set[str]] = []
    for number in (0, 1):
        listener = Listener(settings, sockets=[], number=number)

        def started(_: Any, listener: Listener = listener) -> None:
            names.append({task.get_name() for task in asyncio.all_tasks()})
            listener.stop()

        assert await listener.run(started) == 0
    assert ["the upkeep of the store" in each for each in names] == [True, False]
