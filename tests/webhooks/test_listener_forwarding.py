"""Forwarding and metrics of a listener."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
import pytest
from attrs import evolve
from prometheus_client import CollectorRegistry

from tests.texts import raises
from tests.webhooks.listener_process import SOURCE, delivery, signed
from tests.webhooks.store_contract import event, outcome, ref
from tests.webhooks.world import a_world, leave, settle
from webhooks.cli.forwarding import Forwarder, ForwardFailed
from webhooks.cli.metric_families import as_text, families_of
from webhooks.cli.metrics import Metrics, of_store
from webhooks.prometheus import collector
from webhooks.receiver import Receiver
from webhooks.store.memory import MemoryStore
from webhooks.store.outcomes import CONFLICT_EVENT
from webhooks.store.readings import StoreStatistics


async def test_a_conflict_event_of_this_store_is_not_forwarded() -> None:
    async with aiohttp.ClientSession() as session:
        await Forwarder(session, "http://127.0.0.1:9/", timeout=1)(event("1", name=CONFLICT_EVENT))
        with raises(ForwardFailed, "forward: no answer"):
            await Forwarder(session, "http://127.0.0.1:9/", timeout=1)(event("1"))


async def test_a_signed_event_of_the_same_name_is_forwarded() -> None:
    body = b'{"event": "outcome.conflict", "data": {}}'
    async with aiohttp.ClientSession() as session:
        with raises(ForwardFailed, "forward: no answer"):
            await Forwarder(session, "http://127.0.0.1:9/", timeout=1)(SOURCE.parse(body, signed(body)))


@pytest.mark.parametrize("status", [300, 404, 500, 503])
async def test_an_answer_other_than_2xx_is_a_failure(status: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d Words\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)
        writer.close()

    body = delivery("1")
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        with pytest.raises(ForwardFailed, match=f"answered HTTP {status}, not 2xx"):
            await Forwarder(session, url, timeout=5)(SOURCE.parse(body, signed(body)))


async def test_a_failed_forward_logs_one_line_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    told = asyncio.Event()

    class Teller(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.set()

    teller, receiver = Teller(), Receiver(SOURCE, MemoryStore())
    async with aiohttp.ClientSession() as session:
        receiver.on("*", name="forward /in")(Forwarder(session, "http://127.0.0.1:9/", timeout=1))
        logging.getLogger("webhooks.handlers").addHandler(teller)
        try:
            async with receiver:
                body = delivery("1")
                assert (await receiver.receive({"x-webhook-signature": SOURCE.sign(body)}, body)).status == 200
                await told.wait()
        finally:
            logging.getLogger("webhooks.handlers").removeHandler(teller)
    assert "ClientConnectorError" in caplog.text
    assert "again later" not in caplog.text
    assert "Traceback" not in caplog.text


async def test_metrics_include_refusals_polls_and_waiters() -> None:
    store = StoreStatistics(events=9, ready=2, dead=1, lookups=0, pending=3, outcomes=9, conflicts=1, oldest_ready_at=990.0)
    metrics = Metrics({"header_timeout": 7})
    for via in ("webhook", "poll", "webhook"):
        metrics.settled(evolve(outcome(ref("1")), via=via))
    metrics.watch_connections(lambda: 8)
    async with a_world() as world:
        receiver = Receiver(SOURCE, world.store)
        await receiver.receive({}, b"")
        metrics.watch({"/in": receiver}, world.completions)
        waiting = world.start("2")
        await settle()
        text = as_text([await metrics.families(), families_of(of_store(store, now=1_000.0, free_bytes=5))]).decode()
        await leave(waiting)
    for line in (
        'webhooks_rejected_total{path="",reason="header_timeout"} 7.0',
        'webhooks_rejected_total{path="/in",reason="missing"} 1.0',
        'webhooks_handler_runs_total{path="/in",result="failed"} 0.0',
        "webhooks_connections 8.0",
        "webhooks_inbox_lag_seconds 10.0",
        "webhooks_waiters 1.0",
        'webhooks_waits_total{ended="timeout"} 0.0',
        'webhooks_settled_total{via="webhook"} 2.0',
        'webhooks_settled_total{via="poll"} 1.0',
        "webhooks_polled 1.0",
        "webhooks_polls_total 0.0",
        "webhooks_poll_errors_total 0.0",
        "webhooks_dead_letters 1.0",
        "webhooks_conflicts 1.0",
        "webhooks_disk_free_bytes 5.0",
    ):
        assert text.count(f"\n{line}\n") == 1, line
    assert text.count("# TYPE webhooks_rejected_total counter") == 1
    assert "_created" not in text


async def test_an_application_shows_what_its_receiver_counts() -> None:
    registry = CollectorRegistry(auto_describe=True)
    receiver = Receiver(SOURCE, MemoryStore())
    registry.register(collector(receiver))
    body = delivery("1")
    for _ in range(2):
        assert (await receiver.receive(signed(body), body)).status == 200
    assert registry.get_sample_value("webhooks_accepted_total", {"path": ""}) == 1
    assert registry.get_sample_value("webhooks_duplicates_total", {"path": ""}) == 1
    assert registry.get_sample_value("webhooks_waiters") is None


async def test_refusals_are_shown_from_zero_on_so_that_increase_counts_the_first() -> None:
    registry = CollectorRegistry()
    receiver = Receiver(SOURCE, MemoryStore())
    registry.register(collector(receiver))

    def shown(reason: str) -> float | None:
        return registry.get_sample_value("webhooks_rejected_total", {"path": "", "reason": reason})

    assert [shown(each) for each in ("missing", "mismatch", "unknown_key", "slow")] == [0.0] * 4
    await receiver.receive({}, b"")
    assert [shown(each) for each in ("missing", "mismatch")] == [1.0, 0.0]
