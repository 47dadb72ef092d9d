"""Any terminal will do: a narrow one, one without the characters, and one that fails; a program reads JSON in every encoding."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from rich.console import Console

from payouts.audit.absence import record_absent
from payouts.cli import COMMANDS
from payouts.cli.display import JsonLines, MovingLine
from payouts.cli.supervision import run_to_end
from payouts.ledger.sqlite import Ledger
from payouts.progress import Progress
from payouts.states import Entry, State
from rewards_core.cli.output import Output
from rewards_core.errors import OutcomeUnknown
from tests.payouts.command_kit import HEADER, REWARD, Call, entries, records, run_of
from tests.payouts.payout_kit import Time, coin_row, token_row
from tests.payouts.process_kit import ROOT, original_at, sandbox
from tests.payouts.test_payout_precautions import Broken
from tests.texts import in_latin, said
from webhooks import StoreError

NAMES = ["दीपक", "zoë", "𑄌𑄋𑄴𑄟"]
CAMPAIGN = "दीवाली-2026"
LARGE = "1234567890123456789012345678901234567890"


@pytest.fixture
def vendor() -> Iterator[str]:
    with sandbox("original", "--confirm=0:0") as url:
        yield url


def poor(encoding: str, url: str) -> dict[str, str]:
    """Return the environment of a process whose terminal knows few characters."""
    more = {"PYTHONIOENCODING": encoding, "LC_ALL": "C", "TERM": "xterm", "COLUMNS": "80", "LINES": "40"}
    return original_at(url) | more


def pay(folder: Path, env: dict[str, str], **options: Any) -> subprocess.Popen[bytes]:
    rows = "".join(f"{name},{REWARD},{number},1\n" for number, name in enumerate(NAMES))
    (folder / "rewards.csv").write_text(HEADER + rows, "utf-8")
    command = ["run", "rewards.csv", "--vendor=original", f"--campaign={CAMPAIGN}", *run_of()[4:], "--report=report.html"]
    given: dict[str, Any] = {"cwd": folder, "env": env | {"PYTHONPATH": str(ROOT)}, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", "payouts", *command], **given, **options)


# characters that the terminal lacks


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["iso-8859-1", "ascii"])
def test_a_program_reads_every_row_in_whatever_encoding(folder: Path, vendor: str, encoding: str) -> None:
    process = pay(folder, poor(encoding, vendor), stdout=subprocess.PIPE)
    out, told = process.communicate()
    assert (process.returncode, told) == (0, b"")
    found = [json.loads(line) for line in out.decode("ascii").splitlines()]
    assert {record["id"] for record in found if record["event"] == "row"} == set(NAMES)
    assert (found[-1]["campaign"], found[-1]["done"]) == (CAMPAIGN, 3)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["iso-8859-1", "ascii"])
def test_a_terminal_without_the_characters_sees_the_run_to_its_end(folder: Path, vendor: str, encoding: str) -> None:
    ours, theirs = pty.openpty()
    process = pay(folder, poor(encoding, vendor), stdout=theirs)
    os.close(theirs)
    shown = read_to_the_end(ours).decode(encoding)
    with process:
        _, told = process.communicate()
    assert (process.returncode, told) == (0, b""), shown
    assert {entry.id: entry.state for entry in entries(folder).values()} == dict.fromkeys(NAMES, State.DONE)
    assert CAMPAIGN.encode("ascii", "backslashreplace").decode() in shown
    assert "3 done" in shown


def read_to_the_end(terminal: int) -> bytes:
    shown = b""
    try:
        while part := os.read(terminal, 65_536):
            shown += part
    except OSError:  # on Linux a terminal that nobody holds any more ends this way
        return shown
    finally:
        os.close(terminal)
    return shown


def test_a_moving_line_does_without_the_characters_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    written = in_latin(monkeypatch)
    monkeypatch.setenv("TERM", "xterm")
    output = Output(as_json=False)
    output.console = Console(force_terminal=True, width=80, highlight=False)
    line = MovingLine(output, Time())
    line.begin(Progress(total=10))
    entry = Entry(number=1, id="मीरा", line=1, recipient="u", item="i", amount="1", key="k", state=State.REJECTED, problem="न")
    line.row(entry)
    line.end()
    shown = written()
    assert "row \\u092e\\u0940\\u0930\\u093e: rejected: \\u0928" in shown
    assert not re.search(r"\\u2", shown)


# a display that fails


@pytest.mark.slow
@pytest.mark.parametrize("method", ["begin", "row", "refresh", "end"])
@pytest.mark.parametrize("problem", [KeyError("amount"), UnicodeEncodeError("ascii", "é", 0, 1, "no such character")])
def test_a_display_that_fails_is_a_reader_who_left(
    call: Call, folder: Path, vendor: str, monkeypatch: pytest.MonkeyPatch, method: str, problem: Exception
) -> None:
    (folder / "rewards.csv").write_text(HEADER + "".join(f"r{n},{REWARD},{n},1\n" for n in range(40)))

    def fail(*_: object) -> None:
        raise problem

    monkeypatch.setattr(f"payouts.cli.display.JsonLines.{method}", fail)
    result = call(*run_of("rewards.csv", "--concurrency=5"), env=original_at(vendor))
    assert result.exit_code == 1
    (told,) = result.stderr.splitlines()
    said(f"run: a display that fails with {type(problem).__name__}", told)
    assert {entry.state for entry in entries(folder).values()} <= {State.DONE, State.PLANNED}
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert call(*run_of(), env=original_at(vendor)).exit_code == 0
    assert {entry.state for entry in entries(folder).values()} == {State.DONE}


async def test_a_display_that_fails_does_not_swallow_why_the_vendor_stopped_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    class Stopped(Broken):
        async def __anext__(self) -> None:
            await self.stopped.wait()
            raise self.problem

    class Blind(JsonLines):
        def begin(self, progress: Progress) -> None:
            raise OSError(5, "Input/output error")

    output = Output()
    ended_early = await run_to_end(Stopped(StoreError("The store is gone.")), Blind(output))  # type: ignore[arg-type]
    assert ended_early is not None
    assert ended_early.code == 1
    said("run: neither its display nor its store works", capsys.readouterr().err)


# a narrow terminal


async def lead(folder: Path) -> None:
    """Plan two campaigns and lead their rows to different ends."""
    time = Time(now=1_785_000_000.0)
    async with Ledger(folder / "payouts.db", vendor="original", campaign="diwali-2026", clock=time) as ledger:
        rows = [token_row(f"r{number}", amount=LARGE if number % 2 else "1234567.50") for number in range(7)]
        rows.append(token_row("r7", reward_uid="112144981245"))
        planned = await ledger.plan(rows)
        sent = [await ledger.move(entry, State.SENT) for entry in planned[1:]]
        for entry in sent[:2]:
            await ledger.move(await ledger.move(entry, State.ACCEPTED, uid=f"uid-{entry.id}"), State.DONE, settled_by="poll")
        await ledger.move(sent[2], State.REJECTED, problem="no such user")
        unknown = await ledger.move(sent[3], State.UNKNOWN, problem=OutcomeUnknown("no answer", status=503))
        await ledger.transact(lambda database: record_absent(database, [unknown.number], time.now + 60))
        await ledger.move(sent[4], State.MISMATCH, uid="uid-9", problem="another amount")
    async with Ledger(folder / "payouts.db", vendor="enkash", campaign="holi-2026", clock=time) as ledger:
        planned = await ledger.plan([coin_row(f"c{number}") for number in range(1200)])
        sent = await ledger.move_each([(entry, State.SENT, {}) for entry in planned[:1100]])
        await ledger.move_each([(entry, State.DONE, {"settled_by": "reply"}) for entry in sent])


@pytest.fixture(scope="module")
def led(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with that ledger, to be copied."""
    made = tmp_path_factory.mktemp("led")
    asyncio.run(lead(made))
    return made


@pytest.mark.slow
def test_status_reads_well_on_eighty_columns(call: Call, folder: Path, led: Path) -> None:
    shutil.copytree(led, folder, dirs_exist_ok=True)
    eighty = {"COLUMNS": "80"}
    shown = call("status", "--text", "--campaign=diwali-2026", env=eighty).stdout
    said("status: amounts of 40 digits on 80 columns", shown)
    sums = shown.partition("not confirmed as paid")[0].splitlines()
    assert max(map(len, sums)) <= 80
    assert "1,234,567,890,123,456,789,012,345,678,901,234,567,890" in shown
    said("status: coins on 80 columns", call("status", "--text", "--vendor=enkash", env=eighty).stdout)
    said("status: an unknown row", call("status", "r4", "--text", "--campaign=diwali-2026", env=eighty).stdout)
    said("status: a row", call("status", "r5", "--text", "--campaign=diwali-2026", env=eighty).stdout)


def test_status_says_what_it_leaves_out(call: Call, folder: Path, led: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(led, folder, dirs_exist_ok=True)
    monkeypatch.setattr("payouts.report.figures.MAX_ITEMS", 1)
    assert "not listed: 1\n" in call("status", "--text", "--campaign=diwali-2026").stdout


def test_programs_read_plain_amounts(call: Call, folder: Path, led: Path) -> None:
    shutil.copytree(led, folder, dirs_exist_ok=True)
    first, *rows = records(call("status", "--campaign=diwali-2026", "--all"))
    assert first["sums"][REWARD]["done"] == str(int(LARGE) + 1234567) + ".50"
    assert {row["amount"] for row in rows} == {LARGE, "1234567.50", "1.50"}


def test_a_ledger_of_several_campaigns_lists_them(call: Call, folder: Path, led: Path) -> None:
    shutil.copytree(led, folder, dirs_exist_ok=True)
    result = call("status")
    assert result.exit_code == 0
    tokens, coins = records(result)
    names = ("event", "vendor", "campaign", "begun", "rows", "paid", "not_paid", "unknown")
    assert [tokens[name] for name in names] == [
        "campaign",
        "original",
        "diwali-2026",
        "2026-07-25T17:20:00.000+00:00",
        8,
        2,
        5,
        1,
    ]
    assert [coins[name] for name in names[4:]] == [1200, 1100, 100, 0]
    said("status: a ledger of two campaigns", call("status", "--text").stdout)
    (alone, *_) = records(call("status", "--vendor=enkash"))
    assert (alone["event"], alone["campaign"]) == ("status", "holi-2026")


def test_status_of_nothing_is_an_error(call: Call, folder: Path, led: Path) -> None:
    assert call("status").exit_code == 7
    shutil.copytree(led, folder, dirs_exist_ok=True)
    assert call("status", "--campaign=other").exit_code == 5
    assert call("status", "r1").exit_code == 2  # in which of the campaigns?
    assert call("status", "r99", "--campaign=diwali-2026").exit_code == 5


def test_what_a_report_says_may_be_read_as_text_or_json(call: Call, folder: Path, led: Path) -> None:
    shutil.copytree(led, folder, dirs_exist_ok=True)
    where = ("--campaign=diwali-2026", "--out=r.html", "--results=r.csv")
    assert [record["path"] for record in records(call("report", "--json", *where))] == ["r.html", "r.csv"]
    said("report: two files", call("report", "--text", *where).stdout)


# the moving line


def moving(width: int) -> tuple[MovingLine, Time, Callable[[], str]]:
    output, clock = Output(as_json=False), Time()
    output.console = Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False)
    return MovingLine(output, clock), clock, output.console.file.getvalue  # type: ignore[attr-defined]


def drawn(text: str) -> str:
    """Return the lines that were drawn last."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.rpartition("\x1b[2K")[2])


def test_a_moving_line_names_what_went_wrong_and_only_that() -> None:
    line, clock, shown = moving(80)
    progress = Progress(total=20_000)
    line.begin(progress)
    clock.now += 10
    progress.ended |= {State.DONE: 8_000, State.REJECTED: 3, State.UNKNOWN: 12}
    progress.settled_by = {"webhook": 7_000, "poll": 1_000}
    progress.in_flight, progress.pending = 20, 1_234
    line.refresh()
    said("run: the moving lines on 80 columns", drawn(shown()))
    clock.now += 1
    line.end()
    said("run: the moving lines at the end of a run that was stopped", drawn(shown()))


def test_a_moving_line_tells_the_same_problem_only_so_often() -> None:
    line, _, shown = moving(200)
    line.begin(Progress(total=100))
    row = Entry(number=1, id="r1", line=1, recipient="u", item="i", amount="1", key="k", state=State.UNKNOWN)
    for number in range(60):
        for state, kind in ((State.UNKNOWN, "OutcomeUnknown"), (State.REJECTED, "NotFound"), (State.REJECTED, "Forbidden")):
            line.row(evolve(row, id=f"{kind}-{number}", state=state, problem_kind=kind, problem="because"))
    line.end()
    text = shown()
    told = Counter(re.findall(r"row (\w+)-", text))
    assert told == {"OutcomeUnknown": 20, "NotFound": 20, "Forbidden": 20}
    assert text.count("payouts status --all") == 3


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_a_moving_line_is_two_lines_however_large_the_numbers(width: int) -> None:
    line, clock, shown = moving(width)
    progress = Progress(total=2_000_000)
    line.begin(progress)
    for rows in (1, 1_000, 400_000):
        clock.now += 10
        progress.ended = dict.fromkeys(State, rows)
        progress.settled_by = {"webhook": rows, "poll": rows}
        progress.in_flight = progress.pending = rows
        line.refresh()
        first, second = drawn(shown()).split("\n")
        assert max(len(first), len(second)) <= width
        assert re.fullmatch(r"  ([0-9,]+ [a-z ]+)(, [0-9,]+ [a-z ]+)*", second.rstrip())
    line.end()


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_of_the_help_fit_a_terminal_of_80_columns(call: Call, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, _, shown = call(command, "--help").stdout.partition("For example:")
    given, _, _ = shown.partition("╭")
    lines = [line.strip() for line in given.splitlines() if line.strip()]
    assert lines
    assert [line for line in lines if not line.startswith(("payouts ", "coins ", "export PAYOUTS_", "xargs "))] == []
