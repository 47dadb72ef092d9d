"""What the benchmarks of waiting measure, each in a process of its own: `python -m benchmarks._waiting NAME PENDING`."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from benchmarks._load import body_of, headers_of
from benchmarks._servers import KEY_ID, PATH, SECRET
from original_async import OriginalClient, OriginalWebhooks
from webhooks import Completions, MemoryStore, PollPolicy, Receiver

NEVER = PollPolicy(first_after=1e6, max_interval=1e7)
FIRST_UID = 300_000_000_000


def measured(name: str, pending: int) -> dict[str, float]:
    """Run one of the measurements below in a process of its own."""
    command = [sys.executable, "-m", "benchmarks._waiting", name, str(pending)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=280)
    values: dict[str, float] = json.loads(done.stdout)
    return values


def _resident() -> int:
    """Return the bytes of memory in use now, or at the most so far where the system does not say more."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _uids(count: int) -> Iterator[str]:
    return (str(FIRST_UID + number) for number in range(count))


class _World:
    def __init__(self, policy: PollPolicy = NEVER, client: Any = None) -> None:
        self.store = MemoryStore()
        self.receiver = Receiver(OriginalWebhooks({KEY_ID: SECRET}), self.store)
        self.client = client or OriginalClient("key", "secret-of-at-least-thirty-two-bytes", base_url="http://127.0.0.1:9/v1")
        self.completions = Completions(self.client, self.store, polling=policy)

    async def deliver(self, number: int) -> None:
        body = body_of(number)
        headers = headers_of(body, number)
        started = time.perf_counter()
        assert (await self.receiver.receive(headers, body)).status == 200
        self.started = started


@asynccontextmanager
async def _world(*args: Any) -> AsyncIterator[_World]:
    world = _World(*args)
    async with world.completions:
        yield world
    await world.client.aclose()


async def _taken_in(stream: Any, count: int) -> None:
    while stream.pending < count:
        await asyncio.sleep(0.01)


async def memory_of_stream(pending: int) -> dict[str, float]:
    """Bytes for each operation that `as_completed` waits for, its uid included."""
    async with _world() as world:
        gc.collect()
        before = _resident()
        async with world.completions.as_completed(_uids(pending), timeout=1e6) as outcomes:
            await _taken_in(outcomes, pending)
            gc.collect()
            return {"bytes": (_resident() - before) / pending}


async def _memory_of_tasks(begin: Callable[[str], Coroutine[Any, Any, Any]], count: int) -> float:
    gc.collect()
    before = _resident()
    tasks = [asyncio.create_task(begin(uid)) for uid in _uids(count)]
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    after = _resident()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return (after - before) / count


async def memory_of_wait(pending: int) -> dict[str, float]:
    """Bytes for each task inside `wait`, the task included."""
    async with _world() as world:
        return {"bytes": await _memory_of_tasks(lambda uid: world.completions.wait(uid, timeout=1e6), pending)}


async def memory_of_task(pending: int) -> dict[str, float]:
    """Bytes for each task that awaits one thing for ever, without a future or a timer of its own."""

    for_ever = asyncio.get_running_loop().create_future()

    async def idle(_: str) -> None:
        await for_ever

    return {"bytes": await _memory_of_tasks(idle, pending)}


async def delivery_to_yield(pending: int) -> dict[str, float]:
    """Seconds from handing in a signed delivery until `as_completed` yields it."""
    async with _world() as world, world.completions.as_completed(_uids(pending), timeout=1e6) as outcomes:
        await _taken_in(outcomes, pending)
        gc.collect()
        times = []
        for number in range(min(pending, 400)):
            await world.deliver(number)
            completion = await anext(outcomes)
            times.append(time.perf_counter() - world.started)
            assert completion.error is None
        return {"seconds": statistics.median(times)}


async def stall(pending: int) -> dict[str, float]:
    """The longest CPU time for which the loop did nothing else: while taking in, and afterwards with full collections.

    CPU time, because what other processes take away on a busy machine is no stall of this loop's making.
    """
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            longest, last = max(longest, now - last), now

    async with _world() as world:
        gc.collect()
        ticking = asyncio.create_task(tick())
        async with world.completions.as_completed(_uids(pending), timeout=1e6) as outcomes:
            await _taken_in(outcomes, pending)
            taking_in, longest = longest, 0.0
            for number in range(5):
                await world.deliver(number)
                await anext(outcomes)
                gc.collect()
                await asyncio.sleep(0.01)
            waiting, longest = longest, 0.0
        leaving = longest
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)
        return {"taking_in": taking_in, "waiting": waiting, "leaving": leaving}


def _note(times: list[float], started: float, _: Any) -> None:
    times.append(time.perf_counter() - started)


async def over_http(pending: int) -> dict[str, float]:
    """Seconds from the start of a POST until its answer, and until the caller inside `wait` has the operation."""
    async with _world() as world:
        application = web.Application()
        world.receiver.register(application, PATH)

        async def bare(request: web.Request) -> web.Response:
            await request.read()
            return web.Response(status=204)

        application.router.add_post("/bare", bare)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        plain: list[float] = []
        woken: list[float] = []
        async with aiohttp.ClientSession() as session:
            for number in range(pending):
                body = body_of(number)
                headers = headers_of(body, number)
                started = time.perf_counter()
                async with session.post(f"{base}/bare", data=body, headers=headers) as response:
                    await response.read()
                plain.append(time.perf_counter() - started)
                waiting = asyncio.create_task(world.completions.wait(str(FIRST_UID + number), timeout=60))
                await asyncio.sleep(0)
                started = time.perf_counter()
                waiting.add_done_callback(partial(_note, woken, started))
                async with session.post(f"{base}{PATH}", data=body, headers=headers) as response:
                    assert response.status == 200
                await waiting
        await world.completions.aclose()
        await runner.cleanup()
        return {"post": statistics.median(plain), "woken": statistics.median(woken)}


class _Asked:
    """A client that writes down when it is asked."""

    scope = "default"

    def __init__(self) -> None:
        self.times: list[float] = []
        self._real = OriginalClient("key", "secret-of-at-least-thirty-two-bytes", base_url="http://127.0.0.1:9/v1")
        self.ref_of = self._real.ref_of
        self.conclude = self._real.conclude
        self.parse_operation = self._real.parse_operation
        self.aclose = self._real.aclose

    async def read_operation(self, ref: Any) -> Any:
        self.times.append(asyncio.get_running_loop().time())
        return self.parse_operation(
            ref, {"uid": ref.uid, "status": "pending", "reward_uid": "1", "to_user_uid": "2", "amount": "1", "nonce": "n"}
        )


BUDGET = 100.0


async def polls(pending: int) -> dict[str, float]:
    """The most polls in any second, with webhooks dead and everything due at once."""
    client = _Asked()
    policy = PollPolicy(first_after=0.01, growth=1.0, max_interval=0.05, max_per_second=BUDGET)
    async with _world(policy, client) as world, world.completions.as_completed(_uids(pending)) as outcomes:
        await _taken_in(outcomes, pending)
        await asyncio.sleep(3)
    times, start, most = client.times, 0, 0
    for end, at in enumerate(times):
        while times[start] <= at - 1.0:
            start += 1
        most = max(most, end - start + 1)
    return {"per_second": float(most)}


MEASUREMENTS: dict[str, Callable[[int], Coroutine[Any, Any, dict[str, float]]]] = {
    measurement.__name__: measurement
    for measurement in (memory_of_stream, memory_of_wait, memory_of_task, delivery_to_yield, stall, over_http, polls)
}

if __name__ == "__main__":
    json.dump(asyncio.run(MEASUREMENTS[sys.argv[1]](int(sys.argv[2]))), sys.stdout)
