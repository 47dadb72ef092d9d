"""Files of mints, and Original's sandbox that counts what it mints."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from original_async import OriginalClient
from payouts import MintRow, RunOptions, run_payouts
from payouts.states import Entry
from rewards_core import RetryPolicy
from tests.payouts.payout_kit import waiting
from vendor_sandboxes import OriginalSandbox

COLLECTION = "471616646163"
MINT = "original-mint"
HEADER = "id,user_uid,collection_uid,name,image_url\n"
THREE = HEADER + "".join(f"r{n},{n}2345,{COLLECTION},Badge {n},https://img.example/{n}.png\n" for n in (1, 2, 3))
QUICK = RunOptions(rate=None, lookup_timeout=0.3)


def mint_row(row_id: str, **changed: Any) -> MintRow:
    values: dict[str, Any] = {
        "id": row_id,
        "user_uid": f"user-{row_id}",
        "collection_uid": COLLECTION,
        "name": f"Badge {row_id}",
        "image_url": "https://img.example/badge.png",
    }
    return MintRow(**values | changed)


def minted(books: dict[str, Any]) -> dict[str, int]:
    """Return how many assets the vendor has under each external id."""
    return dict(Counter(asset["asset_external_id"] for asset in books["assets"]))


@asynccontextmanager
async def client_of(sandbox: OriginalSandbox) -> AsyncIterator[OriginalClient]:
    async with OriginalClient(
        api_key=sandbox.api_key, api_secret=sandbox.api_secret, base_url=sandbox.url, retry=RetryPolicy(first_delay=0.01)
    ) as client:
        yield client


async def mint(rows: list[MintRow], *, client: Any, ledger: Any, options: RunOptions = QUICK) -> dict[str, Entry]:
    """Run, and return what the run is done with by the ids of the rows."""
    async with waiting(client) as completions:
        run = run_payouts(rows, client=client, completions=completions, ledger=ledger, options=options)
        return {entry.id: entry async for entry in run}
