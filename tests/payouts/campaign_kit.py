"""A desk at which somebody pays files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from typer.testing import Result

from payouts.ledger.reader import LedgerReader
from payouts.states import State
from tests.payouts.command_kit import HEADER, QUICK, REWARD, Call, records
from tests.payouts.process_kit import books, original_at

ROWS = [f"r{n},{REWARD},{110985463780 + n},{n}.50" for n in range(1, 6)]
FIVE = HEADER + "\n".join(ROWS) + "\n"


class Desk:
    """A person with a folder of files, one ledger and one vendor."""

    def __init__(self, call: Call, folder: Path, vendor: str) -> None:
        self.call = call
        self.folder = folder
        self._vendor = vendor

    def pay(self, content: str, campaign: str, *more: str, text: str | None = None) -> Result:
        (self.folder / "rewards.csv").write_text(content)
        command = ["run", "rewards.csv", "--vendor=original", f"--campaign={campaign}", *QUICK, *more]
        return self.call(*command, text=text, env=original_at(self._vendor))

    @property
    def paid(self) -> int:
        return len(books(self._vendor)["allocations"])

    def states(self, campaign: str) -> list[State]:
        with LedgerReader(self.folder / "payouts.db") as reader:
            return [entry.state for entry in reader.entries(reader.campaign(campaign))]


def events(result: Result, name: str) -> list[dict[str, Any]]:
    return [record for record in records(result) if record["event"] == name]


def untimed(result: Result) -> str:
    """Return what a person read before any row was paid, without the vendor's port."""
    return re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:9400", result.output)
