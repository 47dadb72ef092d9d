"""Allocate a file of rewards, wait until the blockchain has settled each, and print how each ended.

    python examples/batch_allocate.py examples/rewards.csv

The file has the columns reward_uid, to_user_uid, amount and nonce; webhooks arrive on port 8080, or on PORT. To continue after an
interruption, add `--again`: each nonce is paid once. For real files use `payouts run`, which keeps a ledger.
"""

import asyncio
import csv
import os
import sys
from pathlib import Path

from aiohttp import web

from original_async import OriginalClient, OriginalWebhooks
from rewards_core import Operation, OperationRef, OutcomeUnknown, RewardsError
from webhooks import Completions, MemoryStore, Receiver


async def allocate(
    row: dict[str, str], original: OriginalClient, completions: Completions, *, again: bool
) -> Operation | OperationRef | None:
    """Return the allocation of a row, or None after printing why there is none."""
    reward, user, amount, nonce = row["reward_uid"], row["to_user_uid"], row["amount"], row["nonce"]
    try:
        try:
            return await original.create_allocation(
                reward_uid=reward, to_user_uid=user, amount=amount, nonce=nonce, repeated=again
            )
        except OutcomeUnknown as unknown:
            return await completions.find(unknown, timeout=300)
    except (RewardsError, ValueError) as problem:
        print(f"{nonce}: {problem}")
        return None


async def main(file: Path, *, again: bool) -> int:
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    app, store = web.Application(), MemoryStore()
    Receiver(OriginalWebhooks.from_env(), store).register(app, "/webhooks/original")
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", int(os.environ.get("PORT", "8080"))).start()
        async with OriginalClient.from_env() as original, Completions(original, store) as completions:
            sent = await asyncio.gather(*(allocate(row, original, completions, again=again) for row in rows))
            unsettled = sent.count(None)
            async with completions.as_completed(filter(None, sent), timeout=300) as outcomes:
                async for outcome in outcomes:
                    print(f"{outcome.ref}: {outcome.error or 'done'}")
                    unsettled += outcome.operation is None
    finally:
        await runner.cleanup()
    return 1 if unsettled else 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("Give FILE [--again].")
    sys.exit(asyncio.run(main(Path(sys.argv[1]), again="--again" in sys.argv)))
