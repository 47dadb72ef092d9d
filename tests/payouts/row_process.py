"""A process that pays one row of a shared campaign, at a vendor that its environment names."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from payouts import PostgresLedger, RunOptions, pay_row
from payouts.cli.connections import client_of
from tests.payouts.mint_kit import MINT, mint_row
from tests.payouts.payout_kit import coin_row, token_row, waiting

FAST = RunOptions(rate=None)


async def pay(url: str, schema: str, state: Path, vendor: str, row_id: str) -> None:
    async with (
        client_of(vendor) as client,
        PostgresLedger(url, vendor=vendor, campaign="diwali-2026", schema=schema, state=state) as ledger,
    ):
        if vendor == "enkash":
            await pay_row(coin_row(row_id), client=client, ledger=ledger, options=FAST)
            return
        row = mint_row(row_id) if vendor == MINT else token_row(row_id)
        async with waiting(client) as completions:
            await pay_row(row, client=client, completions=completions, ledger=ledger, options=FAST)


if __name__ == "__main__":
    asyncio.run(pay(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:]))
