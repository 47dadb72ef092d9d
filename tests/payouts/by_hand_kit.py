"""What tests share in which a person decides about rows."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from original_async import Allocation, OriginalClient
from payouts.ledger.decisions import Decision, decisions
from payouts.ledger.schema import connect_to_read
from payouts.ledger.sqlite import Ledger
from payouts.states import State
from rewards_core.errors import OutcomeUnknown
from rewards_core.operations import OperationStatus
from rewards_core.sqlite.connection import Connection, connect
from tests.payouts.command_kit import entries, for_people
from tests.payouts.payout_kit import token_row
from tests.payouts.process_kit import original_at

NOBODY = original_at("http://127.0.0.1:1/v1")
DAY = 24 * 3600.0
NOW = 1_795_750_830.0  # 27 November 2026, 03:40:30 UTC
BULK = ("resolve", "--unknown", "--refused", "--as=rejected")


class Clock:
    """What the machine takes for the time; `set_by` is how far somebody set its clock."""

    def __init__(self) -> None:
        self.now = NOW
        self.set_by = 0.0

    def __call__(self) -> float:
        return self.now + self.set_by


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    monkeypatch.setattr("payouts.audit.absence.uptime", lambda: clock.now)
    return clock


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sits before the terminal."""
    monkeypatch.setattr("payouts.cli.confirmation.has_terminal", lambda: True)
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)


class Lists:
    """What the vendor lists, by user: nothing, unless a test says otherwise."""

    def __init__(self) -> None:
        self.of: dict[str, list[Any]] = {}
        self.problems: dict[str, Exception] = {}
        self.asked: list[str] = []
        self.rewards: list[str] = []

    async def reward(self, uid: str) -> None:
        self.rewards.append(uid)

    async def __call__(self, user: str, *, before_page: object = None, timeout: float | None = None) -> list[Any]:
        self.asked.append(user)
        if user in self.problems:
            raise self.problems[user]
        return self.of.get(user, [])


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> Lists:
    found = Lists()
    monkeypatch.setattr(OriginalClient, "get_allocations_by_user_uid", lambda _, user, **more: found(user, **more))
    monkeypatch.setattr(OriginalClient, "get_reward", lambda _, uid: found.reward(uid))
    return found


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


def refuse(folder: Path, *rows: str, status: int = 400) -> None:
    """Make rows that may have been sent in an outage and were refused afterwards."""
    lead(folder, [token_row(row) for row in rows], State.UNKNOWN, refused(status))


def hold(folder: Path, row_id: str) -> Any:
    """Return the allocation that the vendor would list for a row."""
    entry = entries(folder)[row_id]
    return Allocation(
        uid=entry.uid or "9001",
        status=OperationStatus.PENDING,
        reward_uid=entry.item,
        to_user_uid=entry.recipient,
        amount=Decimal(entry.amount or 0),
        nonce=entry.key,
    )


def states(folder: Path) -> dict[str, str]:
    return {row_id: entry.state.value for row_id, entry in entries(folder).items()}


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
