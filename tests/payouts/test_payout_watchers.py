"""Whoever watches a run may go, and whatever it writes beside the ledger may fail: what is under way is still awaited."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from payouts.cli import app
from payouts.ledger.reader import LedgerReader
from payouts.states import State
from tests.payouts.by_hand_kit import prepare, raw
from tests.payouts.process_kit import ROOT, create_event, end, enkash_at, original_at, playing, sandbox
from tests.texts import said
from vendor_sandboxes import OriginalSandbox

REWARD = "764893807463"
TWO = f"id,reward_uid,to_user_uid,amount\nr1,{REWARD},32,1.50\nr2,{REWARD},33,2.25\n"

BULK = ("resolve", "--unknown", "--refused", "--as=rejected", "--yes")

Call = Callable[..., Result]


@pytest.fixture
def coins(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A vendor that takes its time and cannot be asked afterwards, and a file of 60 rows."""
    (tmp_path / "coins.csv").write_text("id,user_id,event\n" + "".join(f"r{n},EK{n:06d},MEAL\n" for n in range(60)))
    with sandbox("enkash", "--latency=0.02:0.05") as url:
        env = enkash_at(url, tmp_path)
        create_event(env, "MEAL")
        yield env


def start(folder: Path, env: dict[str, str], **options: Any) -> subprocess.Popen[bytes]:
    command = ["run", folder / "coins.csv", "--vendor=enkash", "--campaign=c", "--yes", "--rate=0", "--concurrency=5"]
    command += ["--ledger", folder / "payouts.db"]
    given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": env, "cwd": ROOT} | options
    return subprocess.Popen([sys.executable, "-m", "payouts", *map(str, command)], **given)


def states(folder: Path) -> list[State]:
    with LedgerReader(folder / "payouts.db") as reader:
        return [entry.state for entry in reader.entries(reader.campaign())]


def until_a_row(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if b'"event":"row"' in line:
            return


@pytest.mark.slow
def test_a_reader_who_goes_leaves_no_row_without_an_end(tmp_path: Path, coins: dict[str, str]) -> None:
    process = start(tmp_path, coins)
    until_a_row(process)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    told = process.stderr.read()
    assert process.wait(60) == 1
    process.stderr.close()
    said("run: its reader has left", told.decode())
    assert set(states(tmp_path)) == {State.DONE, State.PLANNED}


@pytest.mark.slow
def test_a_run_that_nobody_can_hear_ends_well_all_the_same(tmp_path: Path, coins: dict[str, str]) -> None:
    reading, writing = os.pipe()
    process = start(tmp_path, coins, stdout=writing, stderr=writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        while b'"event":"row"' not in told.readline():
            pass
    assert process.wait(60) == 1
    assert set(states(tmp_path)) == {State.DONE, State.PLANNED}


@pytest.mark.slow
def test_a_run_that_was_told_to_outlive_its_terminal_does(tmp_path: Path, coins: dict[str, str]) -> None:
    process = start(tmp_path, coins, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    until_a_row(process)
    process.send_signal(signal.SIGHUP)
    assert (end(process), process.returncode) == ("", 0)
    assert set(states(tmp_path)) == {State.DONE}


@pytest.mark.slow
def test_a_closed_output_is_refused_because_the_ledger_could_be_opened_in_its_place(
    tmp_path: Path, coins: dict[str, str]
) -> None:
    process = start(tmp_path, coins, stdout=None, preexec_fn=lambda: os.close(1))
    said("run: standard output is closed", end(process))
    assert process.returncode == 2
    assert not (tmp_path / "payouts.db").exists()


# results


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("status", "--all", "--text"), 0),
        (("decisions", "--all", "--csv=decisions.csv", "--json"), 0),
        (("audit", "--rate=0", "--text"), 3),
        ((*BULK, "--json"), 4),
    ],
)
def test_a_reader_who_has_seen_enough_is_no_error(folder: Path, command: tuple[str, ...], code: int) -> None:
    prepare(folder, State.UNKNOWN)
    assert CliRunner().invoke(app, ["resolve", "r1", "--as=done", "--note=seen"]).exit_code == 0
    with raw(folder) as database:
        database.execute("UPDATE rows SET answer = 400 WHERE id = 'r2'")
    with playing(OriginalSandbox()) as vendor:
        reading, writing = os.pipe()
        os.close(reading)
        arguments = [sys.executable, "-m", "payouts", *command]
        env = original_at(vendor.url) | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(arguments, stdout=writing, stderr=subprocess.PIPE, env=env, cwd=folder, check=False)
        os.close(writing)
    assert (done.returncode, done.stderr) == (code, b"")
    assert (folder / "decisions.csv").exists() is (command[0] == "decisions")


# files


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rewards.csv").write_text(TWO)
    with sandbox("original", "--confirm=0:0") as url:
        yield lambda *arguments: CliRunner().invoke(app, list(arguments), env=original_at(url))


def run_of(*more: str) -> list[str]:
    options = ("--rate=0", "--poll-after=0.05", "--polls-per-second=1000")
    return ["run", "rewards.csv", "--vendor=original", "--campaign=c", "--yes", *options, *more]


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--report", "--results"])
def test_neither_the_ledger_nor_the_file_of_rows_is_written_over(call: Call, tmp_path: Path, option: str) -> None:
    (tmp_path / "link").symlink_to("payouts.db")
    for place, word in [("payouts.db", "ledger"), ("link", "ledger"), ("rewards.csv", "rows")]:
        result = call(*run_of(option, place))
        assert (result.exit_code, bool(re.search(f"{option}: {place} .* {word}", result.stderr))) == (2, True)
    assert not (tmp_path / "payouts.db").exists()
    assert call(*run_of("--report=x", "--results=x")).exit_code == 2
    os.mkfifo(tmp_path / "device")
    said("run: a report to a pipe", call(*run_of(option, "device")).stderr.replace(option, "--report"))
    assert call(*run_of()).exit_code == 0
    before = (tmp_path / "payouts.db").read_bytes()
    assert call("report", "--out=payouts.db").exit_code == 2
    assert call("report", "--results=payouts.db").exit_code == 2
    assert (tmp_path / "payouts.db").read_bytes() == before


def test_a_report_that_cannot_be_written_hides_nothing_of_the_run(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device", "report.html")

    monkeypatch.setattr("payouts.cli.job.write_report", full)
    result = call(*run_of("--report=report.html"))
    assert result.exit_code == 1
    said("run: a report that cannot be written", result.stderr)
    assert '"event":"summary"' in result.stdout
    assert '"done":2' in result.stdout


@pytest.mark.slow
def test_a_ledger_that_is_damaged_is_told_in_words(call: Call, tmp_path: Path) -> None:
    assert call(*run_of()).exit_code == 0
    ledger = tmp_path / "payouts.db"
    sound = ledger.read_bytes()
    ledger.write_bytes(sound[:4096] + b"\xff" * (len(sound) - 4096))
    retry, resolve = ["retry", "r1", "--yes"], ["resolve", "r1", "--as=done", "--note=seen"]
    for arguments in (run_of(), ["status"], ["report"], retry, resolve):
        result = call(*arguments)
        assert (result.exit_code, "malformed" in result.stderr) == (7, True)
