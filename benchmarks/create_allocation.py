"""CPU of `create_allocation` against a raw aiohttp POST of the same bytes, and against the vendor's own async client."""

from __future__ import annotations

import asyncio
import os
import uuid
from typing import Any

import aiohttp
import orjson
from original_sdk import OriginalAsyncClient
from yarl import URL

from benchmarks._wire import answering_peer, interleaved, pin
from original_async import OriginalClient

REPLY = b'{"success":true,"data":{"uid":"324167489835"}}'
REWARD, USER, AMOUNT = "764893807463", "110985463782", "1.23"
SECRET = "benchmark-secret-of-more-than-32-bytes"


async def _measure(address: str, rounds: int, calls: int) -> dict[str, float]:
    url = URL(f"{address}/v1/reward/allocate", encoded=True)
    headers = {"Authorization": f"Bearer {'x' * 150}", "X-API-KEY": "key", "Content-Type": "application/json"}
    nonces = [uuid.uuid4().hex for _ in range(calls)]
    bodies = [orjson.dumps({"reward_uid": REWARD, "to_user_uid": USER, "amount": AMOUNT, "nonce": nonce}) for nonce in nonces]
    connector = aiohttp.TCPConnector(limit=0)
    no_timers = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=no_timers) as session,
        OriginalClient("key", SECRET, base_url=f"{address}/v1") as ours,
        OriginalAsyncClient("key", SECRET, base_url=address) as theirs,
    ):

        async def raw(number: int) -> None:
            async with session.post(url, data=bodies[number], headers=headers) as response:
                orjson.loads(await response.read())

        async def own(number: int) -> None:
            await ours.create_allocation(reward_uid=REWARD, to_user_uid=USER, amount=AMOUNT, nonce=nonces[number])

        async def vendor(number: int) -> None:
            await theirs.create_allocation(reward_uid=REWARD, to_user_uid=USER, amount=1.23, nonce=nonces[number])

        return await interleaved({"raw": raw, "own": own, "vendor": vendor}, rounds=rounds, calls=calls)


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows of this benchmark."""
    with answering_peer(REPLY, "201 Created") as address:
        pinned = pin(os.getpid(), 0)
        try:
            medians = asyncio.run(_measure(address, rounds=1 if quick else 15, calls=64 if quick else 4000))
        finally:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, range(os.cpu_count() or 1))
    own = medians["own"]
    return [
        {
            "name": f"CPU per create_allocation, 64 at a time, {pinned}",
            "value": own,
            "unit": "µs",
            "reference": f"{reference}: {medians[key]:.1f} µs",
            "ratio": own / medians[key],
            "bar": bar,
        }
        for key, reference, bar in (
            ("raw", "raw aiohttp POST of the same bytes, orjson", "≤ 1.30"),
            ("vendor", "original-sdk 1.4.1, async", "≤ 1.0"),
        )
    ]
