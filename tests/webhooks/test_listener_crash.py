"""Kill -9 under load: what was answered 200 is in the store, handed on at least once, and ends as it began.

What it is handed on to answers well, badly or not in time. The listener runs alone, or with workers under a supervisor that is
killed with them or without them, or beside other processes that write to its store and run handlers from it, while the files
beside the store are removed beneath them all.

A killed process leaves the system's cache behind, so this shows nothing of fsync; `test_listener_durability.py` does.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from original_async import OriginalWebhooks
from tests.rewards_core.sqlite_kit import beside
from tests.webhooks.listener_process import (
    SECRETS,
    SOURCE,
    ListenerProcess,
    Workers,
    client,
    delivery,
    post,
    signed,
    start,
    working,
)
from tests.webhooks.sqlite_kit import LOG_FILES, Crowd, event_ids, lost, until_no_job_is_left
from tests.webhooks.store_process import SUBSCRIPTION
from webhooks.store.records import EventState
from webhooks.store.sqlite import SQLiteStore

KILLS = 3
KILLS_OF_SUPERVISORS = 2
KILLS_IN_A_SOAK = 1_000
KILLS_OF_SUPERVISORS_IN_A_SOAK = 100
KILLS_AND_REMOVALS_IN_A_SOAK = 300
SENDERS = 8
BETWEEN_KILLS = (5, 120)
"""Deliveries acknowledged from one kill to the next."""

pytestmark = pytest.mark.timeout(7_200)

logger = logging.getLogger(__name__)


class Elsewhere:
    """A destination that counts what it accepts; it may fail permanently or at random."""

    def __init__(self) -> None:
        self.got: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.moods: random.Random | None = None
        self.let_go = asyncio.Event()
        self.url = ""
        self.changed = asyncio.Event()
        self._failing = False
        self._asked = asyncio.Event()
        self._works_again = asyncio.Event()

    @asynccontextmanager
    async def out_of_order(self) -> AsyncIterator[None]:
        """Hold all requests from the next one on, and refuse them at the end."""
        self._failing = True
        self._asked.clear()
        self._works_again.clear()
        await self._asked.wait()
        try:
            yield
        finally:
            self._failing = False
            self._works_again.set()

    async def take(self, request: web.Request) -> web.Response:
        raw = await request.read()
        if self._failing:
            self._asked.set()
            await self._works_again.wait()
            return web.Response(status=503)
        SOURCE.verify(request.headers, raw)
        ref = SOURCE.parse(raw).ref
        assert ref is not None
        mood = "well" if self.moods is None else self.moods.choices(["well", "badly", "slowly"], [15, 4, 1])[0]
        if mood != "well":
            self.refused[mood] += 1
            if mood == "slowly":  # the caller has given up, or was killed
                await self.let_go.wait()
            return web.Response(status=500)
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
    service.let_go.set()
    await runner.cleanup()


class Load:
    """Senders that repeat each delivery until it is answered, and record what was acknowledged."""

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


async def test_acknowledged_deliveries_survive_kills_at_any_moment(tmp_path: Path, elsewhere: Elsewhere, soak: bool) -> None:
    await kill_again_and_again(tmp_path, elsewhere, KILLS_IN_A_SOAK if soak else KILLS, ListenerProcess.kill)


@pytest.mark.slow
async def test_deliveries_acknowledged_by_workers_survive_kills_of_their_supervisor(
    tmp_path: Path, elsewhere: Elsewhere, soak: bool
) -> None:
    chance = random.Random(20240301)

    async def kill(listener: ListenerProcess) -> None:
        if chance.random() < 0.5:
            await listener.kill()
        else:  # its workers answer what they have, beside those of the next one
            listener.process.kill()
            await listener.process.wait()

    kills = KILLS_OF_SUPERVISORS_IN_A_SOAK if soak else KILLS_OF_SUPERVISORS
    await kill_again_and_again(tmp_path, elsewhere, kills, kill, "--workers", "2")


async def kill_again_and_again(
    tmp_path: Path, elsewhere: Elsewhere, kills: int, kill: Callable[[ListenerProcess], Awaitable[None]], *more: str
) -> None:
    load = Load(seed=20240229)
    options = ["--forward-to", elsewhere.url, "--forward-timeout", "0.5", "--forward-attempts", "1000", *more]
    caught_in_flight = 0
    elsewhere.moods = random.Random(20240229)
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
            await kill(listener)
            elsewhere.let_go.set()
            elsewhere.let_go.clear()
    finally:
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
    assert caught_in_flight >= kills * 0.7
    assert elsewhere.refused.keys() == {"badly", "slowly"}
    elsewhere.moods = None
    await everything_is_kept(tmp_path, load.acknowledged)
    listener = await start(tmp_path, *options)
    while not elsewhere.got.keys() >= load.acknowledged.keys():
        elsewhere.changed.clear()
        await elsewhere.changed.wait()
    assert await listener.stop() == 0
    await nothing_is_left_to_do(tmp_path, load.acknowledged)
    assert await lost(tmp_path / "inbox.db", {SOURCE.parse(raw).identity.hex() for raw in load.acknowledged.values()}) == set()
    logger.info("%d kills; %d acknowledged, %d handed on", kills, len(load.acknowledged), elsewhere.got.total())


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


SHOP = OriginalWebhooks(SECRETS, scope="shop")
KILLS_OF_ALL = 3


class Senders:
    """Send deliveries to a listener whose workers are killed, and repeat each one until it is acknowledged."""

    def __init__(self, url: str, changed: asyncio.Condition) -> None:
        self.url = url
        self.changed = changed
        self.acknowledged: dict[str, str] = {}
        self._numbers = itertools.count()

    async def send(self) -> None:
        async with client() as session:
            for number in self._numbers:
                uid = f"{number:012}"
                raw = delivery(uid)
                while await self._status(session, raw) != 200:
                    await asyncio.sleep(0.01)
                self.acknowledged[uid] = SHOP.parse(raw).identity.hex()
                async with self.changed:
                    self.changed.notify_all()

    async def hear(self, count: int) -> None:
        """Wait until this many more are acknowledged."""
        wanted = len(self.acknowledged) + count
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.acknowledged) >= wanted)

    async def _status(self, session: aiohttp.ClientSession, raw: bytes) -> int | None:
        try:
            status = await post(session, self.url, raw)
        except (aiohttp.ClientError, OSError):
            return None
        assert status in {200, 503}
        return status


async def kill_any(crowd: Crowd, workers: Workers, chance: random.Random) -> str:
    """Kill one process, start another one in its place, and return its kind."""
    place = chance.randrange(len(crowd.processes) + len(workers.pids))
    if place >= len(crowd.processes):
        workers.kill(chance.choice(sorted(workers.pids)))
        return "worker"
    mode = crowd.mode_of(crowd.processes[place])
    await crowd.processes.pop(place).kill()
    await crowd.start(mode)
    return mode


@pytest.mark.slow
async def test_any_kill_or_removal_loses_no_acknowledged_delivery_and_every_handler_runs(
    tmp_path: Path, elsewhere: Elsewhere, soak: bool
) -> None:
    chance = random.Random(20240229)
    crowd = Crowd(tmp_path / "inbox.db")
    setting_up = SQLiteStore(crowd.path)
    await setting_up.register_handlers([SUBSCRIPTION])
    await setting_up.aclose()
    options = ["--source", "/webhooks/original,scope=shop", "--forward-to", elsewhere.url]
    options += ["--forward-timeout", "0.5", "--forward-attempts", "1000"]
    killed: Counter[str] = Counter()
    async with working(tmp_path, *options) as workers:
        senders = Senders(workers.url, crowd.changed)
        tasks = [asyncio.create_task(work()) for work in (workers.follow, senders.send, senders.send, senders.send)]
        try:
            for mode in ("write-singly", "write-singly", "run", "run"):
                await crowd.hear(1, await crowd.start(mode))
            for number in range(KILLS_AND_REMOVALS_IN_A_SOAK if soak else KILLS_OF_ALL):
                if number % 3 == 2:
                    for suffix in chance.choice(LOG_FILES):
                        beside(crowd.path, suffix).unlink(missing_ok=True)
                async with elsewhere.out_of_order():  # so that a handler is under way
                    killed[await kill_any(crowd, workers, chance)] += 1
                await crowd.hear(chance.randint(5, 100))
                await senders.hear(chance.randint(1, 20))
            follow, *sending = tasks
            for task in sending:
                task.cancel()
            await asyncio.gather(*sending, return_exceptions=True)
            for process in [one for one in crowd.processes if crowd.mode_of(one) == "write-singly"]:
                await process.kill()
            await until_no_job_is_left(crowd.path)
            follow.cancel()
            assert await workers.listener.stop() == 0
        finally:
            for task in tasks:
                task.cancel()
            problems = await asyncio.gather(*tasks, return_exceptions=True)
            await crowd.kill()
    assert [one for one in problems if isinstance(one, Exception)] == []
    acknowledged = crowd.acknowledged() | set(senders.acknowledged.values())
    missing = await lost(crowd.path, acknowledged)
    logger.info("killed %s; %d acknowledged, %d lost", dict(killed), len(acknowledged), len(missing))
    assert missing == set()
    assert senders.acknowledged.keys() - elsewhere.got.keys() == set()
    assert await event_ids(crowd.path) <= {number for _, number in crowd.said_in("run")}
