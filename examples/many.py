"""Wait for many operations with `as_completed`, without a task or a future for each.

Run it with ORIGINAL_API_KEY, ORIGINAL_API_SECRET, ORIGINAL_BASE_URL and ORIGINAL_WEBHOOK_KEYS (id:secret) in the environment.
"""

import asyncio
import os
import sys

from aiohttp import web

from original_async import Allocation, OriginalClient, OriginalWebhooks
from webhooks import Completions, MemoryStore, PollPolicy, Receiver


async def grant_all(campaign: str, users: list[str]) -> None:
    store = MemoryStore()
    app = web.Application()
    Receiver(OriginalWebhooks.from_env(), store).register(app, "/webhooks/original")
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(os.environ.get("PORT", "8080"))).start()
    try:
        async with (
            OriginalClient.from_env() as original,
            Completions(original, store, polling=PollPolicy(first_after=3.0)) as completions,
        ):
            creating = [
                original.create_allocation(reward_uid="764893807463", to_user_uid=user, amount="0.5", nonce=f"{campaign}-{user}")
                for user in users
            ]
            created = await asyncio.gather(*creating, return_exceptions=True)  # one failure must not stop the others
            allocations = [each for each in created if isinstance(each, Allocation)]
            for user, each in zip(users, created, strict=True):
                if isinstance(each, BaseException):
                    print(f"{user}: {each}")
            async with completions.as_completed(allocations, timeout=300) as outcomes:
                async for outcome in outcomes:
                    print(outcome)
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(grant_all(sys.argv[1], sys.argv[2:]))
