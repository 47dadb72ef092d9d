"""`webhook-listener` and `payouts` on a store in PostgreSQL, which several machines share."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from payouts.cli.connections import Listening, completions_of
from tests.postgres_server import Server, postgres_server
from tests.texts import said
from tests.webhooks.command_kit import FORWARD, a_dead_job, lines, run, some_events
from tests.webhooks.listener_process import KEYS, delivery, environment, post, running
from tests.webhooks.postgres_kit import PASSWORD, run_sql, shown_url, url_of
from tests.webhooks.store_contract import ref
from vendor_sandboxes.original import API_KEY, API_SECRET
from webhooks.store import StoreUrl, open_store


def fill_database(url: str, *works: Any) -> None:
    """Open the store of a database, do something with it, and close it."""

    async def filling() -> None:
        store = open_store(url)
        try:
            for work in works:
                await work(store)
        finally:
            await store.aclose()

    asyncio.run(filling())


@asynccontextmanager
async def service(url: str, *options: str) -> AsyncIterator[Any]:
    """Run a service on a store, which handles what listeners received; it is killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.webhooks.service_process", url, *options), stdin=PIPE, stdout=PIPE, env=environment()
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"serving\n"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.slow
def test_every_command_works_on_a_database(folder: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEBHOOK_LISTENER_STORE", database)
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    fill_database(database, some_events, a_dead_job, lambda store: store.add_pending([ref("7")], poll_in=60))
    assert [row["id"] for row in lines(run("events", "list"))] == [4, 3, 2, 1]
    assert [row["id"] for row in lines(run("tail", "--last", "4", "--count", "4"))] == [1, 2, 3, 4]
    assert lines(run("events", "show", "1"))[0]["uid"] == "324167489835"
    assert len(lines(run("dead-letters", "list"))) == 2
    assert lines(run("dead-letters", "retry", "4"))[0]["retried"] == 1
    assert lines(run("events", "replay", "1"))
    assert lines(run("handlers", "list"))[0]["handler"] == FORWARD
    assert run("handlers", "retire", FORWARD).exit_code == 0
    assert [row["uid"] for row in lines(run("pending", "list"))] == ["7"]
    assert run("pending", "forget", "7").exit_code == 0
    assert [row["uid"] for row in lines(run("outcomes", "list"))] == ["324167489835"]
    assert lines(run("wait", "324167489835", "--timeout", "60"))[0]["status"] == "done"
    assert lines(run("events", "forget", "--user", "754566475542", "--yes"))[0]["backups"] == []
    assert run("backup", "copy.db").exit_code == 2
    assert list(folder.iterdir()) == []


def test_what_is_no_store_in_a_database_is_not_made(folder: Path, postgres: Server, database: str) -> None:
    result = run("events", "list", "--store", database)
    assert (result.exit_code, result.stdout) == (7, "")
    said("events: there is no store in the database", result.stderr.replace(str(postgres.folder), "FOLDER"))
    assert run_sql(postgres, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'rewards%'") == "0"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        (f"postgresql://user:{PASSWORD}/x@db/inbox", 2),
        (f"postgresql://user:{PASSWORD}@db:port/inbox", 2),
        (f"postgresql:user:{PASSWORD}@db", 2),
        (f"mysql://user:{PASSWORD}@db/inbox", 2),
        (f"postgresql://user:{PASSWORD}@db/inbox?sslmode={PASSWORD}", 2),
        (f"postgresql://user:{PASSWORD}@127.0.0.1:9/inbox", 7),
        (f"postgresql://user@127.0.0.1:9/inbox?password={PASSWORD}", 7),
        (f"postgresql://user:{PASSWORD}@/inbox?host=/nowhere", 7),
    ],
)
@pytest.mark.parametrize("command", [("events", "list"), ("serve", "--port", "0", "--admin-port", "-1"), ("doctor",)])
def test_a_wrong_or_unreachable_url_ends_a_command_and_shows_no_password(
    folder: Path, url: str, code: int, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    result = run(*command, "--store", url)
    assert result.exit_code == (6 if command == ("doctor",) and code == 7 else code)
    assert PASSWORD not in result.stdout + result.stderr + caplog.text
    if command == ("events", "list"):
        said(f"--store {url.replace(PASSWORD, 'PASSWORD')}", result.stderr)
    assert list(folder.iterdir()) == []


@pytest.mark.slow
async def test_a_listener_shows_no_password_and_neither_do_its_workers(folder: Path, postgres: Server, database: str) -> None:
    secret_file = folder / "listener.toml"
    secret_file.write_text(f'store = "{database}"\n', "utf-8")
    options = ("--config", str(secret_file), "--workers", "2", "--log-level", "debug")
    async with running(folder, *options) as listener, aiohttp.ClientSession() as session:
        assert listener.where["store"] == shown_url(postgres)
        assert await post(session, listener.url, delivery("1")) == 200
        async with session.get(f"{listener.where['admin']}/readyz") as answer:
            shown = [await answer.text()]
        async with session.get(f"{listener.where['admin']}/metrics") as answer:
            shown.append(await answer.text())
        for folder_of in Path("/proc").glob("[0-9]*"):
            try:
                if os.getpgid(int(folder_of.name)) == listener.process.pid:
                    shown.append((folder_of / "cmdline").read_text("utf-8"))
            except OSError:
                continue
        assert len(shown) >= 5
        assert await listener.stop() == 0
        assert listener.process.stderr is not None
        shown.append((await listener.process.stderr.read()).decode())
    assert " DEBUG " in shown[-1]
    assert PASSWORD not in "".join(shown)


@pytest.mark.slow
async def test_while_the_server_is_down_deliveries_are_refused_and_readiness_says_why(folder: Path) -> None:
    with postgres_server(tcp=True) as server:
        url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{server.port}/postgres"
        async with running(folder, "--store", url) as listener, aiohttp.ClientSession() as session:
            assert await post(session, listener.url, delivery("before")) == 200
            await asyncio.to_thread(server.stop)
            assert await post(session, listener.url, delivery("meanwhile")) == 503
            async with session.get(f"{listener.where['admin']}/readyz") as answer:
                assert answer.status == 503
                why = await answer.text()
            assert f"PostgreSQL at 127.0.0.1:{server.port}/postgres" in why
            assert PASSWORD not in why
            await asyncio.to_thread(server.start)
            while await post(session, listener.url, delivery("meanwhile")) != 200:
                pass
            async with session.get(f"{listener.where['admin']}/readyz") as answer:
                assert answer.status == 200
            store = open_store(url)
            try:
                uids = {one.event.ref.uid for one in await store.list_events() if one.event.ref is not None}
            finally:
                await store.aclose()
            assert uids == {"before", "meanwhile"}


@pytest.mark.slow
async def test_a_handler_runs_in_a_service_whichever_listener_received_the_event(folder: Path, database: str) -> None:
    options = ("--store", database)
    async with (
        service(database) as shop,
        running(folder, *options) as one,
        running(folder, *options) as other,
        aiohttp.ClientSession() as session,
    ):
        for number, listener in enumerate((one, other, one)):
            assert await post(session, listener.url, delivery(f"{number}")) == 200
            assert await shop.stdout.readline() == f"run {number}\n".encode()
        assert await post(session, other.url, delivery("0")) == 200  # a duplicate, whoever had received it
        assert await post(session, other.url, delivery("last")) == 200
        assert await shop.stdout.readline() == b"run last\n"


@pytest.mark.slow
async def test_a_handler_whose_machine_dies_runs_again_on_another(folder: Path, database: str) -> None:
    async with (
        service(database, "hang") as dying,
        running(folder, "--store", database) as listener,
        aiohttp.ClientSession() as session,
    ):
        assert await post(session, listener.url, delivery("paid")) == 200
        assert await dying.stdout.readline() == b"run paid\n"
        dying.send_signal(signal.SIGKILL)
        await dying.wait()
        async with service(database) as standing_in:
            assert await standing_in.stdout.readline() == b"run paid\n"


@pytest.mark.slow
async def test_a_payout_waits_on_the_store_of_a_listener(folder: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from payouts.cli.connections import original_client

    monkeypatch.setenv("ORIGINAL_API_KEY", API_KEY)
    monkeypatch.setenv("ORIGINAL_API_SECRET", API_SECRET)
    monkeypatch.setenv("ORIGINAL_BASE_URL", "http://127.0.0.1:9")
    client = original_client()
    async with client:
        with pytest.raises(ValueError, match=r"^--store: ") as missing:
            async with completions_of(client, Listening(store=StoreUrl(database))):
                pass
        assert PASSWORD not in str(missing.value)
        async with (
            running(folder, "--store", database) as listener,
            aiohttp.ClientSession() as session,
            completions_of(client, Listening(store=StoreUrl(database))) as completions,
        ):
            assert await post(session, listener.url, delivery("7")) == 200
            assert (await completions.wait("7", timeout=300)).status == "done"


@pytest.mark.parametrize("name", ["memory:", f"postgresql:{PASSWORD}"])
def test_a_payout_refuses_what_no_listener_can_share(name: str) -> None:
    with pytest.raises(ValueError, match=r"^--store: ") as refused:
        Listening(store=name)
    assert PASSWORD not in str(refused.value)


def test_the_url_of_the_kit_is_shown_without_its_password(postgres: Server) -> None:
    assert str(StoreUrl(url_of(postgres, passfile="/x", sslmode="prefer"))) == f"{shown_url(postgres)}&sslmode=prefer"
