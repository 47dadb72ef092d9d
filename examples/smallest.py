"""Grant one reward and wait until the blockchain has confirmed it.

    python examples/smallest.py USER AMOUNT NONCE

Credentials come from ORIGINAL_API_KEY, ORIGINAL_API_SECRET, ORIGINAL_BASE_URL and ORIGINAL_WEBHOOK_KEYS (id:secret). Webhooks
arrive on port 8080, or on PORT.
"""

import asyncio
import os
import sys

from original_async import OriginalClient, OriginalWebhooks
from webhooks import Completions, MemoryStore, Receiver, serving


async def grant(to_user_uid: str, amount: str, nonce: str, port: int = 8080) -> None:
    store = MemoryStore()
    async with (
        Receiver(OriginalWebhooks.from_env(), store) as receiver,
        serving({"/webhooks/original": receiver}, port=port),
        OriginalClient.from_env() as original,
        Completions(original, store) as completions,
    ):
        allocation = await original.create_allocation(
            reward_uid="764893807463", to_user_uid=to_user_uid, amount=amount, nonce=nonce
        )
        allocation = await completions.wait(allocation, timeout=300)
        print(f"{allocation.amount} to {allocation.to_user_uid}: {allocation.status}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("Give USER AMOUNT NONCE.")
    user, amount, nonce = sys.argv[1:]
    asyncio.run(grant(user, amount, nonce, int(os.environ.get("PORT", "8080"))))
