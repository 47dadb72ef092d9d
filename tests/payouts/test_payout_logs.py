"""What `payouts run` writes to standard error where it is told how to log."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.payouts.process_kit import environment
from tests.texts import said


def errors_of(folder: Path, *options: str, file: str = "id\nr1\n") -> tuple[int, list[str]]:
    """Check a file that cannot be paid from, and return the exit code and the lines of standard error."""
    (folder / "rewards.csv").write_text(file)
    command = [sys.executable, "-m", "payouts", "run", "rewards.csv", "--vendor=original", "--campaign=c", "--dry-run", *options]
    result = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    return result.returncode, result.stderr.splitlines()


@pytest.mark.slow
def test_in_json_every_line_is_an_object_that_says_what_the_text_says(tmp_path: Path) -> None:
    code, lines = errors_of(tmp_path)
    assert code == 2
    assert lines
    found = [json.loads(line) for line in errors_of(tmp_path, "--log-format=json")[1]]
    assert [each["message"] for each in found] == lines
    assert {each["level"] for each in found} == {"error"}


@pytest.mark.slow
@pytest.mark.parametrize("options", [("--log-level=warning",), ("--log-level=error",)])
def test_a_level_alone_changes_no_word_of_the_command(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert errors_of(tmp_path, *options) == errors_of(tmp_path)


def test_the_help_says_what_is_logged_without_a_level(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "payouts", "run", "--help"]
    done = subprocess.run(command, env=environment() | {"COLUMNS": "200"}, capture_output=True, text=True, check=True)
    told = " ".join(done.stdout.replace("│", " ").split())
    said("run --help: the default of --log-level", "\n".join(re.findall(r"\[default: \(warning.*?\]", told)))
