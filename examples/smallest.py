"""The smallest embedding: one reward granted, and known to be on the chain, in an aiohttp application.

Run it with ORIGINAL_API_KEY, ORIGINAL_API_SECRET, ORIGINAL_BASE_URL and ORIGINAL_WEBHOOK_KEYS (id:secret) in the environment.
"""

import asyncio
import os
import sys

from aiohttp import web

from original_async import OriginalClient, OriginalWebhooks
from webhooks import Completions, MemoryStore, Receiver


async def grant(to_user_uid: str, amount: str, nonce: str) -> None:
    store = MemoryStore()
    receiver = Receiver(OriginalWebhooks.from_env(), store)
    app = web.Application()
    receiver.register(app, "/webhooks/original")
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ.get("PORT", "8080"))).start()
    try:
        async with OriginalClient.from_env() as original, Completions(original, store) as completions:
            allocation = await original.create_allocation(
                reward_uid="764893807463", to_user_uid=to_user_uid, amount=amount, nonce=nonce
            )
            allocation = await completions.wait(allocation, timeout=300)
            print(f"{allocation.amount} to {allocation.to_user_uid}: {allocation.status}")
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(grant(*sys.argv[1:4]))
