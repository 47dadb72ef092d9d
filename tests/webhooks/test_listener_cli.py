"""The command line `webhook-listener` as a whole: which store it means, its exit codes, its errors and its output."""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from rewards_core.cli.columns import Column
from rewards_core.cli.output import Output, cell
from rewards_core.errors import StoreError
from rewards_core.install_hint import install_hint
from tests.texts import said
from tests.webhooks.command_kit import CONTROL, STRANGE, fill, lines, run, some_events
from tests.webhooks.listener_process import environment
from webhooks import __main__ as entry
from webhooks.cli import EXIT_CODES
from webhooks.cli.sources import SourceSpec, parse_source

ON_A_STORE = [
    "events list",
    "events show 1",
    "events replay 1",
    "events forget --user 1 --yes",
    "events forget --user 1",
    "dead-letters list",
    "dead-letters retry 1",
    "dead-letters purge --older-than-days 1",
    "tail --count 1",
    "wait 1 --timeout 0",
    "handlers list",
    "handlers retire pay",
    "pending list",
    "pending forget 1",
    "backup copy.db",
]


# the store


@pytest.mark.parametrize("command", ON_A_STORE)
def test_a_missing_store_is_exit_code_7_and_none_is_made(folder: Path, command: str) -> None:
    result = run(*command.split())
    assert (result.exit_code, result.stdout) == (7, "")
    said("any command: there is no store", result.stderr.replace(str(folder), "FOLDER"))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("command", ON_A_STORE)
@pytest.mark.parametrize("url", ["memory:", "mysql://user:password@host/db"])
def test_a_store_that_is_no_file_is_exit_code_2(folder: Path, command: str, url: str) -> None:
    result = run(*command.split(), "--store", url)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "password" not in result.stderr
    said(f"any command: --store {url}", re.sub(r"(Usage:|Try) .*\n", "", result.stderr))


@pytest.mark.parametrize("command", [each for each in ON_A_STORE if each != "events forget --user 1"])
def test_a_file_that_is_no_store_is_exit_code_7_and_is_not_changed(folder: Path, command: str) -> None:
    (folder / "inbox.db").write_bytes(b"nothing of the kind" * 100)
    result = run(*command.split())
    assert (result.exit_code, result.stdout) == (7, "")
    said("any command: the store is damaged", result.stderr)
    assert (folder / "inbox.db").read_bytes() == b"nothing of the kind" * 100


def test_the_store_may_be_named_by_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(folder, some_events)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    monkeypatch.setenv("WEBHOOK_STORE", f"sqlite:///{folder}/inbox.db")
    assert run("events", "show", "1").exit_code == 0


# words


def test_a_source_is_read_from_words() -> None:
    assert parse_source("/in") == SourceSpec(path="/in")
    assert parse_source("/in, scope=b ,app=A,keys=k") == SourceSpec(path="/in", scope="b", app_uid="A", keys_file=Path("k"))
    for wrong in ("in", "/in,scope", "/in,scope=", "/in,colour=red"):
        with pytest.raises(ValueError, match="--source"):
            parse_source(wrong)


def test_dead_letters_cannot_be_kept_for_less_than_fourteen_days(folder: Path) -> None:
    result = run("serve", "--keep-dead", "13.9")
    assert result.exit_code == 2
    assert "--keep-dead" in result.stderr


@pytest.mark.parametrize("command", ["trigger", "serve", "doctor"])
def test_a_variable_that_is_wrong_is_named_and_not_shown(folder: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("ORIGINAL_APP_UID", "tell tale")
    result = run(command)
    assert result.exit_code == 2
    assert "ORIGINAL_APP_UID" in result.stderr
    assert "tell" not in result.stderr


# output


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


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "iso-8859-1"])
def test_a_record_keeps_numbers_as_numbers_in_every_encoding(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding=encoding)
    monkeypatch.setattr("sys.stdout", stream)
    Output(as_json=True).record({"amount": Decimal("1.10"), "large": Decimal("1e-30"), "name": "\u0926\U0001111f\u2028", "n": 2})
    line = written.getvalue().decode(encoding)
    name = "\u0926\U0001111f" if encoding == "utf-8" else "\\u0926\\ud804\\udd1f"
    assert line == f'{{"amount":1.10,"large":1E-30,"name":"{name}\\u2028","n":2}}\n'


@pytest.mark.slow
@pytest.mark.parametrize("closed", [">&-", "<&-"], ids=["standard output", "standard input"])
def test_with_a_stream_closed_nothing_is_done(folder: Path, closed: str) -> None:
    fill(folder, some_events)
    command = shlex.join([sys.executable, "-m", "webhooks", "events", "forget", "--user", "324167489835"])
    done = subprocess.run(["sh", "-c", f"{command} {closed}"], cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    said(f"events forget {closed}", done.stderr)
    assert lines(run("events", "show", "1"))[0]["body"]


# how a command ends


def test_exit_codes_are_documented(folder: Path) -> None:
    help_text = run("--help").stdout
    assert all(f" {code:d} " in help_text for code in EXIT_CODES)


@pytest.mark.slow
def test_ctrl_c_ends_tail_well_and_is_success_of_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(folder, some_events)
    monkeypatch.setattr("webhooks.cli.errors.asyncio.run", raising(KeyboardInterrupt()))
    assert (run("tail").exit_code, run("tail").stderr) == (0, "")
    commands = [each for each in ON_A_STORE if "forget --user 1" not in each or "--yes" in each]
    found = {command: run(*command.split()) for command in commands if not command.startswith("tail")}
    assert {result.exit_code for result in found.values()} == {130}
    said("any command: ctrl-c", "\n".join(f"{command}: {result.stderr}".strip() for command, result in found.items()))


@pytest.mark.parametrize(
    ("problem", "code", "words"),
    [
        (BrokenPipeError(), 1, ""),
        (OSError(28, "No space left on device", "inbox.db"), 2, "inbox.db: No space left on device\n"),
        (StoreError("the disk is full"), 7, "the disk is full\n"),
        (ValueError("--set: no"), 2, "--set: no\n"),
    ],
)
@pytest.mark.parametrize("command", ["events list", "doctor", "serve"])
def test_what_a_command_meets_is_a_line_and_an_exit_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, command: str, problem: Exception, code: int, words: str
) -> None:
    monkeypatch.setattr("asyncio.run", raising(problem))
    result = run(*command.split())
    assert (result.exit_code, result.stderr) == (code, words)


def raising(problem: BaseException) -> Callable[[Any], None]:
    """Stand where `asyncio.run` stands, and meet something."""

    def meet(coroutine: Any) -> None:
        coroutine.close()
        raise problem

    return meet


# the extra


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_extra_the_command_says_which_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as left:
        entry.main()
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert (f" {missing}." in told, install_hint("cli") in told) == (True, True)


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
