"""Helpers of the tests of `run_payouts`."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from typing import Any

from payouts.keys import derive_key
from payouts.ledger.sqlite import Ledger
from payouts.rows import Row
from payouts.runner import PayoutRun, RunOptions, run_payouts
from payouts.states import Entry, State
from tests.payouts.payout_kit import StubOriginal, token_row, waiting

QUICK = RunOptions(rate=None, concurrency=4, lookup_timeout=0)
ALONE = RunOptions(rate=None, concurrency=1, lookup_timeout=0)


def now() -> float:
    return asyncio.get_running_loop().time()


def rows(count: int) -> list[Row]:
    return [token_row(f"r{number}") for number in range(count)]


async def pay(given: Any, client: Any, ledger: Ledger, **options: Any) -> list[Entry]:
    """Run to the end and return what was yielded."""
    options = {"options": QUICK} | options
    if options["options"].wait and isinstance(client, StubOriginal):
        async with waiting(client) as completions:
            return [entry async for entry in run_payouts(given, client=client, completions=completions, ledger=ledger, **options)]
    return [entry async for entry in run_payouts(given, client=client, ledger=ledger, **options)]


def pauses(moments: list[float]) -> list[float]:
    return [round(after - before, 6) for before, after in pairwise(moments)]


def key_of(row_id: str, vendor: str = "original") -> str:
    return derive_key(vendor, "diwali-2026", row_id)


async def led_to(ledger: Ledger, row: Row, *states: State, **facts: Any) -> Entry:
    (entry,) = await ledger.plan([row])
    for state in states:
        entry = await ledger.move(entry, state, **(facts if state is states[-1] else {}))
    return entry


async def collect(run: PayoutRun) -> list[Entry]:
    return [entry async for entry in run]
