"""A vendor on a thread of its own, whose books a test may change, and ledgers whose rows stand anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from payouts.keys import derive_key
from payouts.ledger.reader import LedgerReader
from payouts.ledger.sqlite import Ledger
from payouts.rows import Row
from payouts.states import Entry, State
from tests.payouts.command_kit import REWARD, records
from tests.payouts.payout_kit import token_row
from tests.payouts.process_kit import original_at, playing
from vendor_sandboxes import OriginalSandbox

AUDIT = ("audit", "--rate=0")
CAMPAIGN = "diwali-2026"
WAY: dict[State, Sequence[State]] = {
    State.PLANNED: (),
    State.SENT: (State.SENT,),
    State.ACCEPTED: (State.SENT, State.ACCEPTED),
    State.DONE: (State.SENT, State.ACCEPTED, State.DONE),
    State.FAILED: (State.SENT, State.ACCEPTED, State.FAILED),
    State.MISMATCH: (State.SENT, State.MISMATCH),
    State.REJECTED: (State.SENT, State.REJECTED),
    State.UNKNOWN: (State.SENT, State.UNKNOWN),
}
"""How a row of Original comes to a state."""


@pytest.fixture
def vendor() -> Iterator[OriginalSandbox]:
    with playing(OriginalSandbox(confirm="never")) as sandbox:
        yield sandbox


@pytest.fixture
def env(vendor: OriginalSandbox) -> dict[str, str]:
    return original_at(vendor.url)


def key_of(row_id: str, campaign: str = CAMPAIGN) -> str:
    return derive_key("original", campaign, row_id)


def hold(
    sandbox: OriginalSandbox, user: str, key: str, *, status: str = "done", amount: str = "1.50", reward: str = REWARD
) -> str:
    """Write an allocation into the vendor's books and return its uid."""
    held = sandbox.state.add_allocation(reward, user, Decimal(amount), key)
    if status != "pending":
        sandbox.state.settle(held, status)
    return held.uid


def lead(
    path: Path, target: str, states: dict[str, State], *, campaign: str = CAMPAIGN, uids: dict[str, str] | None = None, **row: Any
) -> None:
    """Take rows up and lead each to its state, with the uid that the vendor named for it."""
    rows = [token_row(row_id, **row) for row_id in states]
    asyncio.run(_lead(path, target, rows, states, campaign, uids or {}))


async def _lead(
    path: Path, target: str, rows: Sequence[Row], states: dict[str, State], campaign: str, uids: dict[str, str]
) -> None:
    async with Ledger(path, vendor="original", campaign=campaign, target=target) as ledger:
        for entry in await ledger.plan(rows):
            for step in WAY[states[entry.id]]:
                uid = uids.get(entry.id) if step in {State.ACCEPTED, State.MISMATCH, State.UNKNOWN} else None
                entry = await ledger.move(entry, step, uid=uid)


def retried(path: Path, row_id: str) -> Entry:
    """Give a row another key."""

    async def renew() -> Entry:
        async with Ledger(path, vendor="original", campaign=CAMPAIGN) as ledger:
            entry = await ledger.find(row_id)
            assert entry is not None
            return await ledger.renew_key(entry)

    return asyncio.run(renew())


def rows_of(path: Path, campaign: str = CAMPAIGN) -> dict[str, Entry]:
    with LedgerReader(path) as reader:
        return {entry.id: entry for entry in reader.entries(reader.campaign(campaign))}


def unreadable(vendor: OriginalSandbox, uid: str) -> None:
    """Let an answer that holds an allocation be no JSON."""
    vendor.state.operations["allocation"][uid].amount = Decimal("NaN")


def kinds(result: Result) -> dict[str | None, str]:
    """Return the kind of each difference by its row, or by its recipient if it concerns none."""
    return {each["id"] or each["recipient"]: each["kind"] for each in records(result) if each["event"] == "difference"}


def summary(result: Result) -> dict[str, Any]:
    """Return the last record."""
    last = records(result)[-1]
    assert last["event"] == "audit", result.output
    return last


def event(result: Result, name: str) -> dict[str, Any] | None:
    return next((each for each in records(result) if each["event"] == name), None)
