"""A service that handles what listeners have received on other machines, in a process of its own.

service_process URL [hang]   write `serving`, then `run UID` for each event; end with stdin; `hang`: never finish
"""

from __future__ import annotations

import asyncio
import sys

from rewards_core.operations import Event
from tests.webhooks.listener_process import SOURCE
from webhooks import HandlerPolicy, Receiver

LEASE = 1.0


async def serve(url: str, *, hang: bool) -> None:
    policy = HandlerPolicy(timeout=LEASE * 0.9, lease=LEASE)

    async def handle(event: Event) -> None:
        print("run", event.ref.uid if event.ref is not None else None, flush=True)
        if hang:
            await asyncio.Event().wait()

    receiver = Receiver(SOURCE, url, service="shop", handlers=policy)
    receiver.on("reward.allocated", name="pay")(handle)
    async with receiver:
        print("serving", flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], hang="hang" in sys.argv))
