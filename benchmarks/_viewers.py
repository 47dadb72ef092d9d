"""Viewers of a console that read all they are sent: `python -m benchmarks._viewers LINK COUNT` prints a line when all look."""

from __future__ import annotations

import asyncio
import sys

import aiohttp


async def view(link: str, count: int) -> None:
    url, _, token = link.partition("#")
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}, timeout=aiohttp.ClientTimeout()) as session:
        replies = [await session.get(f"{url}feed") for _ in range(count)]
        for reply in replies:
            assert await reply.content.readline() == b"event: hello\n"
        print("looking", flush=True)
        await asyncio.gather(*map(_read, replies))


async def _read(reply: aiohttp.ClientResponse) -> None:
    async for _ in reply.content.iter_any():
        pass


if __name__ == "__main__":
    asyncio.run(view(sys.argv[1], int(sys.argv[2])))
