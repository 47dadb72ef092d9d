"""What tests share in which a person decides about rows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from payouts.ledger.decisions import Decision, decisions
from payouts.ledger.schema import connect_to_read
from payouts.ledger.sqlite import Ledger
from payouts.states import State
from rewards_core.errors import OutcomeUnknown
from rewards_core.sqlite.connection import Connection, connect
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
def raw(folder: Path) -> Iterator[Connection]:
    """Open the file of a ledger that nothing else works with."""
    with closing(connect(folder / "payouts.db")) as database:
        yield database


def row_of(folder: Path, row_id: str) -> dict[str, Any]:
    """Return every column of a row, and the keys that it had before."""
    with raw(folder) as database:
        (row,) = _by_name(database, "rows", "id", row_id)
        return {**row, "retired": _by_name(database, "retired_keys", "row", row["number"])}


def _by_name(database: Connection, table: str, column: str, value: object) -> list[dict[str, Any]]:
    """Return the rows of a table that have a value in a column, each with the names of its columns."""
    names: list[Any] = database.execute(f"SELECT name FROM pragma_table_info('{table}')").fetchall()
    rows = database.execute(f"SELECT * FROM {table} WHERE {column} = ?", (value,)).fetchall()
    return [dict(zip((name for (name,) in names), row, strict=True)) for row in rows]
