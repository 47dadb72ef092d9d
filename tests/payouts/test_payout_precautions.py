"""What would go wrong afterwards is said before anything is sent."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from rich.console import Console

from original_async import OriginalWebhooks
from payouts.cli.connections import Listening, completions_of, original_client
from payouts.cli.display import JsonLines, MovingLine
from payouts.cli.supervision import run_to_end
from payouts.ledger.sqlite import Ledger
from payouts.progress import Progress
from payouts.rows import Row
from payouts.states import State
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import Output
from tests.payouts.command_kit import HEADER, REWARD, TWO, Call, entries, for_people, records, run_of
from tests.payouts.payout_kit import token_row
from tests.payouts.process_kit import free_port, original_at, sandbox
from tests.texts import said, without_places
from webhooks import CompletionsFailed, MemoryStore, StoreError
from webhooks.store.sqlite import SQLiteStore

NOBODY = original_at("http://127.0.0.1:1/v1")


@pytest.fixture
def file(folder: Path) -> None:
    """A file of two rows."""
    (folder / "rewards.csv").write_text(TWO)


@pytest.mark.parametrize("option", ["--report", "--results"])
@pytest.mark.parametrize("place", ["nowhere/out", "folder", "rewards.csv/out"])
def test_a_place_that_cannot_be_written_is_told_before_anything_is_sent(
    call: Call, folder: Path, file: None, option: str, place: str
) -> None:
    (folder / "folder").mkdir()
    for more in ([], ["--dry-run"]):
        result = call(*run_of("rewards.csv", "--outage-timeout=0", f"{option}={place}", *more), env=NOBODY)
        assert result.exit_code == 2
        assert f"{option}: " in result.stderr
        assert place.split("/", maxsplit=1)[0] in result.stderr
    assert not (folder / "payouts.db").exists()


def test_a_report_that_cannot_be_written_is_told_with_its_own_name(call: Call, folder: Path) -> None:
    result = call("report", "--out=nowhere/report.html")
    assert (result.exit_code, "--out: " in result.stderr) == (2, True)
    result = call("report", "--results=nowhere/results.csv")
    assert (result.exit_code, "--results: " in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--store=inbox.db"], "inbox.db"),
        (["--store=sqlite:///inbox.db"], "--store"),
        (["--store=memory:"], "--store"),
        (["--store=rewards.csv"], "rewards.csv"),
        (["--store=inbox.db", "--webhook-port=0"], "--webhook-port"),
        (["--webhook-port=0", "--webhook-path=hooks"], "--webhook-path"),
        (["--webhook-port=0", "--keys-file=keys.txt"], "keys.txt"),
        (["--repeat-is-safe"], "--repeat-is-safe"),
    ],
)
def test_a_place_for_news_that_cannot_be_had_is_told_before_anything_is_sent(
    call: Call, folder: Path, file: None, options: list[str], words: str
) -> None:
    result = call(*run_of("rewards.csv", "--outage-timeout=0", *options), env=NOBODY)
    assert (result.exit_code, words in result.stderr) == (2, True), result.stderr
    assert not (folder / "payouts.db").exists()


@pytest.mark.parametrize("option", ["--webhook-port=0", "--store=inbox.db"])
def test_coins_have_no_news_to_wait_for(call: Call, folder: Path, option: str) -> None:
    (folder / "coins.csv").write_text("id,user_id,event\na,EK1,MEAL\n")
    result = call("run", "coins.csv", "--vendor=enkash", "--campaign=c", "--dry-run", option)
    assert (result.exit_code, "--webhook-port" in result.stderr) == (2, True)


def test_the_listeners_store_may_be_named_as_the_listener_names_it(call: Call, folder: Path, file: None) -> None:
    asyncio.run(make_store(folder / "inbox.db"))
    with sandbox("original", "--confirm=0:0") as url:
        assert call(*run_of("rewards.csv", "--store=sqlite:///inbox.db"), env=original_at(url)).exit_code == 0


async def make_store(path: Path) -> None:
    store = SQLiteStore(path)
    await store.ping()
    await store.aclose()


async def test_keys_may_stand_in_a_file_and_another_apps_news_settles_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORIGINAL_API_KEY", "k")
    monkeypatch.setenv("ORIGINAL_API_SECRET", "s" * 32)
    monkeypatch.setenv("ORIGINAL_APP_UID", "the-app")
    (folder / "keys.txt").write_text("# of the console\nk1:secret\n")
    store = MemoryStore()
    monkeypatch.setattr("webhooks.MemoryStore", lambda **_: store)
    port = free_port()
    body = b'{"event": "reward.allocated", "data": {"app": {"uid": "another"}}}'
    signed = {"x-webhook-signature": OriginalWebhooks({"k1": "secret"}).sign(body)}
    client = original_client()
    listening = Listening(port=port, keys_file=folder / "keys.txt")
    async with client, completions_of(client, listening), ClientSession() as session:
        reply = await session.post(f"http://127.0.0.1:{port}/webhooks/original", data=body, headers=signed)
        assert reply.status == 200
        (event,) = await store.list_events()
        assert event.state == "dead"
        said("run: an event of another app", event.event.problem)


async def test_nobody_is_told_to_give_options_that_payouts_does_not_have(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ORIGINAL_API_KEY", "k")
    monkeypatch.setenv("ORIGINAL_API_SECRET", "s" * 32)
    (folder / "keys.txt").write_text("k1:secret\n")
    port = free_port()
    client = original_client()
    async with client, completions_of(client, Listening(port=port, keys_file=folder / "keys.txt")):
        pairs = [await asyncio.open_connection("127.0.0.1", port) for _ in range(50)]
        async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}/webhooks/original") as reply:
            assert reply.status == 405
        for _, writer in pairs:
            writer.close()
            await writer.wait_closed()
    told = next(line for line in caplog.messages if "50 of the 100 connections" in line)
    said("run: many connections from one address", told)


class Broken:
    """A run that cannot go on."""

    def __init__(self, problem: Exception) -> None:
        self.progress = Progress(total=1)
        self.problem = problem
        self.stopped = asyncio.Event()

    def stop(self) -> None:
        self.stopped.set()

    async def __aenter__(self) -> Broken:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing to give back."""

    def __aiter__(self) -> Broken:
        return self

    async def __anext__(self) -> None:
        raise self.problem


async def test_what_is_said_beside_a_moving_line_stands_above_it(capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupted(Broken):
        async def __anext__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            await self.stopped.wait()
            raise self.problem

    output = Output(as_json=False)
    output.console = Console(file=io.StringIO(), force_terminal=True, width=160)
    paying = Interrupted(StoreError("expected the store, got none"))
    await run_to_end(paying, MovingLine(output))  # type: ignore[arg-type]
    shown = output.console.file.getvalue()  # type: ignore[attr-defined]
    assert "nterrupt again" in shown
    assert "expected the store, got none" in shown
    assert "waiting" in shown[shown.index("expected the store, got none") :]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "problem", [StoreError("expected the store, got none"), CompletionsFailed("expected to wait, got tired")]
)
async def test_what_waits_and_cannot_go_on_ends_the_run_in_words(problem: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    broken_off = await run_to_end(Broken(problem), JsonLines(Output()))  # type: ignore[arg-type]
    assert broken_off is not None
    assert (broken_off.code, broken_off.at_once) == (Exit.UNAVAILABLE, False)
    assert str(problem) in capsys.readouterr().err


def test_an_interrupt_while_the_report_is_written_does_not_say_that_nothing_was_sent(
    call: Call, folder: Path, file: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("payouts.cli.job.write_report", interrupted)
    with sandbox("original", "--confirm=0:0") as url:
        result = call(*run_of("rewards.csv", "--report=report.html"), env=original_at(url))
    assert {entry.state for entry in entries(folder).values()} == {State.DONE}
    assert (result.exit_code, "ledger" in result.stderr) == (130, True), result


@pytest.mark.parametrize("command", [["status"], ["report"], ["resolve", "r1", "--as=done", "--note=x"], ["retry", "r1"]])
def test_a_damaged_ledger_is_told_in_words(call: Call, folder: Path, command: list[str]) -> None:
    async def plan() -> None:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="c") as ledger:
            await ledger.plan([token_row(f"r{n}") for n in range(2000)])

    asyncio.run(plan())
    with (folder / "payouts.db").open("r+b") as stream:
        for page in range(3, stream.seek(0, 2) // 4096):
            stream.seek(page * 4096)
            stream.write(b"\xff" * 4096)
    result = call(*command, env=NOBODY)
    assert (result.exit_code, "ledger" in result.stderr) == (7, True), result.output


@pytest.mark.slow
def test_rows_that_have_no_end_yet_are_told_with_what_there_is_to_do(
    call: Call, folder: Path, file: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    with sandbox("original", "--confirm=0:0") as url:
        result = call(*run_of("rewards.csv", "--limit=1"), env=original_at(url))
        assert result.exit_code == 4
        said("run: one row is left", without_places(result.stdout.splitlines()[-1]))
        result = call(*run_of("rewards.csv"), env=original_at(url))
        assert result.exit_code == 0
        said("run: no row is left", without_places(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), True),
        (("--no-wait",), False),
        (("--webhook-port=0",), False),
        (("--polls-per-second=2",), False),
    ],
)
def test_a_large_file_without_webhooks_is_told_how_long_asking_takes(
    call: Call, folder: Path, options: tuple[str, ...], told: bool
) -> None:
    (folder / "rewards.csv").write_text(HEADER + "".join(f"r{n},{REWARD},{n},1\n" for n in range(61)))
    result = call(*run_of("rewards.csv", "--polls-per-second=1", "--dry-run", *options))
    assert result.exit_code == 0
    assert ("1 min 1 s" in result.stderr) is told


def test_rows_that_were_not_even_taken_up_are_not_paid(
    call: Call, folder: Path, file: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def too_slow(*_: object) -> AsyncIterator[Row]:
        await asyncio.Event().wait()
        yield token_row("r1")

    monkeypatch.setattr("payouts.cli.job.read_rows", too_slow)
    result = call(*run_of("rewards.csv", "--limit=0"), env=NOBODY)
    assert (result.exit_code, records(result)[-1]["not_read"]) == (4, 2)
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    said("run: no row was read", without_places(call(*run_of("rewards.csv", "--limit=0"), env=NOBODY).stdout.splitlines()[-1]))


@pytest.mark.slow
def test_where_webhooks_come_in_is_told(call: Call, folder: Path, file: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with sandbox("original", "--confirm=0:0") as url:
        given = run_of("rewards.csv", "--webhook-port=0", "--webhook-path=/hooks")
        first = records(call(*given, env=original_at(url)))[1]
        assert first["event"] == "listening"
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9][0-9]*/hooks", first["url"])
        monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
        assert "http://127.0.0.1:" in call(*given, env=original_at(url)).stdout
