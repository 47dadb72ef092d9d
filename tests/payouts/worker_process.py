"""A process that works for a shared campaign, with settings from its command line, and tells each row that it is done with."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack

from original_async import OriginalClient
from payouts import RunOptions
from payouts.cli.connections import client_of
from payouts.ledger.postgres import PostgresLedger
from payouts.runner import work_payouts
from payouts.states import LeaseLost, LedgerUnavailable
from webhooks import Completions, MemoryStore, PollPolicy


async def work(url: str, vendor: str, lease: float, rate: float) -> None:
    async with AsyncExitStack() as stack:
        client = client_of(vendor, 20)
        await stack.enter_async_context(client)
        opened = PostgresLedger(url, vendor=vendor, campaign="diwali-2026", lease=lease, grace=lease / 2)
        ledger = await stack.enter_async_context(opened)
        completions = None
        if isinstance(client, OriginalClient):
            store = MemoryStore()
            stack.push_async_callback(store.aclose)
            polling = PollPolicy(first_after=0.2, growth=1.0, max_interval=1.0, max_per_second=200.0)
            completions = await stack.enter_async_context(Completions(client, store, polling=polling))
        found_later = vendor == "original"  # what was lost is sent again; of a mint no trace may ever be found
        options = RunOptions(rate=rate, concurrency=20, lookup_timeout=600.0 if found_later else 5.0)
        async for entry in work_payouts(client=client, completions=completions, ledger=ledger, options=options):
            print(json.dumps({"event": "row", "id": entry.id, "state": entry.state}), flush=True)


async def keep_working(url: str, vendor: str, lease: float, rate: float) -> None:
    """Work until the campaign is done, again after a lease that was lost and while the database starts."""
    while True:
        try:
            await work(url, vendor, lease, rate)
        except (LeaseLost, LedgerUnavailable) as problem:
            print(json.dumps({"event": "again", "problem": str(problem)}), flush=True)
        else:
            break
    print(json.dumps({"event": "end"}), flush=True)


if __name__ == "__main__":
    asyncio.run(keep_working(os.environ["LEDGER"], sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))
