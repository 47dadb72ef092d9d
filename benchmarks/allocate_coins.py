"""CPU of `EnkashClient.allocate_coins` against a raw aiohttp POST of the same bytes, to a peer in another process."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
from yarl import URL

from benchmarks._wire import Caller, answering_peer, interleaved
from enkash_async import EnkashClient, PasswordCredentials

BAR = "≤ 1.35"
TOKEN = {"access_token": "AAAAAAAAAAAAAAAAAAAAAAAAAAA", "token_type": "bearer", "expires_in": 86399, "scope": "read write trust"}
DONE = {"payload": "Successfully allocated enkash Coins", "response_code": 0, "response_message": "Success"}


def run(quick: bool) -> list[dict[str, Any]]:
    """Return one row: the median over interleaved rounds."""
    with answering_peer(json.dumps(TOKEN).encode()) as auth, answering_peer(json.dumps(DONE).encode()) as coins:
        return asyncio.run(_measure(auth, coins, rounds=1 if quick else 15, calls=64 if quick else 4000))


async def _measure(auth: str, coins: str, *, rounds: int, calls: int) -> list[dict[str, Any]]:
    credentials = PasswordCredentials("CEKEKCARDS", "a" * 40, "9000000000", "password")
    client = EnkashClient(coins_base_url=coins, auth_base_url=auth, credentials=credentials)
    url = URL(f"{coins}/api/v0/enkash-coins/allocate-coin")
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/json",
        "Authorization": f"Bearer {TOKEN['access_token']}",
    }
    async with client, aiohttp.ClientSession() as session:

        async def ours(number: int) -> None:
            await client.allocate_coins(event="REFERRAL_EVENT", user_id="EKQZVMQK", request_id=f"COIN_REQ{number:07}")

        async def raw(number: int) -> None:
            body = b'{"companyId":"CEKEKCARDS","event":"REFERRAL_EVENT","requestId":"COIN_REQ%07d","userId":"EKQZVMQK"}' % number
            async with session.post(url, data=body, headers=headers) as response:
                await response.read()

        callers: dict[str, Caller] = {"raw": raw, "ours": ours}
        spent = await interleaved(callers, rounds=rounds, calls=calls)
    return [
        {
            "name": "CPU per allocate_coins",
            "value": spent["ours"],
            "unit": "µs",
            "reference": f"raw aiohttp POST of the same bytes: {spent['raw']:.0f} µs",
            "ratio": spent["ours"] / spent["raw"],
            "bar": BAR,
        }
    ]
