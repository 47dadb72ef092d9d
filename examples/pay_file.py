"""Pay a file of rewards from a program, each row once, however often the program is interrupted and started again.

    python examples/pay_file.py examples/rewards.csv diwali-2026

Credentials come from ORIGINAL_API_KEY, ORIGINAL_API_SECRET and ORIGINAL_BASE_URL; the ledger is payouts.db. `payouts run` does
the same, and checks the whole file and asks first.
"""

import asyncio
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from original_async import OriginalClient
from payouts import Layout, Ledger, Row, State, read_rows, run_payouts
from webhooks import Completions, MemoryStore


async def pay(rows: Iterable[Row], campaign: str, path: Path) -> int:
    async with (
        OriginalClient.from_env() as original,
        Completions(original, MemoryStore()) as completions,  # without a receiver, each accepted row is polled
        Ledger(path, vendor="original", campaign=campaign, target=os.environ["ORIGINAL_BASE_URL"]) as ledger,
    ):
        async for entry in run_payouts(rows, client=original, completions=completions, ledger=ledger):
            print(f"{entry.id}: {entry.problem or entry.state}")
        return 0 if (await ledger.counts()).keys() <= {State.DONE} else 3


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("Give FILE CAMPAIGN.")
    with Path(sys.argv[1]).open("rb") as stream:
        sys.exit(asyncio.run(pay(read_rows(stream, Layout(vendor="original")), sys.argv[2], Path("payouts.db"))))
