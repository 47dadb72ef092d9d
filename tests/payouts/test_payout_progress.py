"""While a run pays, people see a line that moves, and programs are told every five seconds."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from payouts.cli.display import JsonLines, MovingLine, facts_of
from payouts.progress import Progress
from payouts.states import Entry, State
from rewards_core.cli.output import Output
from tests.payouts.command_kit import records
from tests.payouts.payout_kit import Time


def test_json_lines_tell_the_progress_every_five_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Time()
    lines = JsonLines(Output(), clock)
    lines.refresh()
    lines.end()
    progress = Progress(total=10)
    lines.begin(progress)
    for _ in range(11):
        clock.now += 1
        progress.read += 1
        lines.refresh()
    lines.end()
    told = records(capsys.readouterr().out)
    assert [(record["event"], record.get("read")) for record in told] == [
        ("begin", None),
        ("progress", 5),
        ("progress", 10),
        ("end", 11),
    ]


def test_the_moving_line_tells_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Time()
    output = Output()
    output.console = Console(file=io.StringIO(), force_terminal=True, width=160)
    line = MovingLine(output, clock)
    line.refresh()
    line.end()
    progress = Progress(total=100)
    line.begin(progress)
    clock.now += 10
    progress.ended[State.DONE] = 20
    progress.ended[State.UNKNOWN] = 1
    progress.settled_by = {"webhook": 18, "poll": 2}
    line.refresh()
    line.refresh()
    entry = Entry(
        number=1, id="r1", line=1, recipient="u", item="i", amount="1", key="k", state=State.UNKNOWN, problem="[bold]late\x1b[2J"
    )
    line.row(entry)
    line.row(Entry(number=1, id="r2", line=1, recipient="u", item="i", amount="1", key="k", state=State.DONE))
    line.end()
    text = output.console.file.getvalue()  # type: ignore[attr-defined]
    for words in ["2 rows/s", "18 by webhook", "2 by poll", "1 unknown", "left", "row r1: unknown: [bold]late"]:
        assert words in text
    assert "row r2" not in text
    assert "\x1b[2J" not in text
    assert "38 s left" in text


def test_rows_per_second_are_those_of_the_last_seconds() -> None:
    clock = Time()
    output = Output(as_json=False)
    output.console = Console(file=io.StringIO(), force_terminal=True, width=160)
    line = MovingLine(output, clock)
    progress = Progress(total=1000)
    line.begin(progress)
    for _ in range(10):
        clock.now += 1
        progress.ended[State.DONE] += 20
        line.refresh()
    shown = output.console.file.getvalue()  # type: ignore[attr-defined]
    assert "20 rows/s" in shown
    for _ in range(10):
        clock.now += 1
        line.refresh()
    shown = output.console.file.getvalue()[len(shown) :]  # type: ignore[attr-defined]
    assert "10 rows/s" in shown
    assert " 0 rows/s" in shown[shown.index("10 rows/s") :]
    line.end()
    assert "10 rows/s" in output.console.file.getvalue()[-300:]  # type: ignore[attr-defined]  # the mean of the whole run


def test_a_program_is_told_how_much_time_is_left() -> None:
    progress = Progress(total=100, skipped=20)
    assert facts_of(progress, 0.0)["seconds_left"] is None
    progress.ended[State.DONE] = 20
    assert facts_of(progress, 10.0)["seconds_left"] == 30.0
    progress.ended[State.DONE] = 80
    assert facts_of(progress, 10.0)["seconds_left"] == 0.0
    progress.total = None
    assert facts_of(progress, 10.0)["seconds_left"] is None
