"""Forwarding and metrics of a listener, and deliveries that are forwarded late, again or never."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from attrs import evolve
from prometheus_client import CollectorRegistry

from rewards_core.backoff import delay
from tests.texts import raises
from tests.webhooks.command_kit import command
from tests.webhooks.listener_process import APP, SOURCE, delivery, kept, post, running, signed
from tests.webhooks.store_contract import event, outcome, ref
from tests.webhooks.world import a_world, leave, settle
from webhooks.cli.forwarding import Forwarder, ForwardFailed
from webhooks.cli.metric_families import as_text, families_of
from webhooks.cli.metrics import Metrics, of_store
from webhooks.cli.settings import ForwardSettings
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


class Elsewhere:
    """The service behind `--forward-to`."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.words = ""
        self.got: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()

    async def take(self, request: web.Request) -> web.Response:
        self.got.put_nowait(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        status = self.answers.pop(0) if self.answers else 204
        return web.Response(status=status, text=self.words, headers={"Location": "/elsewhere"} if status == 302 else None)


@pytest.fixture
async def elsewhere() -> Any:
    service = Elsewhere()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", service.take)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service.url = f"http://127.0.0.1:{runner.addresses[0][1]}/in"  # type: ignore[attr-defined]
    yield service
    await runner.cleanup()


@pytest.mark.slow
async def test_deliveries_are_forwarded_unchanged_until_accepted(tmp_path: Path, elsewhere: Any) -> None:
    elsewhere.answers = [302, 503]  # each for one of the two, and no redirect is followed
    bodies = [delivery(uid, note="ü") + b"\n" for uid in ("1", "2")]
    sent = {
        body: {
            **signed(body),
            "x-webhook-signature": f"unknown,ab {SOURCE.sign(body)}",
            "x-webhook-correlation-id": f"c-{number}",
            "x-webhook-attempt": "3",
        }
        for number, body in enumerate(bodies)
    }
    async with running(tmp_path, "--forward-to", elsewhere.url) as listener, aiohttp.ClientSession() as session:
        for body, headers in sent.items():
            assert await post(session, listener.url, body, headers) == 200
        arrived = []
        for _ in range(4):
            got, raw = await elsewhere.got.get()
            for name in ("x-webhook-signature", "x-webhook-correlation-id", "x-webhook-attempt"):
                assert got[name] == sent[raw][name]
            SOURCE.verify(got, raw)
            arrived.append(raw)
    assert set(arrived) == set(bodies)
    assert elsewhere.got.empty()


@pytest.mark.slow
async def test_a_delivery_not_forwarded_yet_is_forwarded_after_a_crash(tmp_path: Path, elsewhere: Any) -> None:
    options = ["--forward-timeout", "0.3", "--forward-to"]
    async with running(tmp_path, *options, "http://127.0.0.1:9/in") as listener, aiohttp.ClientSession() as session:
        assert await post(session, listener.url, delivery("1")) == 200
        await listener.kill()
    async with running(tmp_path, *options, elsewhere.url):
        _, raw = await elsewhere.got.get()
        assert raw == delivery("1")


@pytest.mark.slow
async def test_jobs_of_a_missing_handler_keep_waiting(tmp_path: Path) -> None:
    async with running(tmp_path, "--forward-to", "http://127.0.0.1:9/in") as listener, aiohttp.ClientSession() as session:
        assert await post(session, listener.url, delivery("1")) == 200
        await listener.stop()
    async with running(tmp_path):
        (one,) = await kept(tmp_path)
        assert [job.state for job in one.jobs] == ["ready"]


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_the_command_line_changes_the_store_of_a_running_listener(tmp_path: Path, elsewhere: Any) -> None:
    elsewhere.answers = [500]
    options = ["--forward-to", elsewhere.url, "--forward-attempts", "1"]
    env = {"ORIGINAL_APP_UID": APP["uid"]}
    async with running(tmp_path, *options, env=env) as listener, aiohttp.ClientSession() as session:
        assert await post(session, listener.url, delivery("1")) == 200
        await elsewhere.got.get()
        while (await kept(tmp_path))[0].state != "dead":
            pass
        code, rows, _ = await command(tmp_path, "dead-letters", "retry", "--all")
        assert (code, rows) == (0, [{"retried": 1, "passed_over": []}])
        assert (await elsewhere.got.get())[1] == delivery("1")
        code, rows, _ = await command(tmp_path, "events", "replay", "1", "2")
        assert (code, rows) == (5, [{"replayed": 1, "passed_over": [{"id": 2, "why": "there is no such event"}]}])
        assert (await elsewhere.got.get())[1] == delivery("1")
        foreign = delivery("2").replace(APP["uid"].encode(), b"SOMEOTHERAPP")
        assert await post(session, listener.url, foreign) == 200
        code, rows, _ = await command(tmp_path, "dead-letters", "purge", "--older-than-days", "0")
        assert (code, rows) == (0, [{"purged": 1}])
        code, _, err = await command(tmp_path, "wait", "7", "--timeout", "0")
        assert (code, "did not settle within 0 s" in err) == (4, True)


async def until_state(folder: Path, state: str) -> None:
    """Wait until the first event of a store is in a state."""
    while (await kept(folder))[0].state != state:
        pass


@pytest.mark.slow
@pytest.mark.parametrize("limit", [["--forward-for", "0.5"], ["--forward-attempts", "1"]])
async def test_a_delivery_not_accepted_in_time_is_a_dead_letter_that_can_be_retried(
    tmp_path: Path, elsewhere: Any, limit: list[str]
) -> None:
    elsewhere.answers, elsewhere.words = [503], "down for \x1b[31mmaintenance" + "!" * 10_000
    async with running(tmp_path, "--forward-to", elsewhere.url, *limit) as listener, aiohttp.ClientSession() as session:
        assert await post(session, listener.url, delivery("1")) == 200
        assert (await elsewhere.got.get())[1] == delivery("1")
        await until_state(tmp_path, "dead")
        _, (row,), _ = await command(tmp_path, "dead-letters", "list")
        assert row["why"].startswith(
            "forward /webhooks/original: could not forward the delivery: the service behind --forward-to answered HTTP 503, "
            "not 2xx: "
            "down for  [31mmaintenance!!!"
        )
        assert len(row["why"]) < 350
        assert (row["handlers"], row["operation"]) == ("dead", "done")
        assert elsewhere.got.empty()
        code, rows, _ = await command(tmp_path, "dead-letters", "retry", "1")
        assert (code, rows) == (0, [{"retried": 1, "passed_over": []}])
        assert (await elsewhere.got.get())[1] == delivery("1")
        await until_state(tmp_path, "done")


@pytest.mark.parametrize(
    ("given", "attempts"),
    [({}, 20), ({"attempts": 3}, 3), ({"give_up_after": 60.0, "attempts": 3}, 3), ({"give_up_after": 60.0}, 10**9)],
)
def test_a_time_limit_alone_allows_any_number_of_attempts(given: dict[str, Any], attempts: int) -> None:
    policy = ForwardSettings(url="http://127.0.0.1:9/", **given).handlers
    assert (policy.attempts, policy.give_up_after) == (attempts, given.get("give_up_after"))


def test_the_default_attempts_take_about_an_hour_as_the_help_says() -> None:
    policy = ForwardSettings(url="http://127.0.0.1:9/").handlers
    pauses = [delay(number, first=policy.first_delay, longest=policy.max_delay) for number in range(policy.attempts - 1)]
    assert 50 * 60 < sum(pauses) < 70 * 60
