"""`webhook-listener consume` as a process, on a queue of Amazon SQS as moto plays it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from rewards_core.install_hint import install_hint
from tests.texts import said
from tests.webhooks.command_kit import alone, destination, run
from tests.webhooks.listener_process import ListenerProcess, delivery, signed
from tests.webhooks.listener_process import running as listening
from tests.webhooks.queue_kit import AWS, REGION, Gate, Sqs, a_gate, a_queue
from webhooks.store.sqlite import SQLiteStore


@pytest_asyncio.fixture
async def gate(sqs_endpoint: str) -> AsyncIterator[Gate]:
    async with a_gate(sqs_endpoint) as opened:
        yield opened


@pytest_asyncio.fixture
async def sqs(sqs_endpoint: str, request: pytest.FixtureRequest) -> AsyncIterator[Sqs]:
    """A queue of this test's own; moto counts receipts by the long polls of processes that are gone, too."""
    receives = getattr(request, "param", 1_000)
    async with a_queue(sqs_endpoint, f"c-{abs(hash(request.node.nodeid))}", max_receives=receives) as queue:
        yield queue


@asynccontextmanager
async def consuming(folder: Path, queue: Sqs, gate: Gate, *options: str, **more: Any) -> AsyncIterator[ListenerProcess]:
    command = ("consume", queue.url, "--region", REGION, "--endpoint", gate.url, "--admin-port", "0")
    async with listening(folder, *options, command=command, listens=False, env=AWS, **more) as process:
        yield process


async def uids(folder: Path) -> list[str]:
    store = SQLiteStore(folder / "inbox.db")
    try:
        return sorted(each.event.ref.uid for each in await store.list_events(limit=1_000) if each.event.ref is not None)
    finally:
        await store.aclose()


async def get(url: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return answer.status, await answer.text()


async def send(queue: Sqs, *names: str) -> None:
    for uid in names:
        body = delivery(uid)
        await queue.send(body, {"X-Webhook-Signature": signed(body)["x-webhook-signature"], "x-webhook-attempt": "1"})


@pytest.mark.slow
@pytest.mark.processes_are_measured
@pytest.mark.parametrize("sqs", [3], indirect=True)
async def test_it_stores_deletes_and_counts(tmp_path: Path, sqs: Sqs, gate: Gate) -> None:
    with destination() as target:
        options = ("--forward-to", target.url, "--log-level", "info", "--log-format", "json", "--visibility", "2")
        async with consuming(tmp_path, sqs, gate, *options) as process:
            assert process.where["consuming"] is True
            assert process.where["queue"] == sqs.url.rpartition("/")[2]
            await send(sqs, "1", "1", "2")
            line = json.loads(await process.log_until('"verdict": "new"'))
            assert line["peer"] == f"queue {process.where['queue']}"
            await sqs.send("{}", {})
            assert await sqs.dead() == "{}"
            assert await get(f"{process.where['admin']}/readyz") == (200, "ready\n")
            metrics = (await get(f"{process.where['admin']}/metrics"))[1]
            assert "webhooks_queue_received_total 6.0" in metrics
            assert "webhooks_queue_stored_total 3.0" in metrics
            assert "webhooks_queue_deleted_total 3.0" in metrics
            assert "webhooks_queue_left_total 3.0" in metrics
            assert 'webhooks_duplicates_total{path="/webhooks/original"} 1.0' in metrics
            assert 'webhooks_rejected_total{path="/webhooks/original",reason="missing"} 3.0' in metrics
            assert "webhooks_connections" not in metrics
            refused = json.loads((await get(f"{process.where['admin']}/refused"))[1])["refused"]
            assert [(each["reason"], each["count"]) for each in refused] == [("missing", 3)]
            assert await process.stop() == 0
        assert await uids(tmp_path) == ["1", "2"]
        assert sorted(body for _, body in target.got) == [delivery("1"), delivery("2")]


@pytest.mark.slow
async def test_killed_between_store_and_delete_it_makes_one_event(tmp_path: Path, sqs: Sqs, gate: Gate) -> None:
    reached, killed = asyncio.Event(), asyncio.Event()

    async def hold(_: dict[str, Any]) -> tuple[int, Any]:
        reached.set()
        await killed.wait()
        return 500, {}

    gate.answers["DeleteMessageBatch"] = [hold]
    async with consuming(tmp_path, sqs, gate, "--visibility", "2") as process:
        await send(sqs, "1")
        await reached.wait()
        await process.kill()
        killed.set()
    assert await sqs.counts() != (0, 0)
    async with consuming(tmp_path, sqs, gate, "--visibility", "2") as process:
        await sqs.until_empty()
        assert 'webhooks_duplicates_total{path="/webhooks/original"} 1.0' in (await get(f"{process.where['admin']}/metrics"))[1]
    assert await uids(tmp_path) == ["1"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_under_load_finishes_or_gives_back_everything(
    tmp_path: Path, sqs: Sqs, gate: Gate, number: signal.Signals
) -> None:
    names = [str(uid) for uid in range(100)]
    async with consuming(tmp_path, sqs, gate, "--visibility", "2", "--log-level", "info") as process:
        sending = asyncio.create_task(send(sqs, *names))
        await gate.until(lambda: len(gate.calls["DeleteMessageBatch"]) > 5)
        process.send_signal(number)
        await process.log_until("draining; ")
        assert await process.process.wait() == 0
        await sending
    stored = len(await uids(tmp_path))
    assert 0 < stored < 100
    async with consuming(tmp_path, sqs, gate, "--visibility", "2"):
        await sqs.until_empty()
    assert await uids(tmp_path) == sorted(names)


@pytest.mark.slow
async def test_a_message_that_the_stopped_process_holds_is_given_back_at_once(tmp_path: Path, sqs: Sqs, gate: Gate) -> None:
    program = (
        "-c",
        (
            "from webhooks.store.sqlite import SQLiteStore\n"
            "from rewards_core.errors import StoreError\n"
            "async def refuse(self, event): raise StoreError('the disk is gone')\n"
            "SQLiteStore.accept = refuse\n"
            "from webhooks.__main__ import main; main()"
        ),
    )
    async with consuming(tmp_path, sqs, gate, "--visibility", "600", program=program) as process:
        await send(sqs, "1")
        await process.log_until("could not be stored")
        assert await sqs.counts() == (0, 1)
        assert await process.stop() == 4
    assert await sqs.counts() == (1, 0)
    assert gate.calls["DeleteMessageBatch"] == []


@pytest.mark.slow
async def test_a_queue_that_goes_away_makes_it_unready_until_it_is_back(tmp_path: Path, sqs: Sqs, gate: Gate) -> None:
    async with consuming(tmp_path, sqs, gate) as process:
        await gate.close()
        while (found := await get(f"{process.where['admin']}/readyz"))[0] == 200:
            pass
        assert gate.url in found[1]
        assert "webhooks_queue_readable 0.0" in (await get(f"{process.where['admin']}/metrics"))[1]
        await send(sqs, "1")
        await gate.open()
        await sqs.until_empty()
        while (await get(f"{process.where['admin']}/readyz"))[0] != 200:
            pass
    assert await uids(tmp_path) == ["1"]


@pytest.mark.slow
async def test_lost_credentials_make_it_unready_until_they_are_valid_again(tmp_path: Path, sqs: Sqs, gate: Gate) -> None:
    async with consuming(tmp_path, sqs, gate) as process:
        gate.refuse("ReceiveMessage", "ExpiredToken", times=100_000)
        await send(sqs, "1")  # ends the requests that wait
        while (found := await get(f"{process.where['admin']}/readyz"))[0] == 200:
            pass
        assert "ExpiredToken" in found[1]
        gate.answers["ReceiveMessage"].clear()
        await send(sqs, "2")
        await sqs.until_empty()
        while (await get(f"{process.where['admin']}/readyz"))[0] != 200:
            pass
    assert await uids(tmp_path) == ["1", "2"]


@pytest.mark.slow
async def test_it_works_beside_a_listener_on_one_store(tmp_path: Path, sqs: Sqs, gate: Gate) -> None:
    async with listening(tmp_path) as listener, consuming(tmp_path, sqs, gate), aiohttp.ClientSession() as session:
        body = delivery("1")
        async with session.post(listener.url, data=body, headers=signed(body)) as answer:
            assert answer.status == 200
        await send(sqs, "1", "2")
        await sqs.until_empty()
    assert await uids(tmp_path) == ["1", "2"]


@pytest.mark.slow
async def test_what_keeps_it_from_starting_has_an_exit_code(
    folder: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch, sqs: Sqs
) -> None:
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", "4o3vfxtcmo7b:a_webhook_secret_of_some_length")

    async def ended(*arguments: str) -> str:
        result = await asyncio.to_thread(alone, "consume", *arguments, "--admin-port", "-1", cwd=folder)
        return f"{result.returncode}: {result.stderr.strip().replace(gate.url, 'http://sqs')}"

    here = ("--region", REGION, "--endpoint", gate.url)
    two = ("--source", "/a,scope=a", "--source", "/b,scope=b")
    found = [
        await ended("sqs://missing", *here),
        await ended("rewards"),
        await ended("sqs://KEY:SECRET@rewards"),
        await ended("sqs://rewards", "--endpoint", "http://elsewhere:4566"),
        await ended("sqs://rewards", "--endpoint", gate.url),
        await ended("sqs://rewards", *here, *two),
    ]
    await gate.close()
    found.append(await ended("sqs://rewards", *here))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    found.append(await ended("sqs://rewards", *here))
    said("consume: what keeps it from starting", "\n".join(found))


@pytest.mark.slow
async def test_the_doctor_checks_a_queue(folder: Path, gate: Gate, sqs: Sqs, sqs_endpoint: str) -> None:
    here = ("--region", REGION, "--endpoint", gate.url)

    async def finding(url: str) -> dict[str, Any]:
        done = await asyncio.to_thread(alone, "doctor", "--queue", url, *here, "--json")
        (found,) = [one for line in done.stdout.splitlines() if (one := json.loads(line))["check"] == "queue"]
        return dict(found)

    await sqs.send("x", {})
    found = await finding(sqs.url)
    assert found["ok"]
    async with a_queue(sqs_endpoint, "careless", None) as careless:
        advice = (await finding(careless.url))["advice"]
    missing = (await finding("sqs://missing"))["found"].replace(gate.url, "URL")
    said("doctor: queues", f"{found['found'].partition(': ')[2]}\n{advice}\n{missing}")


def test_without_the_extra_it_says_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", "4o3vfxtcmo7b:a_webhook_secret_of_some_length")
    monkeypatch.delitem(sys.modules, "webhooks.ingress.sqs", raising=False)
    monkeypatch.setitem(sys.modules, "aiobotocore.config", None)
    done = run("consume", "sqs://rewards?region=eu-west-1")
    assert (done.exit_code, "aiobotocore" in done.stderr, install_hint("sqs") in done.stderr) == (2, True, True)
