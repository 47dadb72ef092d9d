"""`webhook-listener serve --workers N` as processes: one supervisor, several workers on the sockets it opened."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from original_async import OriginalClient, OriginalWebhooks
from tests.texts import said, without_places
from tests.webhooks.listener_process import KEYS, ListenerProcess, delivery, environment, post, signed, start
from tests.webhooks.workers_kit import Workers, client, working
from vendor_sandboxes.original import API_KEY, API_SECRET, REWARDS, OriginalSandbox
from webhooks.cli.listener import Listener
from webhooks.cli.settings import ListenerSettings
from webhooks.cli.sources import SourceSpec
from webhooks.store.sqlite import SQLiteStore


async def kept(folder: Path) -> set[str]:
    """Return the uids of the events in the store."""
    store = SQLiteStore(folder / "inbox.db")
    try:
        return {one.event.ref.uid for one in await store.list_events(limit=100_000) if one.event.ref is not None}
    finally:
        await store.aclose()


async def half_sent(listener: ListenerProcess, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a delivery except its last byte."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(listener.where["url"].rpartition(":")[2]))
    head = "".join(f"{name}: {value}\r\n" for name, value in signed(body).items())
    writer.write(f"POST /webhooks/original HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body[:-1])
    await writer.drain()
    return reader, writer


async def forever(work: Callable[[], Awaitable[Any]]) -> None:
    """Repeat something until it fails."""
    while True:
        await work()


@pytest.mark.slow
async def test_each_worker_takes_deliveries_and_every_200_is_in_the_store(tmp_path: Path) -> None:
    async with working(tmp_path, workers=3) as workers, client() as session:
        for number in range(3):
            async with workers.only(number):
                assert await post(session, workers.url, delivery(f"{number}")) == 200
        statuses = await asyncio.gather(*(post(session, workers.url, delivery(f"n{number}")) for number in range(90)))
        assert statuses == [200] * 90
        assert await kept(tmp_path) == {*"012", *(f"n{number}" for number in range(90))}
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
@pytest.mark.processes_are_measured
async def test_keys_are_reloaded_by_all_workers_or_by_none(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first:one_secret_of_this_length\n")
    first, second = (
        OriginalWebhooks({name: f"{word}_secret_of_this_length"}) for name, word in [("first", "one"), ("second", "two")]
    )

    async def verify(source: OriginalWebhooks) -> list[int]:
        statuses = []
        for number in (0, 1):
            async with workers.only(number):
                body = delivery(f"{number}")
                statuses.append(await post(session, workers.url, body, signed(body, source)))
        return statuses

    async with working(tmp_path, "--keys-file", str(keys)) as workers, client() as session:
        keys.write_text("nonsense with a two_secret_of_this_length")
        workers.listener.send_signal(signal.SIGHUP)
        assert "two_secret" not in await workers.log_until(" ERROR ")
        assert await verify(first) == [200, 200]
        keys.write_text("second:two_secret_of_this_length\n")
        workers.listener.send_signal(signal.SIGHUP)
        reloaded = {(await workers.log_until("reloaded ")).partition("webhooks.listener: ")[2] for _ in range(3)}
        said("workers: reloaded", "".join(sorted(reloaded)))
        assert await verify(second) == [200, 200]
        assert await verify(first) == [401, 401]
        assert len([line for line in workers.lines if " ERROR " in line]) == 1


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def tls_options(authority: trustme.CA, folder: Path) -> list[str]:
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "cert.pem"))
    return ["--tls-cert", "cert.pem"]


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


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
    assert set(answered) <= await kept(tmp_path)


@pytest.mark.slow
async def test_a_killed_worker_is_replaced_and_the_others_continue(tmp_path: Path) -> None:
    async with working(tmp_path) as workers, client() as session:
        killed = workers.pids[1]
        os.kill(killed, signal.SIGKILL)
        for number in range(20):
            assert await post(session, workers.url, delivery(f"{number}")) == 200
        line = (await workers.log_until(" crashed ")).partition("webhooks.")[2]
        said("workers: one was killed", line.replace(str(killed), "N"))
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
async def test_a_certificate_is_reloaded_by_all_workers_or_by_none(tmp_path: Path, authority: trustme.CA) -> None:
    other = trustme.CA()

    async def works_with(trusted: trustme.CA) -> bool:
        try:
            for number in (0, 1):
                async with workers.only(number), client(ssl=trusting(trusted)) as session:
                    assert await post(session, workers.url, delivery(f"{number}")) == 200
        except aiohttp.ClientConnectorError:
            return False
        return True

    async with working(tmp_path, *tls_options(authority, tmp_path)) as workers:
        assert await works_with(authority)
        other.issue_cert("127.0.0.1").cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))  # its key is not there yet
        workers.listener.send_signal(signal.SIGHUP)
        await workers.log_until(" ERROR ")
        assert await works_with(authority)
        tls_options(other, tmp_path)
        workers.listener.send_signal(signal.SIGHUP)
        for _ in range(3):
            await workers.log_until("reloaded ")
        assert await works_with(other)
        assert not await works_with(authority)


@pytest.mark.slow
async def test_a_worker_that_cannot_restart_is_retried_until_it_can(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first:one_secret_of_this_length\n")
    async with working(tmp_path, "--keys-file", str(keys)) as workers:
        keys.write_text("nonsense")
        os.kill(workers.pids[0], signal.SIGTERM)
        for seconds in ("0.1", "0.2"):
            line = await workers.log_until(" crashed ")
            assert f" in {seconds} s: {keys}: " in line
        status, text = await workers.get("/readyz")
        assert (status, text.startswith("ready\nworker 0: ")) == (200, True)
        keys.write_text("first:one_secret_of_this_length\n")
        assert await workers.replaced() == 0
        assert await workers.listener.stop() == 0


@pytest.mark.slow
async def test_a_shutdown_does_not_wait_for_a_worker_that_cannot_restart(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first:one_secret_of_this_length\n")
    async with working(tmp_path, "--keys-file", str(keys)) as workers:
        keys.unlink()
        os.kill(workers.pids[0], signal.SIGKILL)
        await workers.log_until("is restarted in 0.8 s")
        assert await workers.listener.stop() == 0


async def not_started(folder: Path, *options: str, **env: str) -> tuple[int, str]:
    """Return the exit code of a listener with workers that cannot start, and the last line of its log."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "webhooks", "serve", "--port", "0", "--admin-port", "0", "--workers", "2", *options),
        cwd=folder,
        env=environment(**env),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, log = await process.communicate()
    assert out == b""
    assert process.returncode is not None
    return process.returncode, log.decode().splitlines()[-1]


def in_workers(folder: Path, *lines: str) -> str:
    """Return a PYTHONPATH with which workers, but not their supervisor, run these lines at start-up."""
    body = "".join(f"    {line}\n" for line in lines)
    (folder / "sitecustomize.py").write_text(f"import sys\nif 'webhooks.cli.worker' in sys.orig_argv:\n{body}")
    return f"{folder}{os.pathsep}{environment()['PYTHONPATH']}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "options"),
    [
        (7, ("--store", "sqlite:///missing/inbox.db")),
        (2, ("--keys-file", "missing")),
        (7, ("--unix", "taken")),
    ],
)
async def test_a_listener_that_cannot_start_says_why_in_its_last_line(tmp_path: Path, code: int, options: Sequence[str]) -> None:
    (tmp_path / "taken").write_text("")
    ended = await not_started(tmp_path, *options)
    assert ended[0] == code
    said(f"serve {' '.join(options)}", ended[1])


@pytest.mark.processes_are_measured
async def test_if_one_worker_cannot_start_the_others_exit_too(tmp_path: Path) -> None:
    path = in_workers(
        tmp_path, "import os", "try: os.close(os.open('first', os.O_CREAT | os.O_EXCL))", "except FileExistsError: os._exit(9)"
    )
    code, line = await not_started(tmp_path, PYTHONPATH=path)
    assert code == 7
    said("workers: one that cannot start", re.sub(r"worker [01]", "worker N", without_places(line)))


@pytest.mark.slow
async def test_a_shutdown_does_not_wait_for_a_worker_that_never_starts(tmp_path: Path) -> None:
    path = in_workers(tmp_path, "open('starting', 'w').close()", "import time; time.sleep(1_000)")
    options = ("--port", "0", "--admin-port", "0", "--workers", "2", "--drain", "0.1")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "webhooks", "serve", *options),
        cwd=tmp_path,
        env=environment(PYTHONPATH=path),
        stdout=asyncio.subprocess.PIPE,
    )
    while not (tmp_path / "starting").exists():
        await asyncio.sleep(0)
    process.send_signal(signal.SIGTERM)
    out, _ = await process.communicate()
    assert (process.returncode, out) == (4, b"")


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
