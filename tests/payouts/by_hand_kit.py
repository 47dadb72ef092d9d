"""What tests share in which a person decides about rows."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from payouts.decisions import Decision, decisions
from payouts.ledger import Ledger
from payouts.ledger_schema import connect_to_read
from payouts.states import State
from rewards_core.errors import OutcomeUnknown
from tests.payouts.payout_kit import token_row
from tests.payouts.process_kit import original_at

NOBODY = original_at("http://127.0.0.1:1/v1")
DAY = 24 * 3600.0


def prepare(folder: Path, state: State, rows: int = 2) -> None:
    """Make a ledger of so many rows in one state."""
    lead(folder, [token_row(f"r{n}") for n in range(1, rows + 1)], state, TimeoutError("no answer"))


def refused(status: int = 400) -> OutcomeUnknown:
    """Return what a row met that was refused after an outage."""
    return OutcomeUnknown(f"the vendor refused (HTTP {status})", status=status)


def lead(folder: Path, rows: list[Any], state: State, problem: BaseException, vendor: str = "original", target: str = "") -> None:
    """Lead rows of a ledger to a state, with a problem."""

    async def moves() -> None:
        async with Ledger(folder / "payouts.db", vendor=vendor, campaign="diwali-2026", target=target) as ledger:
            for entry in await ledger.plan(rows):
                sent = await ledger.move(entry, State.SENT)
                uid = f"uid-{entry.id}" if state in {State.FAILED, State.DONE} else None
                if uid is not None and vendor == "original":
                    sent = await ledger.move(sent, State.ACCEPTED, uid=uid)
                await ledger.move(sent, state, problem=None if state is State.DONE else problem)

    asyncio.run(moves())


def decided(folder: Path) -> list[Decision]:
    """Return every decision in a ledger."""
    with closing(connect_to_read(folder / "payouts.db")) as database:
        return list(decisions(database))


@contextmanager
def raw(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open the file of a ledger that nothing else works with."""
    with closing(sqlite3.connect(folder / "payouts.db", isolation_level=None)) as database:
        yield database


def row_of(folder: Path, row_id: str) -> dict[str, Any]:
    """Return every column of a row, and the keys that it had before."""
    with raw(folder) as database:
        database.row_factory = sqlite3.Row
        row = dict(database.execute("SELECT * FROM rows WHERE id = ?", (row_id,)).fetchone())
        retired = database.execute("SELECT * FROM retired_keys WHERE row = ?", (row["number"],)).fetchall()
        return {**row, "retired": [dict(each) for each in retired]}
