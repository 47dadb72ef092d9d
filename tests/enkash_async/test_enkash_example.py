"""The example runs with one command and does what its first line says."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from rewards_core.errors import ConnectFailed, OutcomeUnknown, RequestRejected, VendorError

ROOT = Path(__file__).parents[2]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENKASH_")}
    command = [sys.executable, str(ROOT / "examples" / "enkash_cashback.py"), *arguments]
    return subprocess.run(
        command, cwd=cwd, env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )


def test_the_cashback_example_gives_everybody_the_coins_of_the_event(tmp_path: Path) -> None:
    done = run("--sandbox", "--coins", "7", "EK1", "EK2", "EK3", "EK2", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("MEAL_CARD_PAYMENT gives 7 coins (WCC")
    assert sorted(lines[1:4]) == [
        f"EK{number}: Successfully allocated enkash Coins (cashback-1-EK{number})" for number in (1, 2, 3)
    ]
    assert lines[4:] == ["EK1 has 7 coins", "EK2 has 7 coins", "EK3 has 7 coins"]


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (OutcomeUnknown("it may have been carried out"), "EK1: unknown: it may have been carried out"),
        (RequestRejected("no funds"), "EK1: nothing given by this run: no funds"),
        (ConnectFailed("no network"), "EK1: nothing given by this run: no network"),
    ],
)
async def test_every_way_an_allocation_can_end_is_told_and_none_hides_the_others(
    capsys: pytest.CaptureFixture[str], problem: VendorError, words: str
) -> None:
    class Client:
        async def allocate_coins(self, **_: str) -> None:
            raise problem

        async def get_balance(self, user: str) -> int:
            raise problem

    example = runpy.run_path(str(ROOT / "examples" / "enkash_cashback.py"))

    assert await example["grant"](Client(), "E", "EK1", "campaign") is False
    assert capsys.readouterr().out.strip() == words
    assert str(problem) in await example["balance"](Client(), "EK1")


def test_without_credentials_it_says_which_are_missing(tmp_path: Path) -> None:
    done = run(cwd=tmp_path)

    assert done.returncode == 2
    assert "ENKASH_CLIENT_SECRET" in done.stderr
