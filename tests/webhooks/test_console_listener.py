"""The console of a running listener, alone or with workers, and beside a store."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.texts import said
from tests.webhooks.command_kit import alone, run
from tests.webhooks.console_kit import asked, heard, split_link, watching
from tests.webhooks.listener_process import Workers, client, delivery, post, running, start, working
from tests.webhooks.postgres_kit import PASSWORD
from tests.webhooks.store_contract import event, ref
from webhooks.store.postgres import PostgresStore
from webhooks.store.sqlite import SQLiteStore


async def verdicts(frames: Any, count: int) -> Counter[str]:
    """Return how many deliveries of each verdict were counted, without those to be repeated, once there are so many."""
    found: Counter[str] = Counter()
    while found.total() < count:
        found.update((await heard(frames, "deliveries"))["counts"])
        found.pop("not kept", None)
    return found


@asynccontextmanager
async def delivered(workers: Workers, number: int, session: aiohttp.ClientSession, body: bytes) -> AsyncIterator[None]:
    """Deliver a body to one worker while the others are suspended.

    Deliver again if another was suspended with the lock of the store, which the console asks for too.
    """
    status = 503
    while status == 503:
        async with workers.only(number):
            status = await post(session, workers.url, body)
            if status != 503:
                assert status == 200
                yield


@pytest.mark.slow
@pytest.mark.parametrize("store", ["memory:", "sqlite:///inbox.db"])
async def test_a_listener_shows_deliveries_as_they_come(tmp_path: Path, store: str) -> None:
    async with (
        running(tmp_path, "--console", "--store", store) as listener,
        watching(listener.where["console"]) as frames,
        aiohttp.ClientSession() as session,
    ):
        assert await heard(frames, "hello") == {"sees_refusals": True, "rows": []}
        assert await post(session, listener.url, delivery("1")) == 200
        (row,) = (await heard(frames, "deliveries"))["rows"]
        told = {name: row[name] for name in ("verdict", "event", "scope", "kind", "uid", "status", "path", "peer", "reason")}
        assert told == {
            "verdict": "new",
            "event": "reward.allocated",
            "scope": "default",
            "kind": "allocation",
            "uid": "1",
            "status": 200,
            "path": "/webhooks/original",
            "peer": "127.0.0.1",
            "reason": None,
        }
        assert row["bytes"] == len(delivery("1"))
        assert row["ms"] > 0
        found = await asked(listener.where["console"], "event", identity=row["identity"], uid="1")
        assert (found["id"], found["state"], found["uid"]) == (1, "done", "1")
        assert await post(session, listener.url, delivery("1")) == 200
        assert await post(session, listener.url, b"[]") == 200
        assert await post(session, listener.url, b"{}", {}) == 401
        async with session.get(listener.where["url"] + "/nothing") as reply:
            assert reply.status == 404
        assert await verdicts(frames, 4) == {"duplicate": 1, "dead letter": 1, "refused": 2}
        status = await heard(frames, "status")
        assert (status["ready"], status["store"]["events"], status["store"]["dead"]) == (True, 2, 1)
        refused = await asked(listener.where["console"], "refused")
        assert [(one["reason"], bool(one["advice"])) for one in refused["rows"]] == [("path", True), ("missing", True)]


@pytest.mark.slow
async def test_the_deliveries_of_all_workers_are_shown_in_one_place(tmp_path: Path) -> None:
    async with (
        working(tmp_path, "--console") as workers,
        client() as session,
        watching(workers.listener.where["console"]) as frames,
    ):
        await heard(frames, "hello")
        for number in (0, 1):
            async with delivered(workers, number, session, delivery(str(number))):
                assert await post(session, workers.url, b"{}", {}) == 401
        assert await verdicts(frames, 4) == {"new": 2, "refused": 2}
        assert (await heard(frames, "status"))["workers"] == {"starting": 0, "ready": 2, "draining": 0, "dead": 0}
        workers.kill(0)
        await workers.replaced()
        async with delivered(workers, 0, session, delivery("2")):  # the new process is watched too
            assert await verdicts(frames, 1) == {"new": 1}
        (refused,) = (await asked(workers.listener.where["console"], "refused"))["rows"]
        assert refused["count"] >= 1


@pytest.mark.slow
async def test_a_worker_that_hangs_delays_no_other(tmp_path: Path) -> None:
    async with (
        working(tmp_path, "--console") as workers,
        client() as session,
        watching(workers.listener.where["console"]) as frames,
    ):
        await heard(frames, "hello")
        async with delivered(workers, 1, session, delivery("1")):
            assert await verdicts(frames, 1) == {"new": 1}


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--workers", "2")])
async def test_viewers_do_not_hold_up_a_shutdown(tmp_path: Path, options: tuple[str, ...]) -> None:
    listener = await start(tmp_path, "--console", *options)
    async with watching(listener.where["console"]) as frames:
        await heard(frames, "status")
        listener.process.send_signal(signal.SIGTERM)
        assert [frame async for frame in frames if b"hello" in frame] == []
        assert await listener.process.wait() == 0
    await listener.process.communicate()


async def test_the_link_is_printed_once_and_its_token_stands_nowhere_else(tmp_path: Path) -> None:
    listener = await start(tmp_path, "--console", "--log-level", "debug", "--text", where=lambda line: {"text": line.decode()})
    assert listener.process.stdout is not None
    printed = (await listener.process.stdout.readline()).decode()
    link = printed.removeprefix("console: ").strip()
    token = link.partition("#")[2]
    assert len(token) > 40
    assert token not in listener.where["text"]
    async with watching(link) as frames:
        await heard(frames, "status")
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{split_link(link)[0]}feed", headers={"Authorization": "Bearer x"}) as reply,
    ):
        assert reply.status == 401
    listener.process.send_signal(signal.SIGTERM)
    out, log = await listener.process.communicate()
    assert token not in (out + log).decode()


def test_the_console_needs_the_admin_port(folder: Path) -> None:
    result = run("serve", "--console", "--admin-port", "-1")
    assert result.exit_code == 2
    said("serve: a console without the admin port", result.stderr)


@pytest.mark.slow
async def test_without_the_option_there_is_no_console(tmp_path: Path) -> None:
    async with running(tmp_path) as listener, aiohttp.ClientSession() as session:
        assert "console" not in listener.where
        for path in ("/console", "/console/", "/console/feed", "/console/main.js"):
            async with session.get(listener.where["admin"] + path) as reply:
                assert reply.status == 404


# beside a store


def console_of(store: str) -> dict[str, Any]:
    return {"command": ("console", "--console-port", "0", "--store", store), "listens": False}


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_a_console_beside_a_store_follows_its_events(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "inbox.db")
    await store.accept(event("1", of=ref("1")))
    async with running(tmp_path, **console_of("sqlite:///inbox.db")) as console, watching(console.where["console"]) as frames:
        hello = await heard(frames, "hello")
        assert (hello["sees_refusals"], [row["uid"] for row in hello["rows"]]) == (False, ["1"])
        await heard(frames, "status")
        await store.accept(event("2", of=ref("2")))
        await store.accept(event("3", problem="unreadable"))
        assert await verdicts(frames, 2) == {"new": 1, "dead letter": 1}
        refused = await asked(console.where["console"], "refused")
        assert refused["rows"] == []
        said("console: refused deliveries beside a store", refused["note"])
        assert (await heard(frames, "status"))["workers"] is None
        url, headers = split_link(console.where["console"])
        async with aiohttp.ClientSession() as session:
            for path, token, status in (
                ("metrics", {}, 401),
                ("metrics", headers, 200),
                ("refused", {}, 401),
                ("readyz", {}, 200),
            ):
                async with session.get(url.replace("console/", path), headers=token) as reply:
                    assert (path, reply.status) == (path, status)
        await store.aclose()


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_the_link_to_a_store_stands_on_a_line_of_its_own(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "inbox.db")
    await store.ping()
    await store.aclose()
    command = ("console", "--console-port", "0", "--text")
    console = await start(tmp_path, command=command, listens=False, where=lambda line: {"text": line.decode()})
    assert console.where["text"] == "watching sqlite:///inbox.db\n"
    assert console.process.stdout is not None
    link = (await console.process.stdout.readline()).decode().removeprefix("console: ").strip()
    async with watching(link) as frames:
        await heard(frames, "hello")
    console.process.send_signal(signal.SIGINT)
    await console.process.communicate()
    assert console.process.returncode == 0


@pytest.mark.slow
async def test_a_console_of_a_database_shows_what_every_machine_stores(tmp_path: Path, database: str) -> None:
    store = PostgresStore(database)
    await store.accept(event("1", of=ref("1")))
    await store.add_pending([ref("9")], poll_in=60)
    async with running(tmp_path, **console_of(database)) as console, watching(console.where["console"]) as frames:
        assert PASSWORD not in json.dumps(dict(console.where))
        hello = await heard(frames, "hello")
        assert [row["uid"] for row in hello["rows"]] == ["1"]
        assert (await heard(frames, "status"))["store"]["pending"] == 2
        await store.accept(event("2", of=ref("2")))
        assert [row["uid"] for row in (await heard(frames, "deliveries"))["rows"]] == ["2"]
        pending = await asked(console.where["console"], "pending")
        assert [row["uid"] for row in pending["rows"]] == ["1", "2", "9"]
        assert all(PASSWORD not in row["command"] for row in pending["rows"])
    await store.aclose()


@pytest.mark.slow
async def test_a_console_of_no_store_says_so(folder: Path) -> None:
    for store, words in (("sqlite:///none.db", "There is no store at"), ("memory:", "visible to its own process only")):
        result = await asyncio.to_thread(alone, "console", "--store", store, "--console-port", "0")
        assert result.returncode in {2, 7}
        assert words in " ".join(result.stderr.split())


@pytest.mark.slow
async def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "inbox.db")
    await store.ping()
    await store.aclose()
    async with running(tmp_path, **console_of("sqlite:///inbox.db")) as console:
        port = console.where["admin"].rpartition(":")[2]
        store_url = f"sqlite:///{tmp_path / 'inbox.db'}"
        result = await asyncio.to_thread(alone, "console", "--store", store_url, "--console-port", port)
        assert (result.returncode, port in result.stderr) == (7, True)
