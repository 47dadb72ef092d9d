"""The verbs of `webhook-listener`, run as functions: what they print, and with which exit code they end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import typer
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from attrs import evolve
from typer.testing import CliRunner, Result
from webhooks.cli.waiting import _completed, _settled

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import Output, cell
from rewards_core.errors import NotFound, OperationFailed, ServerFailed, StoreError
from rewards_core.operations import OperationRef
from tests.webhooks.fakes import a_thing
from tests.webhooks.listener_process import KEYS, SOURCE, delivery, environment
from tests.webhooks.store_contract import event, outcome, ref, resource
from webhooks import __main__ as entry
from webhooks.cli import app
from webhooks.cli.admin import control_app
from webhooks.cli.forwarding import Forwarder, ForwardFailed
from webhooks.cli.metrics import Metrics, Snapshot, as_text, held
from webhooks.cli.samples import Shape, parse_override, sample_body
from webhooks.cli.sources import SourceSpec, parse_source
from webhooks.completions import CompletionStatistics
from webhooks.errors import CompletionTimeout
from webhooks.receiver import Receiver
from webhooks.store.base import EventState, StoreStatistics
from webhooks.store.memory import MemoryStore
from webhooks.store.outcomes import CONFLICT_EVENT
from webhooks.store.sqlite import SQLiteStore

STRANGE = "a\x1b[31mred\x1b[0m\u202eevil\x07"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("ORIGINAL_", "WEBHOOK_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ORIGINAL_WEBHOOK_KEYS", KEYS)
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def fill(folder: Path, work: Callable[[SQLiteStore], Awaitable[object]]) -> None:
    async def filling() -> None:
        store = SQLiteStore(folder / "inbox.db")
        await work(store)
        await store.aclose()

    asyncio.run(filling())


async def some_events(store: SQLiteStore) -> None:
    await store.accept(event("1", of=ref("11"), complete=resource("11"), correlation_id=STRANGE))
    await store.accept(event("2", name="reward.claimed", scope="other"))
    await store.accept(event("3", problem="expected the app A, got B"))


async def a_dead_job(store: SQLiteStore) -> None:
    await store.accept(event("1", of=ref("11")), handlers=["forward /webhooks/original"])
    (claimed,) = await store.claim_jobs("forward /webhooks/original", limit=1, lease=60)
    await store.fail_job(claimed.job, reason="answered 500", retry_at=None)


# events


def test_events_are_listed_newest_first_as_json_lines(folder: Path) -> None:
    fill(folder, some_events)
    result = run("events", "list")
    assert result.exit_code == 0
    assert [(row["id"], row["state"], row["name"]) for row in lines(result)] == [
        (3, "dead", "reward.allocated"),
        (2, "done", "reward.claimed"),
        (1, "done", "reward.allocated"),
    ]
    assert lines(result)[0]["why"] == "expected the app A, got B"
    assert [row["id"] for row in lines(run("events", "list", "--scope", "other"))] == [2]
    assert [row["id"] for row in lines(run("events", "list", "--state", "dead"))] == [3]
    assert [row["id"] for row in lines(run("events", "list", "--name", "reward.allocated", "--before", "3"))] == [1]
    assert [row["id"] for row in lines(run("events", "list", "--limit", "1"))] == [3]


def test_events_are_listed_as_a_table_for_people_without_control_characters(folder: Path) -> None:
    fill(folder, some_events)
    result = run("events", "list", "--text")
    assert "expected the app A, got B" in result.stdout
    assert "─" in result.stdout
    shown = run("events", "show", "1", "--text")
    assert "a [31mred [0m evil" in shown.stdout
    assert not any(character in result.stdout + shown.stdout for character in "\x1b\x07\u202e")


def test_an_event_is_shown_with_its_body_and_jobs(folder: Path) -> None:
    fill(folder, a_dead_job)
    (row,) = lines(run("events", "show", "1"))
    assert json.loads(row["body"]) == {"event": "reward.allocated", "word": "1"}
    assert row["jobs"] == [{"handler": "forward /webhooks/original", "state": "dead", "attempts": 1, "why": "answered 500"}]
    text = run("events", "show", "1", "--text").stdout
    assert '  "word": "1"' in text
    assert "dead, 1 attempt, answered 500" in text


def test_an_event_is_shown_with_every_digit_of_its_numbers(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await store.accept(evolve(event("1"), body=b'{"amount":1.10,"more":[0.1234567890123456789],"word":"\\u00fc"}'))

    fill(folder, work)
    text = run("events", "show", "1", "--text").stdout
    assert '{\n  "amount": 1.10,\n  "more": [\n    0.1234567890123456789\n  ],\n  "word": "ü"\n}' in text


def test_a_body_that_is_no_text_is_shown_all_the_same(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await store.accept(evolve(event("1"), body=b"\xff\x00\x1b[2J\nsecond line"))

    fill(folder, work)
    (row,) = lines(run("events", "show", "1"))
    assert row["body_base64"] == "/wAbWzJKCnNlY29uZCBsaW5l"
    text = run("events", "show", "1", "--text").stdout
    assert "\\xff [2J\nsecond line" in text


def test_an_unknown_event_is_exit_code_5(folder: Path) -> None:
    fill(folder, some_events)
    result = run("events", "show", "99")
    assert (result.exit_code, result.stdout) == (5, "")
    assert "expected an event with the id 99" in result.stderr


@pytest.mark.parametrize(
    "verb",
    ["events show", "events replay", "events list --before", "events list --limit", "dead-letters retry", "tail --last"],
)
def test_a_number_that_no_id_can_have_is_exit_code_2(folder: Path, verb: str) -> None:
    fill(folder, some_events)
    assert run(*verb.split(), str(2**63)).exit_code == 2


def test_replaying_without_a_listener_prepares_the_handlers_for_its_start(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        read = SOURCE.parse(delivery("11"))
        await store.accept(read)

    fill(folder, work)
    result = run("events", "replay", "1", "--forward-to", "http://127.0.0.1:9/")
    assert (result.exit_code, lines(result)) == (0, [{"replayed": 1}])
    (row,) = lines(run("events", "show", "1"))
    assert (row["state"], [job["handler"] for job in row["jobs"]]) == ("ready", ["forward /webhooks/original"])
    result = run("events", "replay", "1", "99")
    assert (result.exit_code, lines(result)) == (5, [{"replayed": 1}])


# dead letters


def test_dead_letters_are_listed_retried_and_purged(folder: Path) -> None:
    fill(folder, a_dead_job)
    assert [row["why"] for row in lines(run("dead-letters", "list"))] == ["forward /webhooks/original: answered 500"]
    assert lines(run("dead-letters", "retry", "1")) == [{"retried": 1}]
    assert lines(run("dead-letters", "list")) == []
    fill(folder, some_events)
    assert lines(run("dead-letters", "purge", "--older-than-days", "1")) == [{"purged": 0}]
    assert lines(run("dead-letters", "purge", "--older-than-days", "0")) == [{"purged": 1}]


def test_all_dead_letters_with_failed_handlers_can_be_retried(folder: Path) -> None:
    fill(folder, some_events)
    assert lines(run("dead-letters", "retry", "--all")) == [{"retried": 0}]

    async def work(store: SQLiteStore) -> None:
        for number in range(3):
            await store.accept(event(f"dead {number}"), handlers=["pay"])
        for claimed in await store.claim_jobs("pay", limit=3, lease=60):
            await store.fail_job(claimed.job, reason="no", retry_at=None)

    fill(folder, work)
    assert lines(run("dead-letters", "retry", "--all")) == [{"retried": 3}]


def test_retrying_takes_ids_or_all(folder: Path) -> None:
    fill(folder, some_events)
    assert run("dead-letters", "retry").exit_code == 2
    assert run("dead-letters", "retry", "1", "--all").exit_code == 2
    result = run("dead-letters", "retry", "1")
    assert (result.exit_code, lines(result)) == (5, [{"retried": 0}])


# the store


def test_a_missing_store_is_exit_code_7(folder: Path) -> None:
    for arguments in (["events", "list"], ["dead-letters", "retry", "1"], ["wait", "1", "--timeout", "0"]):
        result = run(*arguments)
        assert result.exit_code == 7, arguments
    assert list(folder.iterdir()) == []


def test_a_store_in_memory_cannot_be_looked_at(folder: Path) -> None:
    assert run("events", "list", "--store", "memory:").exit_code == 2
    assert run("dead-letters", "retry", "1", "--store", "memory:").exit_code == 7
    assert run("events", "list", "--store", "mysql://x").exit_code == 2


def test_a_store_that_is_none_is_exit_code_7(folder: Path) -> None:
    (folder / "inbox.db").write_bytes(b"nothing of the kind" * 100)
    result = run("events", "list")
    assert result.exit_code == 7
    assert "sound SQLite file" in result.stderr


def test_a_store_that_another_program_writes_is_not_changed(folder: Path) -> None:
    async def work() -> Result:
        store = SQLiteStore(folder / "inbox.db")
        await a_dead_job(store)
        result = await asyncio.to_thread(run, "dead-letters", "retry", "1")
        await store.aclose()
        return result

    result = asyncio.run(work())
    assert result.exit_code == 7
    assert "got another program" in result.stderr


class Behind:
    """Stand behind the admin socket."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.fault: Exception | None = None
        self.polls = True

    async def why_not_ready(self) -> str | None:
        return None

    async def metrics(self) -> bytes | None:
        return b""

    async def _note(self, *words: Any) -> int:
        self.asked.append(words)
        if self.fault is not None:
            raise self.fault
        return len(words[1])

    async def replay(self, event_ids: Any) -> int:
        return await self._note("replay", event_ids)

    async def retry(self, event_ids: Any) -> int:
        return await self._note("retry", event_ids)

    async def purge(self, before: float, state: EventState) -> int:
        return await self._note("purge", [before], state)

    async def watch(self, refs: Any) -> bool:
        await self._note("watch", refs)
        return self.polls


@contextmanager
def served(application: Callable[[], web.Application], open_at: Callable[[web.AppRunner], Awaitable[None]]) -> Iterator[None]:
    """Serve an application from another thread, where `open_at` says."""
    started, over, loop = threading.Event(), asyncio.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        runner = web.AppRunner(application())
        await runner.setup()
        await open_at(runner)
        started.set()
        await over.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    started.wait()
    yield
    loop.call_soon_threadsafe(over.set)
    thread.join()
    loop.close()


@pytest.fixture
def behind(folder: Path) -> Iterator[Behind]:
    """Serve an admin socket from another thread."""
    behind = Behind()

    async def open_at(runner: web.AppRunner) -> None:
        await web.UnixSite(runner, str(folder / "inbox.db.sock")).start()

    with served(lambda: control_app(behind), open_at):
        yield behind


def test_changes_go_through_the_running_listener(folder: Path, behind: Behind) -> None:
    fill(folder, some_events)
    assert lines(run("events", "replay", "3", "4")) == [{"replayed": 2}]
    assert lines(run("dead-letters", "retry", "5")) == [{"retried": 1}]
    assert lines(run("dead-letters", "purge", "--older-than-days", "0")) == [{"purged": 1}]
    assert [words[0] for words in behind.asked] == ["replay", "retry", "purge"]
    assert behind.asked[0] == ("replay", [3, 4])
    assert behind.asked[2][2] is EventState.DEAD


def test_what_the_listener_refuses_is_said(folder: Path, behind: Behind) -> None:

    behind.fault = StoreError("expected room, got none")
    result = run("dead-letters", "retry", "5")
    assert result.exit_code == 7
    assert "expected room, got none" in result.stderr
    behind.fault = ValueError("no")
    assert run("dead-letters", "retry", "5").exit_code == 6


@pytest.mark.parametrize("ids", [[2**63], [-1], ["x"], None])
async def test_the_socket_refuses_ids_that_cannot_be(ids: Any) -> None:
    async with TestClient(TestServer(control_app(Behind()))) as client:
        answer = await client.post("/retry", json={"ids": ids})
        assert (answer.status, (await answer.json())["error"][:14]) == (400, "not understood")


@pytest.mark.parametrize(
    ("data", "charset"),
    [(b'{"ids": [1e400]}', "utf-8"), (b"[" * 100_000, "utf-8"), (b"{}", "none"), (b"\xff", "utf-8"), (b"[]", "utf-8")],
)
async def test_the_socket_refuses_what_it_cannot_read(data: bytes, charset: str) -> None:
    async with TestClient(TestServer(control_app(Behind()))) as client:
        kind = {"Content-Type": f"application/json; charset={charset}"}
        answer = await client.post("/retry", data=data, headers=kind)
        assert (answer.status, (await answer.json())["error"][:14]) == (400, "not understood")


def test_a_socket_that_speaks_another_language_is_exit_code_7(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("other.sock")
        listening.listen()

        def answer() -> None:
            connection, _ = listening.accept()
            connection.recv(1000)
            connection.sendall(b"220 hello\r\n")
            connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        assert run("dead-letters", "retry", "5", "--admin-socket", "other.sock").exit_code == 7
        thread.join()


# wait


def test_waiting_says_how_it_ended_by_its_exit_code(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await store.record_outcome(outcome(ref("1"), "done"))
        await store.record_outcome(outcome(ref("2"), "failed"))

    fill(folder, work)
    done, failed, late = run("wait", "1"), run("wait", "2"), run("wait", "3", "--timeout", "0.1")
    assert (done.exit_code, lines(done)[0]["status"], lines(done)[0]["resource"]["uid"]) == (0, "done", "1")
    assert (failed.exit_code, lines(failed)[0]["status"]) == (3, "failed")
    assert (late.exit_code, late.stdout) == (4, "")


@pytest.mark.parametrize("words", [["1", "--kind", "nonsense"], ["../1"], [""], ["1", "--scope", ""]])
def test_waiting_for_what_cannot_be_is_exit_code_2(folder: Path, words: list[str]) -> None:
    fill(folder, some_events)
    assert run("wait", *words, "--timeout", "0").exit_code == 2


def test_who_waits_in_vain_is_told_whether_anybody_polls(folder: Path, behind: Behind) -> None:
    fill(folder, some_events)
    assert "a listener polls it" in run("wait", "3", "--timeout", "0").stderr
    behind.polls = False
    assert "the listener does not poll it" in run("wait", "3", "--timeout", "0").stderr
    assert "no listener runs" in run("wait", "3", "--timeout", "0", "--admin-socket", "other.sock").stderr


def test_waiting_hears_of_what_a_listener_records_and_asks_it_to_poll(folder: Path, behind: Behind) -> None:
    async def work() -> Result:
        store = SQLiteStore(folder / "inbox.db")
        await store.ping()
        waiting = asyncio.ensure_future(asyncio.to_thread(run, "wait", "7", "--kind", "claim", "--scope", "b"))
        while not behind.asked:
            await asyncio.sleep(0)
        await store.record_outcome(outcome(OperationRef("b", "claim", "other")))
        await store.record_outcome(outcome(OperationRef("b", "claim", "7")))
        result = await waiting
        await store.aclose()
        return result

    result = asyncio.run(work())
    assert (result.exit_code, lines(result)[0]["status"]) == (0, "done")
    assert behind.asked == [("watch", [OperationRef("b", "claim", "7")])]


# tail


def test_tail_shows_the_last_events_and_those_that_come(folder: Path) -> None:
    async def work() -> Result:
        store = SQLiteStore(folder / "inbox.db")
        for number in range(3):
            await store.accept(event(f"before {number}"))
        following = asyncio.ensure_future(asyncio.to_thread(run, "tail", "--last", "2", "--count", "130"))
        while not following.done():
            await asyncio.gather(*(store.accept(event(os.urandom(8).hex())) for _ in range(40)))
        await store.aclose()
        return await following

    ids = [row["id"] for row in lines(asyncio.run(work()))]
    assert ids == list(range(ids[0], ids[0] + 130))
    assert ids[0] >= 2


def test_tail_for_people_is_one_clean_line_each(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await store.accept(event("1", name=STRANGE, of=ref("11")))

    fill(folder, work)
    result = run("tail", "--count", "1", "--text")
    assert result.stdout.endswith("done  default  a [31mred [0m evil  11\n")


def test_tail_may_begin_with_nothing(folder: Path) -> None:
    async def work() -> Result:
        store = SQLiteStore(folder / "inbox.db")
        await store.ping()
        following = asyncio.ensure_future(asyncio.to_thread(run, "tail", "--last", "0", "--count", "1"))
        while not following.done():
            await store.accept(event(os.urandom(8).hex()))
        await store.aclose()
        return await following

    assert len(lines(asyncio.run(work()))) == 1


def test_tail_ends_when_nobody_reads_it_any_more_though_nothing_comes(folder: Path) -> None:
    fill(folder, some_events)
    reading, writing = os.pipe()
    process = subprocess.Popen([sys.executable, "-m", "webhooks", "tail"], cwd=folder, env=environment(), stdout=writing)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as lines:
        assert [json.loads(lines.readline())["id"] for _ in range(3)] == [1, 2, 3]
    try:
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ORIGINAL_APP_UID", "tell tale", "ORIGINAL_APP_UID is not the uid of an app"),
        ("ORIGINAL_API_KEY", "", "Set ORIGINAL_API_KEY and ORIGINAL_API_SECRET."),
        ("ORIGINAL_API_SECRET", "", "Set ORIGINAL_API_KEY and ORIGINAL_API_SECRET."),
    ],
)
def test_a_variable_that_is_missing_or_wrong_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    fill(folder, some_events)
    for name in ("ORIGINAL_API_KEY", "ORIGINAL_API_SECRET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    for arguments in (("trigger",), ("serve",), ("doctor",)) if variable == "ORIGINAL_APP_UID" else (("wait", "1", "--poll"),):
        result = run(*arguments)
        assert result.exit_code == 2
        assert words in result.stderr
        assert "tell" not in result.stderr


# trigger


class Target:
    """Takes deliveries and answers as told."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = ""


@pytest.fixture
def target(folder: Path) -> Iterator[Target]:
    target = Target(200)

    async def take(request: web.Request) -> web.Response:
        target.got.append(({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response(status=target.status)

    def application() -> web.Application:
        made = web.Application()
        made.router.add_post("/in", take)
        return made

    async def open_at(runner: web.AppRunner) -> None:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        target.url = f"http://127.0.0.1:{runner.addresses[0][1]}/in"

    with served(application, open_at):
        yield target


def test_trigger_sends_what_the_vendor_would_sign(target: Target) -> None:
    result = run("trigger", "reward.claimed", "--to", target.url, "--uid", "77", "--status", "failed", "--amount", "9.9")
    assert (result.exit_code, lines(result)[0]["status"]) == (0, 200)
    ((headers, raw),) = target.got
    SOURCE.verify(headers, raw)
    event = SOURCE.parse(raw, headers)
    assert event.ref == OperationRef("default", "claim", "77")
    assert event.resource is not None
    assert (event.resource["status"], event.resource["amount"]) == ("failed", "9.9")
    assert (event.attempt, headers["x-app-uid"]) == ("1", "UB2DG8MW5KBQ")


def test_trigger_sends_every_digit_it_was_given(target: Target) -> None:
    assert run("trigger", "--to", target.url, "--set", "data.allocation.amount=1.10", "--set", "data.n=1e2").exit_code == 0
    ((_, raw),) = target.got
    assert b'"amount":1.10' in raw
    assert b'"n":1E+2' in raw


def test_trigger_can_send_duplicates_and_bodies_of_every_shape(target: Target) -> None:
    assert run("trigger", "--to", target.url, "--duplicate", "2", "--body", "uid", "--delay", "0.01").exit_code == 0
    assert len({raw for _, raw in target.got}) == 1
    assert [headers["x-webhook-attempt"] for headers, _ in target.got] == ["1", "2", "3"]
    read = SOURCE.parse(target.got[0][1])
    assert (read.ref is None, read.resource) == (False, None)
    assert run("trigger", "asset.minted", "--to", target.url, "--body", "opaque", "--set", "data=[]").exit_code == 0
    assert SOURCE.parse(target.got[-1][1]).ref is None


def test_trigger_with_a_bad_signature_is_refused_by_who_looks(target: Target) -> None:
    target.status = 401
    result = run("trigger", "--to", target.url, "--bad-signature")
    assert result.exit_code == 6
    headers, raw = target.got[0]
    with pytest.raises(Exception, match="does not fit the body"):
        SOURCE.verify(headers, raw)


def test_trigger_says_when_nobody_keeps_it(target: Target) -> None:
    target.status = 503
    assert run("trigger", "--to", target.url).exit_code == 7
    assert run("trigger", "--to", "http://127.0.0.1:9/").exit_code == 7


def test_trigger_refuses_what_it_cannot_put_into_the_body(folder: Path) -> None:
    for words in ("data", "=1", "a..b=1", "event.x=1"):
        assert run("trigger", "--set", words).exit_code == 2, words


@pytest.mark.parametrize(
    ("words", "app"),
    [
        ("data={}", None),
        ("data.app=null", None),
        ("data.app.uid=7", None),
        ('data.app.uid="a\\nb"', None),
        ('data.app.uid="\u00fc"', None),
        ("data.app.uid=OTHERAPP0000", "OTHERAPP0000"),
    ],
)
def test_trigger_sends_bodies_without_a_usable_app_too(target: Target, words: str, app: str | None) -> None:
    assert run("trigger", "--to", target.url, "--set", words).exit_code == 0
    ((headers, raw),) = target.got
    SOURCE.verify(headers, raw)
    assert headers.get("x-app-uid") == app


def test_a_sample_takes_overrides_at_any_depth() -> None:
    overrides = [parse_override("data.allocation.nonce=n1"), parse_override("data.new.deep=[1]"), parse_override("event=other")]
    body = sample_body(
        "reward.allocated", shape=Shape.FULL, uid="1", status="done", amount="1", app_uid="APP", overrides=overrides
    )
    assert (body["data"]["allocation"]["nonce"], body["data"]["new"]["deep"], body["event"]) == ("n1", [1], "other")
    assert body["data"]["app"]["uid"] == "APP"


# words


def test_a_source_is_read_from_words() -> None:
    assert parse_source("/in") == SourceSpec(path="/in")
    assert parse_source("/in, scope=b ,app=A,keys=k") == SourceSpec(path="/in", scope="b", app_uid="A", keys_file=Path("k"))
    for wrong in ("in", "/in,scope", "/in,scope=", "/in,colour=red"):
        with pytest.raises(ValueError, match="--source"):
            parse_source(wrong)


def test_output_for_people_holds_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False)
    output.record({"name": STRANGE, "none": None})
    output.record({}, text=f"[bold]{STRANGE}[/bold]")
    output.lines(f"  indented {STRANGE}\nnext")
    shown = capsys.readouterr().out
    assert not any(character in shown for character in "\x1b\x07\u202e")
    assert "[bold]" in shown
    assert "\n  indented a" in shown
    assert cell("x" * 500).endswith("…")


@pytest.mark.parametrize(
    "verb",
    [
        "serve",
        "trigger",
        "tail",
        "wait",
        "doctor",
        "events list",
        "events show",
        "events replay",
        "dead-letters list",
        "dead-letters retry",
        "dead-letters purge",
    ],
)
def test_every_verb_has_an_example_in_its_help(folder: Path, verb: str) -> None:
    words = " ".join(run(*verb.split(), "--help").stdout.split())
    assert f"webhook-listener {verb}" in words.partition("xample")[2]


def test_exit_codes_are_documented(folder: Path) -> None:
    assert "Exit codes" in run("--help").stdout


@pytest.mark.parametrize(
    ("verb", "code"), [("tail", 0), ("wait 1", 130), ("events list", 130), ("trigger", 130), ("dead-letters retry 1", 130)]
)
def test_ctrl_c_ends_tail_well_and_is_success_of_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, verb: str, code: int
) -> None:
    fill(folder, some_events)

    def interrupted(coroutine: Any) -> None:
        coroutine.close()
        raise KeyboardInterrupt

    monkeypatch.setattr("webhooks.cli.looking.asyncio.run", interrupted)
    assert run(*verb.split()).exit_code == code


@pytest.mark.parametrize(
    ("problem", "code", "words"),
    [
        (BrokenPipeError(), 1, ""),
        (OSError(28, "No space left on device", "inbox.db"), 2, "inbox.db: No space left on device\n"),
        (StoreError("the disk is full"), 7, "the disk is full\n"),
        (ValueError("--set: no"), 2, "--set: no\n"),
    ],
)
@pytest.mark.parametrize("verb", ["events list", "doctor", "serve"])
def test_what_a_command_meets_is_a_line_and_an_exit_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, verb: str, problem: Exception, code: int, words: str
) -> None:
    def meets(coroutine: Any) -> None:
        coroutine.close()
        raise problem

    monkeypatch.setattr("asyncio.run", meets)
    result = run(*verb.split())
    assert (result.exit_code, result.stderr) == (code, words)


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_extra_the_command_says_which_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as left:
        entry.main()
    assert left.value.code == 2
    assert capsys.readouterr().err == f"webhook-listener needs {missing}: pip install 'rewards-async[cli]'\n"


def test_another_missing_module_is_not_blamed_on_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["webhook-listener", "doctor"])
    monkeypatch.setitem(sys.modules, "webhooks.cli.doctor", None)
    with pytest.raises(ModuleNotFoundError):
        entry.main()


def test_the_entry_point_runs_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["webhook-listener", "--help"])
    with pytest.raises(SystemExit) as left:
        entry.main()
    assert left.value.code == 0
    assert "Usage: webhook-listener" in capsys.readouterr().out


async def test_metrics_tell_of_refusals_polls_and_waiters() -> None:
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
    snapshot = Snapshot(receivers={}, refused={"header_timeout": 7}, connections=8, completions=completions)
    metrics = Metrics()
    for via in ("webhook", "poll", "webhook"):
        metrics.settled(evolve(outcome(ref("1")), via=via))
    text = as_text([*metrics.counted(snapshot), *held(store, now=1_000.0)]).decode()
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


async def test_a_conflict_made_here_is_not_handed_on() -> None:
    async with aiohttp.ClientSession() as session:
        await Forwarder(session, "http://127.0.0.1:9/", timeout=1)(event("1", name=CONFLICT_EVENT))
        with pytest.raises(ForwardFailed, match="tried again later"):
            await Forwarder(session, "http://127.0.0.1:9/", timeout=1)(event("1"))


async def test_a_delivery_that_is_not_taken_leaves_a_line_in_the_log_and_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
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
    assert "got ClientConnectorError; it is tried again later" in caplog.text
    assert "Traceback" not in caplog.text


class Endings:
    """Stand where `Completions` stands, and end every wait with an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def wait(self, *_: Any, **__: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CompletionTimeout("late", ref=ref("1"), timeout=1.0), Exit.NOT_YET),
        (NotFound("unknown"), Exit.NOT_FOUND),
        (ServerFailed("broken"), Exit.UNAVAILABLE),
    ],
)
async def test_how_a_wait_ended_is_the_exit_code(error: Exception, code: Exit) -> None:
    with pytest.raises(typer.Exit) as ended:
        await _completed(Endings(error), ref("1"), 1.0)  # type: ignore[arg-type]
    assert ended.value.exit_code is code


async def test_an_operation_that_failed_is_told_like_any_other() -> None:
    thing = a_thing("1", "failed")
    assert await _completed(Endings(OperationFailed("failed", operation=thing)), thing.ref, 1.0) is thing  # type: ignore[arg-type]


async def test_an_outcome_at_the_very_end_of_a_wait_is_not_missed() -> None:
    looks = []

    class Late:
        def subscribe(self, subscriber: Any) -> None:
            """Hear nothing."""

        async def outcome(self, wanted: OperationRef) -> Any:
            looks.append(wanted)
            return outcome(wanted) if len(looks) == 2 else None

    assert (await _settled(Late(), ref("1"), 0.0, "")).ref == ref("1")  # type: ignore[arg-type]
