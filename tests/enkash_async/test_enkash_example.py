"""The example runs with one command and does what its first line says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENKASH_")}
    command = [sys.executable, str(ROOT / "examples" / "enkash_cashback.py"), *arguments]
    return subprocess.run(
        command, cwd=cwd, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_cashback_example_gives_everybody_the_coins_of_the_event(tmp_path: Path) -> None:
    done = run("--sandbox", "--coins", "7", "EK1", "EK2", "EK3", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("MEAL_CARD_PAYMENT gives 7 coins (WCC")
    assert sorted(lines[1:4]) == [
        f"EK{number}: Successfully allocated enkash Coins (cashback-1-EK{number})" for number in (1, 2, 3)
    ]
    assert lines[4:] == ["EK1 has 7 coins", "EK2 has 7 coins", "EK3 has 7 coins"]


def test_without_credentials_it_says_which_are_missing(tmp_path: Path) -> None:
    done = run(cwd=tmp_path)

    assert done.returncode == 2
    assert "ENKASH_CLIENT_SECRET" in done.stderr
