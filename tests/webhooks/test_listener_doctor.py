"""Each check of `doctor`, well and in its failing state with the advice it gives."""

from __future__ import annotations

import asyncio
import errno
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from operator import add
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import pytest_asyncio
from aiohttp import web
from typer.testing import CliRunner

from tests.texts import said
from tests.webhooks.listener_process import KEYS
from tests.webhooks.store_contract import event
from tests.webhooks.test_disk_space import filled, set_free
from webhooks.cli import app, checks
from webhooks.cli.checks import (
    Finding,
    check_clock,
    check_integrity,
    check_keys,
    check_permissions,
    check_port,
    check_reachability,
    check_space,
    check_sqlite,
    check_store,
    existing_secret_files,
)
from webhooks.cli.disk_space import MIN_FREE, DiskSpace
from webhooks.cli.sources import SourceSpec
from webhooks.store.sqlite import SQLiteStore

NOWHERE = "http://127.0.0.1:9"
COMMAND = import_module("webhooks.cli.doctor")
OLDER = Path(__file__).parent / "data"


class Somewhere:
    """An API, a proxy or an admin port that answers as told."""

    def __init__(self) -> None:
        self.status = 401
        self.headers: dict[str, str] = {}
        self.words = ""
        self.url = ""


@pytest_asyncio.fixture
async def somewhere() -> AsyncIterator[Somewhere]:
    there = Somewhere()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=there.status, headers=there.headers, text=there.words)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    there.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield there
    await runner.cleanup()


def tell(*findings: Finding) -> str:
    """Return findings as a person reads them."""
    return "\n".join(f"{one.check}: {'yes' if one.ok else 'NO'}: {one.found}\n    {one.advice}" for one in findings)


def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    good, impossible = check_keys([SourceSpec()]), check_keys([SourceSpec(scope="")])
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", "a:short-tale")
    weak = check_keys([SourceSpec()])
    monkeypatch.delenv("ORIGINAL_WEBHOOK_KEYS")
    missing = check_keys([SourceSpec()])
    assert [one.ok for one in (good, impossible, weak, missing)] == [True, False, False, False]
    assert "short-tale" not in weak.found + weak.advice
    said("doctor: keys", tell(good, impossible, weak, missing))


def test_permissions(tmp_path: Path) -> None:
    secret, store = tmp_path / "keys", tmp_path / "inbox.db"
    secret.write_text(KEYS)
    store.write_text("")
    secret.chmod(0o600)
    store.chmod(0o600)
    files = existing_secret_files([secret, None, tmp_path / "missing"], store)
    assert files == [secret, store]
    assert check_permissions(files).ok
    secret.chmod(0o640)
    assert check_permissions(files).ok
    secret.chmod(0o604)
    loose = check_permissions(files)
    assert (loose.ok, loose.advice) == (False, f"Run chmod 600 {secret}")
    assert existing_secret_files([], None) == []
    assert existing_secret_files([tmp_path], None) == []


def test_sqlite() -> None:
    assert check_sqlite().ok
    assert check_sqlite((3, 51, 3)).ok
    old = check_sqlite((3, 51, 2))
    assert not old.ok
    said("doctor: sqlite", tell(old))


def test_store(tmp_path: Path) -> None:
    def check(path: Path | None) -> Finding:
        return asyncio.run(check_store(path))

    async def fill(*problems: str | None) -> Finding:
        store = SQLiteStore(path)
        for number, problem in enumerate(problems):
            await store.accept(event(str(number), problem=problem))
        meanwhile = await check_store(path)
        await store.aclose()
        return meanwhile

    path = tmp_path / "inbox.db"
    found = [check(path), check(None), check(tmp_path / "missing" / "inbox.db")]
    assert not path.exists()
    found += [asyncio.run(fill(None)), check(path)]
    asyncio.run(fill(None, "unreadable"))
    found.append(check(path))
    path.write_bytes(b"no store" * 1000)
    found.append(check(path))
    assert [one.ok for one in found] == [True, False, False, True, True, False, False]
    said("doctor: store", tell(*found).replace(str(tmp_path), "FOLDER"))


def test_a_store_that_cannot_be_locked_is_no_good(tmp_path: Path) -> None:
    (tmp_path / "inbox.db").touch()
    (tmp_path / "inbox.db.lock").mkdir()
    assert not asyncio.run(check_store(tmp_path / "inbox.db")).ok


@pytest.mark.parametrize(("name", "layout"), [("store-0.1.db", 2), ("store-0.1-layout-1.db", 1)])
def test_a_store_of_an_older_version_is_left_as_it_is(tmp_path: Path, name: str, layout: int) -> None:
    path = tmp_path / "inbox.db"
    shutil.copy(OLDER / name, path)
    before = path.read_bytes()
    found = asyncio.run(check_store(path))
    assert (found.ok, found.advice) == (True, "")
    assert f"layout {layout}" in found.found
    assert asyncio.run(check_integrity(path)).ok
    assert asyncio.run(check_space(path, 30.0)).ok
    assert path.read_bytes() == before


def damage(path: Path) -> None:
    """Overwrite the page of an index that only a look at all pages reads."""
    program = (
        "import apsw, sys; "
        "print(apsw.Connection(sys.argv[1]).execute(\"SELECT rootpage FROM sqlite_schema WHERE name = 'interest_of'\").get)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    start = (int(done.stdout) - 1) * 4096
    pages = bytearray(path.read_bytes())
    pages[start : start + 4096] = b"x" * 4096
    path.write_bytes(pages)


def test_integrity(tmp_path: Path) -> None:
    def check(path: Path | None, seconds: float = 60.0) -> Finding:
        return asyncio.run(check_integrity(path, seconds))

    path = tmp_path / "inbox.db"
    found = [check(None), check(path)]
    asyncio.run(filled(path, events=300))
    found += [check(path), check(path, 0.0)]
    damage(path)
    found.append(check(path))
    path.write_bytes(b"no store" * 1000)
    found.append(check(path))
    path.unlink()
    path.mkdir()
    found.append(check(path))
    assert [one.ok for one in found] == [True, True, True, True, False, False, False]
    said("doctor: integrity", re.sub(r"(damaged|used): .*", r"\1: WHY", tell(*found)).replace(str(tmp_path), "FOLDER"))


async def test_integrity_is_looked_at_while_a_listener_writes(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "inbox.db")
    await store.accept(event("1"))
    looking = asyncio.create_task(check_integrity(tmp_path / "inbox.db"))
    await store.accept(event("2"))
    assert (await looking).ok
    await store.accept(event("3"))
    assert (await store.statistics()).events == 3
    await store.aclose()


async def test_a_look_at_integrity_that_is_cancelled_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "inbox.db"
    await filled(path, events=300)
    looked, ended = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()
    found: list[Finding] = []

    def look(of: Path, until: float, told: threading.Event) -> Finding:
        loop.call_soon_threadsafe(looked.set)
        assert told.wait(60.0)
        found.append(sound(of, until, told))
        ended.set()
        return found[0]

    sound = checks._integrity
    monkeypatch.setattr(checks, "_integrity", look)
    looking = asyncio.create_task(check_integrity(path))
    await looked.wait()
    looking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looking
    assert await asyncio.to_thread(ended.wait, 60.0)
    assert "in time" in found[0].found


def test_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(path: Path | None) -> Finding:
        return asyncio.run(check_space(path, 30.0))

    path = tmp_path / "inbox.db"
    asyncio.run(filled(path, events=300))
    set_free(monkeypatch, 1024**4)
    good = check(path)
    assert (good.ok, good.advice) == (True, "")
    assert check(None).ok
    assert check(tmp_path / "none yet.db").ok

    set_free(monkeypatch, MIN_FREE - 1)
    full = check(path)
    assert not full.ok
    assert not check(None).ok

    nowhere = check(tmp_path / "missing" / "inbox.db")
    path.write_bytes(b"no store" * 1000)
    broken = check(path)
    assert (nowhere.ok, broken.ok) == (False, False)
    said("doctor: space", "\n".join(one.advice for one in (full, nowhere, broken)))


@pytest.mark.parametrize(
    ("days", "ok", "advice"), [(2.9, False, True), (3.1, True, True), (13.9, True, True), (14.1, True, False)]
)
async def test_space_that_lasts_for_some_days(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: float, ok: bool, advice: bool
) -> None:
    space = DiskSpace(folder=tmp_path, free=1024**3, days=days)
    monkeypatch.setattr(checks, "measure", lambda *_, **__: space)
    found = await check_space(tmp_path / "inbox.db", 30.0)
    assert (found.ok, found.found, bool(found.advice)) == (ok, str(space), advice)


async def test_port(somewhere: Somewhere, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = [await check_port("127.0.0.1", port, None)]
    taken = int(somewhere.url.rpartition(":")[2])
    somewhere.status = 200
    found.append(await check_port("127.0.0.1", taken, somewhere.url))
    somewhere.status, somewhere.words = 503, "draining\n"
    found.append(await check_port("127.0.0.1", taken, somewhere.url))
    found += [await check_port("127.0.0.1", taken, admin) for admin in (None, NOWHERE)]
    found += [await check_port(strange, port, somewhere.url) for strange in ("203.0.113.1", "no..host", "ü" * 70)]

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("webhooks.cli.checks.socket.socket.bind", refuse)
        found.append(await check_port("127.0.0.1", 80, None))
    assert [one.ok for one in found] == [True, True, *[False] * 7]
    text = tell(*found).replace(str(port), "FREE").replace(str(taken), "TAKEN")
    said("doctor: port", re.sub(r":(FREE|TAKEN|80): .*", r":\1: WHY", text))


async def test_clock(somewhere: Somewhere) -> None:
    assert (await check_clock(None)).ok
    assert (await check_clock(somewhere.url)).ok
    found = [await check_clock(somewhere.url, clock=partial(add, time.time(), by)) for by in (3_600, -3_600)]
    somewhere.headers["Date"] = "yesterday"
    found += [await check_clock(somewhere.url), await check_clock(NOWHERE)]
    assert not any(one.ok for one in found)
    said("doctor: clock", re.sub(r"\d+ s", "N s", tell(*found)))


async def test_reachability(somewhere: Somewhere) -> None:
    found = [await check_reachability(None, None), await check_reachability(somewhere.url, somewhere.url)]
    found += [await check_reachability(NOWHERE, None), await check_reachability(None, NOWHERE)]
    somewhere.status = 200
    found.append(await check_reachability(None, somewhere.url))
    assert [one.ok for one in found] == [True, True, False, False, False]
    said("doctor: reachability", tell(*found))


class Ended(NamedTuple):
    code: int
    rows: list[dict[str, Any]]
    err: str


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def doctor(*arguments: str) -> Ended:
    words = ["doctor", "--port", str(free_port()), *arguments]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    rows = [] if "--text" in arguments else [json.loads(line) for line in result.stdout.splitlines()]
    return Ended(result.exit_code, rows, result.stdout + result.stderr)


class OtherTime(BaseHTTPRequestHandler):
    """An API in another year."""

    def do_GET(self) -> None:
        self.send_response_only(401)
        self.send_header("Date", "Thu, 01 Jan 2015 00:00:00 GMT")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def api_in_another_year() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), OtherTime) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def with_a_dead_letter(folder: Path) -> None:
    async def fill() -> None:
        store = SQLiteStore(folder / "inbox.db")
        await store.accept(event("1", problem="unreadable"))
        await store.aclose()

    asyncio.run(fill())


@pytest.mark.parametrize(
    "check", ["keys", "permissions", "sqlite", "space", "integrity", "store", "port", "clock", "reachability"]
)
def test_a_failed_check_is_exit_code_6_with_its_advice(folder: Path, monkeypatch: pytest.MonkeyPatch, check: str) -> None:
    if check != "keys":
        monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    arguments: list[str] = []
    with ExitStack() as stack:
        if check == "permissions":
            for name in ("keys", "key.pem", "token"):
                (folder / name).write_text(KEYS)
                (folder / name).chmod(0o644)
            arguments = ["--keys-file", "keys", "--tls-key", "key.pem", "--admin-token-file", "token"]
        elif check == "sqlite":
            monkeypatch.setattr(COMMAND, "check_sqlite", lambda: check_sqlite((3, 7, 0)))
        elif check == "space":
            set_free(monkeypatch, 0)
        elif check == "integrity":
            asyncio.run(filled(folder / "inbox.db", events=1))
            damage(folder / "inbox.db")
        elif check == "store":
            with_a_dead_letter(folder)
        elif check == "port":
            taken = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            arguments = ["--port", str(taken.getsockname()[1]), "--admin", NOWHERE]
        elif check == "clock":
            arguments = ["--api"]
            monkeypatch.setenv("ORIGINAL_BASE_URL", stack.enter_context(api_in_another_year()))
        elif check == "reachability":
            arguments = ["--public-url", NOWHERE]
        ended = doctor(*arguments)
    assert (ended.code, [row["check"] for row in ended.rows if not row["ok"]]) == (6, [check])
    assert all(row["advice"] for row in ended.rows if not row["ok"])


def test_the_command_ends_well_if_all_is_well(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    ended = doctor()
    assert (ended.code, [row["check"] for row in ended.rows if not row["ok"]]) == (0, [])
    names = {row["check"] for row in ended.rows}
    assert names == {"keys", "clock", "store", "sqlite", "space", "integrity", "port", "permissions", "reachability"}


def test_what_can_wait_some_days_is_shown_and_is_no_failure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    monkeypatch.setattr(checks, "measure", lambda *_, **__: DiskSpace(folder=folder, free=1024**3, days=9.6))
    (row,) = [row for row in doctor().rows if row["check"] == "space"]
    assert (row["ok"], bool(row["advice"])) == (True, True)
    ended = doctor("--text")
    assert ended.code == 0
    assert re.search(r"^space +yes, but  ", ended.err, re.MULTILINE)


def test_the_command_names_what_is_wrong_and_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORIGINAL_API_KEY", "k")
    monkeypatch.setenv("ORIGINAL_BASE_URL", NOWHERE)
    set_free(monkeypatch, 1024**4)
    monkeypatch.setattr(COMMAND, "check_sqlite", lambda: check_sqlite((3, 53, 0)))
    port = str(free_port())
    ended = doctor("--text", "--port", port)
    assert ended.code == 6
    said("doctor", ended.err.replace(str(folder), "FOLDER").replace(f":{port}", ":PORT"))


def test_the_vendors_api_is_looked_at_only_if_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    monkeypatch.setenv("ORIGINAL_API_KEY", "k")
    monkeypatch.setenv("ORIGINAL_BASE_URL", NOWHERE)
    assert doctor("--no-api").code == 0
