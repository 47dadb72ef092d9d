"""Kill -9 under load: what was answered 200 is in the store, handed on at least once, and ends as it began.

A killed process leaves the system's cache behind, so this shows nothing of fsync; `test_listener_durability.py` does.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from tests.webhooks.listener_process import SOURCE, ListenerProcess, delivery, signed, start
from webhooks.store.records import EventState
from webhooks.store.sqlite import SQLiteStore

KILLS = 30
KILLS_IN_A_SOAK = 300
SENDERS = 8
BETWEEN_KILLS = (5, 120)
"""Deliveries acknowledged from one kill to the next."""

pytestmark = pytest.mark.timeout(1_800)


class Elsewhere:
    """Counts what is handed on to it."""

    def __init__(self) -> None:
        self.got: Counter[str] = Counter()
        self.url = ""
        self.changed = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        raw = await request.read()
        SOURCE.verify(request.headers, raw)
        ref = SOURCE.parse(raw).ref
        assert ref is not None
        self.got[ref.uid] += 1
        self.changed.set()
        return web.Response()


@pytest_asyncio.fixture
async def elsewhere() -> AsyncIterator[Elsewhere]:
    service = Elsewhere()
    application = web.Application()
    application.router.add_post("/in", service.take)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service.url = f"http://127.0.0.1:{runner.addresses[0][1]}/in"
    yield service
    await runner.cleanup()


class Load:
    """Senders that deliver, each until its delivery is answered, and write down what was acknowledged."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.acknowledged: dict[str, bytes] = {}
        self.in_flight = 0
        self.kill_at = 0
        self.time_to_kill = asyncio.Event()
        self.listener: asyncio.Future[ListenerProcess] = asyncio.get_running_loop().create_future()
        self._next = 0

    def body(self) -> tuple[str, bytes]:
        self._next += 1
        uid = f"{self._next:012}"
        return uid, delivery(uid, status=self.chance.choice(["done", "failed"]), amount=f"{self._next}.{self._next % 7}")

    async def send(self) -> None:
        uid, raw = self.body()
        while True:
            listener = await self.listener
            try:
                async with aiohttp.ClientSession() as session:
                    while True:
                        self.in_flight += 1
                        try:
                            async with session.post(listener.url, data=raw, headers=signed(raw)) as answer:
                                assert answer.status == 200
                        finally:
                            self.in_flight -= 1
                        self.acknowledged[uid] = raw
                        if len(self.acknowledged) >= self.kill_at:
                            self.time_to_kill.set()
                        uid, raw = self.body()
            except (aiohttp.ClientError, OSError):
                if self.listener.done() and self.listener.result() is listener:
                    self.listener = asyncio.get_running_loop().create_future()


async def test_what_was_acknowledged_survives_kills_at_any_moment(tmp_path: Path, elsewhere: Elsewhere, soak: bool) -> None:
    load = Load(seed=20240229)
    options = ["--forward-to", elsewhere.url, "--forward-timeout", "0.5", "--forward-attempts", "1000"]
    kills = KILLS_IN_A_SOAK if soak else KILLS
    caught_in_flight = 0
    senders = [asyncio.create_task(load.send()) for _ in range(SENDERS)]
    try:
        for _ in range(kills):
            load.kill_at = len(load.acknowledged) + load.chance.randint(*BETWEEN_KILLS)
            load.time_to_kill.clear()
            listener = await start(tmp_path, *options)
            if load.listener.done():
                load.listener = asyncio.get_running_loop().create_future()
            load.listener.set_result(listener)
            await load.time_to_kill.wait()
            for _ in range(load.chance.randint(0, 20)):
                await asyncio.sleep(0)
            caught_in_flight += load.in_flight > 0
            await listener.kill()
    finally:
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
    assert caught_in_flight >= kills * 0.9
    await everything_is_kept(tmp_path, load.acknowledged)
    listener = await start(tmp_path, *options)
    while not elsewhere.got.keys() >= load.acknowledged.keys():
        elsewhere.changed.clear()
        await elsewhere.changed.wait()
    assert await listener.stop() == 0
    await nothing_is_left_to_do(tmp_path, load.acknowledged)


async def everything_is_kept(folder: Path, acknowledged: dict[str, bytes]) -> None:
    store = SQLiteStore(folder / "inbox.db")
    try:
        events = {one.event.ref.uid: one.event.body for one in await store.list_events(limit=1_000_000) if one.event.ref}
        assert acknowledged.items() <= events.items()
        refs = [SOURCE.parse(raw).ref for raw in acknowledged.values()]
        outcomes: dict[str, Any] = {one.ref.uid: one.resource for one in await store.outcomes([ref for ref in refs if ref])}
        for uid, raw in acknowledged.items():
            assert outcomes[uid] == SOURCE.parse(raw).resource
        assert (await store.statistics()).conflicts == 0
    finally:
        await store.aclose()


async def nothing_is_left_to_do(folder: Path, acknowledged: dict[str, bytes]) -> None:
    store = SQLiteStore(folder / "inbox.db")
    try:
        left = await store.list_events(state=EventState.DEAD, limit=1_000_000)
        assert [one for one in left if one.event.ref and one.event.ref.uid in acknowledged] == []
    finally:
        await store.aclose()
