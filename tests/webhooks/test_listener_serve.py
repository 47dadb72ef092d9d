"""`webhook-listener serve` as a process: signals, sockets, TLS, sources, health, forwarding, polling."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from aiohttp import web
from typer.testing import CliRunner

from original_async import OriginalClient, OriginalWebhooks
from rewards_core.backoff import delay
from rewards_core.install_hint import install_hint
from rewards_core.operations import OperationRef, OperationStatus
from tests.texts import said, without_places
from tests.webhooks.listener_process import APP, SOURCE, delivery, environment, post, running, signed
from vendor_sandboxes.original import API_KEY, API_SECRET, REWARDS, OriginalSandbox
from webhooks.cli import app
from webhooks.cli.admin import ADMIN_LIMITS
from webhooks.cli.settings import ForwardSettings
from webhooks.store.base import Subscriber
from webhooks.store.sqlite import SQLiteStore


async def kept(folder: Path) -> list[Any]:
    store = SQLiteStore(folder / "inbox.db")
    try:
        return list(await store.list_events(limit=10_000))
    finally:
        await store.aclose()


async def get(url: str, **headers: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, await answer.text()


@pytest.mark.slow
async def test_a_200_is_in_the_store_and_a_stop_is_clean(tmp_path: Path) -> None:
    async with running(tmp_path) as listener, aiohttp.ClientSession() as session:
        assert await post(session, listener.url, delivery("1")) == 200
        assert await post(session, listener.url, delivery("1")) == 200
        assert await post(session, listener.url, delivery("2"), {}) == 401
        assert await post(session, listener.url.replace("original", "other"), delivery("2")) == 404
        assert [one.event.body for one in await kept(tmp_path)] == [delivery("1")]
        assert await listener.stop() == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inbox.db", "inbox.db.lock"]


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
    in_store = {one.event.ref.uid for one in await kept(tmp_path)}
    assert set(acknowledged) <= in_store
    assert broken == []


@pytest.mark.slow
async def test_a_second_signal_exits_at_once(tmp_path: Path) -> None:
    async with running(tmp_path, "--body-timeout", "60", "--log-level", "info") as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(listener.where["url"].rpartition(":")[2]))
        writer.write(b"POST /webhooks/original HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        await writer.drain()
        while (await get(listener.where["admin"] + "/metrics"))[1].count("webhooks_connections 1.0") != 1:
            pass
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
        _, writer = await asyncio.open_connection("127.0.0.1", int(listener.where["url"].rpartition(":")[2]))
        writer.write(b"POST /webhooks/original HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        await writer.drain()
        while (await get(listener.where["admin"] + "/metrics"))[1].count("webhooks_connections 1.0") != 1:
            pass
        assert await listener.stop() == 4
        writer.close()


@pytest.mark.slow
async def test_sighup_reloads_keys_and_keeps_the_old_ones_if_they_are_invalid(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first:one_secret_of_this_length\n")
    first, second = (
        OriginalWebhooks({name: f"{word}_secret_of_this_length"}) for name, word in [("first", "one"), ("second", "two")]
    )
    async with running(tmp_path, "--keys-file", str(keys), "--log-level", "info") as listener, aiohttp.ClientSession() as session:
        assert await post(session, listener.url, delivery("1"), signed(delivery("1"), first)) == 200
        assert await post(session, listener.url, delivery("2"), signed(delivery("2"), second)) == 401
        keys.write_text("# rotated\nsecond:two_secret_of_this_length\n")
        listener.send_signal(signal.SIGHUP)
        await listener.log_until("reloaded keys and certificate")
        assert await post(session, listener.url, delivery("2"), signed(delivery("2"), second)) == 200
        assert await post(session, listener.url, delivery("3"), signed(delivery("3"), first)) == 401
        keys.write_text("nonsense with a one_secret_of_this_length")
        listener.send_signal(signal.SIGHUP)
        line = await listener.log_until("could not reload")
        assert "one_secret" not in line
        assert await post(session, listener.url, delivery("4"), signed(delivery("4"), second)) == 200


@pytest.mark.slow
async def test_several_sources_use_several_paths(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.keys").write_text(json.dumps({name: f"{name}_secret_of_this_length"}))
    a, b = (OriginalWebhooks({name: f"{name}_secret_of_this_length"}) for name in "ab")
    options = ["--source", "/a,scope=a,keys=a.keys", "--source", "/b,scope=b,keys=b.keys,app=OTHERAPP0000"]
    async with running(tmp_path, *options) as listener, aiohttp.ClientSession() as session:
        url = listener.where["url"]
        assert listener.where["paths"] == ["/a", "/b"]
        assert await post(session, f"{url}/a", delivery("1"), signed(delivery("1"), a)) == 200
        assert await post(session, f"{url}/a", delivery("2"), signed(delivery("2"), b)) == 401
        assert await post(session, f"{url}/b", delivery("2"), signed(delivery("2"), b)) == 200
        found = {one.event.scope: one for one in await kept(tmp_path)}
        assert found["a"].event.ref == OperationRef("a", "allocation", "1")
        assert "OTHERAPP0000" in (found["b"].event.problem or "")


@pytest.mark.slow
async def test_it_listens_on_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "in.sock"
    async with running(tmp_path, "--unix", str(path)) as listener:
        assert listener.where["unix"] == str(path)
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
            assert await post(session, listener.url, delivery("1")) == 200
        assert await listener.stop() == 0
    assert not path.exists()


@pytest.mark.slow
async def test_only_allowed_tls_versions_are_accepted(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "cert.pem"))
    options = ["--tls-cert", "cert.pem", "--tls-min", "1.3", "--log-level", "info"]
    async with running(tmp_path, *options) as listener:
        assert listener.where["url"].startswith("https://")
        for newest, works in [(ssl.TLSVersion.TLSv1_3, True), (ssl.TLSVersion.TLSv1_2, False)]:
            context = ssl.create_default_context()
            context.maximum_version = newest
            authority.configure_trust(context)
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
                if works:
                    assert await post(session, listener.url, delivery("1")) == 200
                else:
                    with pytest.raises(aiohttp.ClientConnectorError):
                        await post(session, listener.url, delivery("2"))
        authority.issue_cert("127.0.0.1").cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))  # its key is not there yet
        listener.send_signal(signal.SIGHUP)
        await listener.log_until("could not reload")
        context = ssl.create_default_context()
        authority.configure_trust(context)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            assert await post(session, listener.url, delivery("3")) == 200


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
        status, told = await get(listener.where["admin"] + "/metrics")
    assert (status, "prometheus-client" in told, await asyncio.to_thread(install_hint, "metrics") in told) == (501, True, True)


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


class Ear(Subscriber):
    """A subscriber of a store that another process writes."""

    def __init__(self) -> None:
        self._heard: asyncio.Queue[Any] = asyncio.Queue()

    def waits_for(self, ref: OperationRef) -> bool:
        return True

    def settled(self, outcome: Any) -> None:
        self._heard.put_nowait(outcome)

    async def outcome(self) -> Any:
        async with asyncio.timeout(120):
            return await self._heard.get()


@asynccontextmanager
async def listening_to(folder: Path) -> AsyncIterator[Ear]:
    store, ear = SQLiteStore(folder / "inbox.db"), Ear()
    await store.subscribe(ear)
    yield ear
    await store.aclose()


def credentials(sandbox: OriginalSandbox) -> dict[str, str]:
    return {"ORIGINAL_API_KEY": API_KEY, "ORIGINAL_API_SECRET": API_SECRET, "ORIGINAL_BASE_URL": sandbox.url}


@pytest.mark.slow
async def test_a_delivery_with_only_a_uid_is_looked_up(tmp_path: Path) -> None:
    async with OriginalSandbox(confirm=(0.0, 0.0), fail_rate=1.0) as sandbox:
        uid = await create(sandbox.url)
        async with running(tmp_path, env=credentials(sandbox)) as listener, listening_to(tmp_path) as ear:
            assert (listener.where["polling"], listener.where["poll_scope"]) == (True, "default")
            async with aiohttp.ClientSession() as session:
                assert await post(session, listener.url, delivery(uid, complete=False)) == 200
            outcome = await ear.outcome()
            assert (outcome.ref.uid, outcome.status, outcome.via) == (uid, OperationStatus.FAILED, "webhook")


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_pending_operations_settle_by_polls_without_any_delivery(tmp_path: Path) -> None:
    async with OriginalSandbox(confirm=(0.0, 0.0), fail_rate=1.0) as sandbox:
        ref = OperationRef("default", "allocation", await create(sandbox.url))
        before = SQLiteStore(tmp_path / "inbox.db")
        await before.add_pending([ref], poll_in=0.0)
        await before.aclose()
        options = ["--poll-first-after", "0.1"]
        async with listening_to(tmp_path) as ear, running(tmp_path, *options, env=credentials(sandbox)) as listener:
            outcome = await ear.outcome()
            assert (outcome.ref, outcome.status, outcome.via) == (ref, OperationStatus.FAILED, "poll")
            assert 'webhooks_settled_total{via="poll"} 1.0' in (await get(listener.where["admin"] + "/metrics"))[1]


@pytest.mark.slow
async def test_the_poll_scope_defaults_to_that_of_the_only_source(tmp_path: Path) -> None:
    env = {"ORIGINAL_API_KEY": API_KEY, "ORIGINAL_API_SECRET": API_SECRET, "ORIGINAL_BASE_URL": "http://127.0.0.1:9/v1"}
    async with running(tmp_path, "--source", "/a,scope=a", env=env) as listener:
        assert listener.where["poll_scope"] == "a"


async def create(url: str) -> str:
    """Create an allocation at the sandbox."""
    async with OriginalClient(API_KEY, API_SECRET, base_url=url) as client:
        created = await client.create_allocation(
            reward_uid=next(iter(REWARDS)), to_user_uid="754566475542", amount="1.23", nonce="n1"
        )
    return created.uid


def refused(monkeypatch: pytest.MonkeyPatch, *options: str, **env: str) -> tuple[int, str]:
    """Return the exit code and the error of a listener that does not start."""
    with monkeypatch.context() as patch:
        for name in os.environ.keys() - environment().keys():
            patch.delenv(name)
        for name, value in environment(**env).items():
            patch.setenv(name, value)
        ended = CliRunner().invoke(app, ["serve", "--port", "0", "--admin-port", "0", *options], catch_exceptions=False)
    assert ended.stdout == ""
    text = " ".join(re.sub("[╭╮╰╯│─]", " ", ended.stderr).split())
    return ended.exit_code, text.rpartition("Invalid value: ")[2]


@pytest.mark.slow
def test_invalid_settings_are_reported_with_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table: list[tuple[int, tuple[str, ...], dict[str, str]]] = [
        (2, (), {"ORIGINAL_WEBHOOK_KEYS": ""}),
        (2, ("--keys-file", "missing"), {}),
        (2, ("--store", "mysql://x"), {}),
        (7, ("--store", "sqlite:///missing/inbox.db"), {}),
        (2, ("--admin-host", "0.0.0.0"), {}),
        (2, ("--admin-token-file", os.devnull), {}),
        (2, ("--admin-token-file", "missing"), {}),
        (2, ("--tls-cert", "missing"), {}),
        (2, ("--tls-cert", "missing", "--tls-min", "1.1"), {}),
        (2, ("--tls-key", "key.pem"), {}),
        (2, ("--tls-min", "1.3"), {}),
        (7, ("--host", "no..host"), {}),
        (2, ("--source", "nonsense"), {}),
        (2, ("--source", "/x?y=1"), {}),
        (2, ("--source", "/x\x07y"), {}),
        (2, ("--source", "/a", "--source", "/b"), {}),
        (2, ("--allow", "everybody"), {}),
        (2, ("--forward-to", "http://user:pw@127.0.0.1/"), {}),
        (2, ("--poll",), {}),
        (2, ("--poll", "--poll-scope", "b"), {}),
        (2, ("--source", "/a,scope=a", "--source", "/b,scope=b"), {"ORIGINAL_API_KEY": "k"}),
        (2, ("--unix-mode", "0666"), {}),
        (2, ("--unix-group", "daemon"), {}),
        (2, ("--unix", "in.sock", "--unix-mode", "0640"), {}),
        (2, ("--unix", "@in.sock"), {}),
        (2, ("--unix", ""), {}),
        (7, ("--unix", "none/in.sock"), {}),
        (7, ("--unix", "in.sock", "--unix-group", "nobody at all"), {}),
        (2, ("--workers", "2", "--store", "memory:"), {}),
    ]
    found = []
    for code, options, env in table:
        ended = refused(monkeypatch, *options, **env)
        assert ended[0] == code, (options, ended)
        found.append(f"serve {' '.join(map(ascii, options))}\n    {ended[0]}: {ended[1]}")
    said("serve: invalid settings", "\n".join(found))
    for code, option, value in ((7, "--host", "no host"), (7, "--host", "203.0.113.1"), (2, "--unix", f"{'x' * 110}.sock")):
        assert refused(monkeypatch, option, value)[0] == code


@pytest.mark.slow
async def test_a_process_that_cannot_start_logs_one_line(tmp_path: Path) -> None:
    code, rows, log = await command(tmp_path, "serve", "--store", "sqlite:///missing/inbox.db")
    assert (code, rows, "Traceback" in log) == (7, [], False)
    said("serve --store sqlite:///missing/inbox.db", without_places(log.splitlines()[-1]))


@pytest.mark.slow
async def test_two_listeners_share_a_store(tmp_path: Path) -> None:
    async with running(tmp_path) as one, running(tmp_path) as other, aiohttp.ClientSession() as session:
        assert await post(session, one.url, delivery("1")) == 200
        assert await post(session, other.url, delivery("1")) == 200
        assert await post(session, other.url, delivery("2")) == 200
        assert {each.event.ref.uid for each in await kept(tmp_path)} == {"1", "2"}


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_events_may_be_stored_in_memory(tmp_path: Path) -> None:
    async with running(tmp_path, "--store", "memory:") as listener, aiohttp.ClientSession() as session:
        assert await post(session, listener.url, delivery("1")) == 200
        assert await listener.stop() == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_a_full_disk_is_answered_503_until_space_is_free(tmp_path: Path) -> None:
    program = (
        "-c",
        (
            "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY)); "
            "import signal; signal.signal(signal.SIGUSR1, lambda *_: resource.setrlimit(resource.RLIMIT_FSIZE, "
            "(resource.RLIM_INFINITY, resource.RLIM_INFINITY))); from webhooks.__main__ import main; main()"
        ),
    )
    async with running(tmp_path, program=program) as listener, aiohttp.ClientSession() as session:
        statuses: list[int] = []
        while 503 not in statuses:
            body = delivery(str(len(statuses)), note="x" * 20_000)
            async with session.post(listener.url, data=body, headers=signed(body)) as answer:
                statuses.append(answer.status)
                retry_after = answer.headers.get("Retry-After")
        assert retry_after == "5"
        assert set(statuses[:-1]) == {200}
        assert len(await kept(tmp_path)) == len(statuses) - 1
        listener.send_signal(signal.SIGUSR1)
        while await post(session, listener.url, body) != 200:
            pass
        assert len(await kept(tmp_path)) == len(statuses)


async def command(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> tuple[int, list[dict[str, Any]], str]:
    """Run a command with piped output, and return its exit code, JSON lines and standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "webhooks", *arguments),
        cwd=folder,
        env=environment(**(env or {})),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode or 0, [json.loads(line) for line in out.splitlines()], err.decode()


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
        assert (code, rows[0]["replayed"], [each["id"] for each in rows[0]["passed_over"]]) == (5, 1, [2])
        assert (await elsewhere.got.get())[1] == delivery("1")
        foreign = delivery("2").replace(APP["uid"].encode(), b"SOMEOTHERAPP")
        assert await post(session, listener.url, foreign) == 200
        code, rows, _ = await command(tmp_path, "dead-letters", "purge", "--older-than-days", "0")
        assert (code, rows) == (0, [{"purged": 1}])
        code, _, err = await command(tmp_path, "wait", "7", "--timeout", "0")
        assert (code, " 0 s" in err) == (4, True)


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
        assert re.match(r"forward /webhooks/original: .* HTTP 503, .*: down for  \[31mmaintenance!!!", row["why"])
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


@pytest.mark.slow
async def test_a_wait_is_polled_by_the_listener_if_the_waiter_cannot(tmp_path: Path) -> None:
    async with OriginalSandbox(confirm=(0.0, 0.0), fail_rate=1.0) as sandbox:
        uid = await create(sandbox.url)
        async with running(tmp_path, "--polls-per-second", "50", env=credentials(sandbox)) as listener:
            code, rows, _ = await command(tmp_path, "wait", uid)
            assert (code, rows[0]["status"]) == (3, "failed")
            assert 'webhooks_settled_total{via="poll"} 1.0' in (await get(listener.where["admin"] + "/metrics"))[1]


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_a_waiter_with_credentials_polls_the_vendor_itself(tmp_path: Path) -> None:
    async with OriginalSandbox(confirm=(0.0, 0.0)) as sandbox, running(tmp_path):
        uid = await create(sandbox.url)
        code, rows, _ = await command(tmp_path, "wait", uid, env=credentials(sandbox))
        assert (code, rows[0]["status"], rows[0]["resource"]["uid"]) == (0, "done", uid)


@pytest.mark.slow
async def test_it_raises_the_limit_of_open_files_for_its_connections(tmp_path: Path) -> None:
    program = (
        "-c",
        (
            "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1])); "
            "from webhooks.__main__ import main; main()"
        ),
    )
    options = ["--max-connections", "300", "--max-per-peer", "300"]
    async with running(tmp_path, *options, program=program) as listener:
        port = int(listener.where["url"].rpartition(":")[2])
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(200)]
        async with aiohttp.ClientSession() as session:
            assert await post(session, listener.url, delivery("1")) == 200
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
