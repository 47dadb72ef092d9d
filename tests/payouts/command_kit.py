"""What tests of the command line share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import Result

from payouts.ledger.reader import LedgerReader
from payouts.states import Entry
from rewards_core.cli.output import Output
from tests.payouts.process_kit import sandbox

HEADER = "id,reward_uid,to_user_uid,amount\n"
REWARD = "764893807463"
TWO = HEADER + f"r1,{REWARD},32,1.50\nr2,{REWARD},33,2.25\n"
QUICK = ("--rate=0", "--poll-after=0.05", "--polls-per-second=1000", "--lookup-timeout=0")

Call = Callable[..., Result]


@pytest.fixture
def vendor() -> Iterator[str]:
    """Original, played; it refuses users whom it does not know."""
    with sandbox("original", "--confirm=0:0", "--strict") as url:
        yield url


def run_of(file: str = "rewards.csv", *more: str) -> list[str]:
    return ["run", file, "--vendor=original", "--campaign=diwali-2026", "--yes", *QUICK, *more]


def records(result: Result | str) -> list[dict[str, Any]]:
    text = result if isinstance(result, str) else result.stdout
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def entries(folder: Path) -> dict[str, Entry]:
    with LedgerReader(folder / "payouts.db") as reader:
        return {entry.id: entry for entry in reader.entries(reader.campaign())}


def for_people(output: Output, as_json: bool | None = None) -> None:
    """Stand in for `Output.__init__` where somebody watches."""
    output.as_json = False
    output.console = Console(highlight=False, markup=False, emoji=False, width=200, force_terminal=False)
