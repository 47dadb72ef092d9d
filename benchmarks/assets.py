"""CPU of `create_asset` and `get_user`, compared with raw aiohttp requests of the same bytes and with the vendor's client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import orjson
from original_sdk import OriginalAsyncClient
from yarl import URL

from benchmarks._processes import answering_peer, interleaved, pinned
from benchmarks._results import row
from original_async import AssetAttribute, AssetData, OriginalClient

SECRET = "benchmark-secret-of-more-than-32-bytes"
HEADERS = {"Authorization": f"Bearer {'x' * 150}", "X-API-KEY": "key", "Content-Type": "application/json"}
USER_UID, COLLECTION_UID = "816379099131", "221137489875"
ADDRESS = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"
WALLET = {
    "address": ADDRESS,
    "explorer_url": f"https://amoy.polygonscan.com/address/{ADDRESS}",
    "network": "Polygon",
    "chain_id": 80002,
}
USER = {
    "uid": USER_UID,
    "created_at": "2023-08-10T14:07:14.494142Z",
    "email": "user_email@email.com",
    "user_external_id": "user_external_id_1",
    "wallets": [WALLET],
}
CONTENT: dict[str, Any] = {
    "name": "Dave Starbelly",
    "unique_name": False,
    "image_url": "https://storage.googleapis.com/opensea-prod.appspot.com/puffs/3.png",
    "store_image_on_ipfs": True,
    "description": "Friendly OpenSea Creature that enjoys long swims in the ocean.",
    "external_url": "https://openseacreatures.io/3",
    "attributes": [
        {"trait_type": "Base", "value": "Starfish"},
        {"trait_type": "Stamina Increase", "value": 10, "display_type": "boost_percentage"},
    ],
}
DATA = AssetData(**{**CONTENT, "attributes": [AssetAttribute(**each) for each in CONTENT["attributes"]]})
Calls = dict[str, Callable[[int], Awaitable[None]]]


async def _measure(address: str, calls_of: Callable[..., Calls], rounds: int, calls: int) -> dict[str, float]:
    no_timers = aiohttp.ClientTimeout(total=None)
    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar(), timeout=no_timers
        ) as session,
        OriginalClient("key", SECRET, base_url=f"{address}/v1") as ours,
        OriginalAsyncClient("key", SECRET, base_url=address) as theirs,
    ):
        return await interleaved(calls_of(address, session, ours, theirs), rounds=rounds, calls=calls)


def _create_asset(address: str, session: aiohttp.ClientSession, ours: OriginalClient, theirs: OriginalAsyncClient) -> Calls:
    url = URL(f"{address}/v1/asset", encoded=True)

    def asked(number: int) -> dict[str, Any]:
        return {"user_uid": USER_UID, "asset_external_id": f"asset_{number}", "collection_uid": COLLECTION_UID, "data": CONTENT}

    async def raw(number: int) -> None:
        async with session.post(url, data=orjson.dumps(asked(number)), headers=HEADERS) as response:
            orjson.loads(await response.read())

    async def own(number: int) -> None:
        await ours.create_asset(user_uid=USER_UID, collection_uid=COLLECTION_UID, asset_external_id=f"asset_{number}", data=DATA)

    async def vendor(number: int) -> None:
        await theirs.create_asset(**asked(number))

    return {"raw": raw, "own": own, "vendor": vendor}


def _get_user(address: str, session: aiohttp.ClientSession, ours: OriginalClient, theirs: OriginalAsyncClient) -> Calls:
    url = URL(f"{address}/v1/user/{USER_UID}", encoded=True)

    async def raw(_: int) -> None:
        async with session.get(url, headers=HEADERS) as response:
            orjson.loads(await response.read())

    async def own(_: int) -> None:
        await ours.get_user(USER_UID)

    async def vendor(_: int) -> None:
        await theirs.get_user(USER_UID)

    return {"raw": raw, "own": own, "vendor": vendor}


def run(quick: bool = False) -> list[dict[str, Any]]:
    created = b'{"success":true,"data":{"uid":"151854912345"}}'
    rows = []
    for name, reply, status, calls_of in (
        ("create_asset", created, "201 Created", _create_asset),
        ("get_user", orjson.dumps({"success": True, "data": USER}), "200 OK", _get_user),
    ):
        with answering_peer(reply, status) as address, pinned() as where:
            medians = asyncio.run(_measure(address, calls_of, rounds=1 if quick else 15, calls=64 if quick else 4000))
        own = medians["own"]
        rows += [
            row(
                f"CPU per {name}, 64 at a time, {where}",
                own,
                "µs",
                reference=f"{title}: {medians[key]:.1f} µs",
                ratio=own / medians[key],
                bar=bar,
            )
            for key, title, bar in (
                ("raw", "raw aiohttp request of the same bytes, orjson", "≤ 1.35"),
                ("vendor", "original-sdk 1.4.1, async", "≤ 1.0"),
            )
        ]
    return rows
