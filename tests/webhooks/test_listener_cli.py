"""The command line `webhook-listener` as a whole: which store it means, its exit codes, its errors and its output."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewards_core.errors import StoreError
from tests.texts import said
from tests.webhooks.command_kit import fill, lines, run, some_events
from tests.webhooks.listener_process import environment
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
