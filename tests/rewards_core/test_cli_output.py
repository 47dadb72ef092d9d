"""What the commands of both command lines write, for people and for programs, in whatever encoding."""

from __future__ import annotations

import io
import json
import re
import sys
from decimal import Decimal

import pytest
from rich.console import Console

from rewards_core.cli.columns import Column
from rewards_core.cli.output import Output, cell, print_stderr
from tests.texts import in_latin

STRANGE = "a\x1b[31mred\x1b[0m\u202eevil\x07"
CONTROL = frozenset("\x1b\x07\u202e")


# for people


def test_output_for_people_holds_no_control_character(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False)
    output.record({"name": STRANGE, "none": None})
    output.record({}, text=f"[bold]{STRANGE}[/bold]")
    output.lines(f"  indented {STRANGE}\nnext")
    output.listing([Column(heading="id"), Column(heading="name")], [(["1", STRANGE], STRANGE)])
    shown = capsys.readouterr().out
    assert not CONTROL.intersection(shown)
    assert "[bold]" in shown
    assert "\n  indented a" in shown
    assert cell("x" * 500).endswith("…")


def test_columns_are_as_wide_as_what_stands_in_them_and_are_not_folded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    rows = [(["1", "дело", "x" * 30], ""), (["1,000", "名", "y"], "said of it, at length and on one line")]
    columns = [Column(heading="number", right=True), Column(heading="name", min_cut=4), Column(heading="id")]
    Output(as_json=False).listing(columns, rows)
    assert capsys.readouterr().out.splitlines() == [
        "number  name  id",
        f"     1  дело  {'x' * 30}",
        " 1,000  名    y",
        "    said of it, at length and on one line",
    ]


def test_numbers_are_never_folded_or_cut(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False)
    output.console = Console(file=sys.stdout, width=30)
    output.draw("", ("row", "amount"), [("a-long-name-of-a-row", "9" * 60), ("b", "1")], right=("amount",))
    assert "9" * 60 in capsys.readouterr().out


def test_what_a_terminal_cannot_write_is_shown_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    written = in_latin(monkeypatch)
    output = Output(as_json=False)
    output.say("दी é")
    output.lines("  मी")
    output.draw("तालिका", ("row", "amount"), [("अ", "1.50"), ("b", "20.00")], right=("amount",))
    print_stderr("नी")
    shown = written()
    assert "\\u0926\\u0940 é\n  \\u092e\\u0940\n" in shown
    assert "\\u0905    1.50\nb        20.00\n" in shown
    assert "\\u0928\\u0940\n" in shown
    assert not re.search(r"\\u25|\\u2[89]", shown)  # lines and spinners become ASCII


def test_a_message_that_nobody_can_read_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.TextIOWrapper(io.BytesIO())
    closed.close()
    for stream in (closed, None):
        monkeypatch.setattr(sys, "stderr", stream)
        print_stderr("nobody reads this")


# for programs


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "iso-8859-1"])
def test_a_record_keeps_numbers_as_numbers_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding)
    monkeypatch.setattr("sys.stdout", stream)
    Output(as_json=True).record({"amount": Decimal("1.10"), "large": Decimal("1e-30"), "name": "\u0926\U0001111f\u2028", "n": 2})
    line = written.getvalue().decode(encoding)
    name = "\u0926\U0001111f" if encoding == "utf-8" else "\\u0926\\ud804\\udd1f"
    assert line == f'{{"amount":1.10,"large":1E-30,"name":"{name}\\u2028","n":2}}\n'


def test_a_name_that_is_no_text_still_makes_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).record({"path": "r\udcff.html", "अ": 1})
    assert json.loads(capsys.readouterr().out) == {"path": "r\udcff.html", "अ": 1}
    Output(as_json=True).record({"id": "अ"})
    assert capsys.readouterr().out == '{"id":"अ"}\n'
