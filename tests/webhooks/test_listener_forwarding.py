"""Forwarding and metrics of a listener."""

from __future__ import annotations

import asyncio
import logging

import aiohttp
import pytest
from attrs import evolve

from tests.webhooks.listener_process import SOURCE, delivery, signed
from tests.webhooks.store_contract import event, outcome, ref
from webhooks.cli.forwarding import Forwarder, ForwardFailed
from webhooks.cli.metrics import Metrics, as_text, store_families
from webhooks.completions import CompletionStatistics
from webhooks.receiver import Receiver
from webhooks.store.memory import MemoryStore
from webhooks.store.outcomes import CONFLICT_EVENT
from webhooks.store.records import StoreStatistics


async def test_a_conflict_event_of_this_store_is_not_forwarded() -> None:
    async with aiohttp.ClientSession() as session:
        await Forwarder(session, "http://127.0.0.1:9/", timeout=1)(event("1", name=CONFLICT_EVENT))
        with pytest.raises(ForwardFailed, match=r"^could not forward the delivery: .* did not answer"):
            await Forwarder(session, "http://127.0.0.1:9/", timeout=1)(event("1"))


async def test_a_signed_event_of_the_same_name_is_forwarded() -> None:
    body = b'{"event": "outcome.conflict", "data": {}}'
    async with aiohttp.ClientSession() as session:
        with pytest.raises(ForwardFailed, match="did not answer"):
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
    assert "could not forward the delivery: the service behind --forward-to did not answer (ClientConnectorError)" in caplog.text
    assert "again later" not in caplog.text
    assert "Traceback" not in caplog.text


async def test_metrics_include_refusals_polls_and_waiters() -> None:
    completions = CompletionStatistics(
        waiting=2,
        pending=3,
        settled_by_webhook=4,
        settled_by_poll=5,
        timeouts=0,
        conflicts=0,
        polls=6,
        poll_errors=1,
        polls_pause_for=0.0,
        restarts=0,
        delays={},
    )
    store = StoreStatistics(events=9, ready=2, dead=1, lookups=0, pending=3, outcomes=9, conflicts=1, oldest_ready_at=990.0)
    metrics = Metrics()
    for via in ("webhook", "poll", "webhook"):
        metrics.settled(evolve(outcome(ref("1")), via=via))
    counted = metrics.families(receivers={}, refused={"header_timeout": 7}, connections=8, completions=completions)
    text = (as_text([*counted, *store_families(store, now=1_000.0)]) or b"").decode()
    for line in (
        'webhooks_rejected_total{path="",reason="header_timeout"} 7.0',
        "webhooks_connections 8.0",
        "webhooks_inbox_lag_seconds 10.0",
        "webhooks_waiters 2.0",
        'webhooks_settled_total{via="webhook"} 2.0',
        'webhooks_settled_total{via="poll"} 1.0',
        "webhooks_polled 3.0",
        "webhooks_polls_total 6.0",
        "webhooks_poll_errors_total 1.0",
        "webhooks_dead_letters 1.0",
        "webhooks_conflicts 1.0",
    ):
        assert line in text
