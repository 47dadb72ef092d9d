"""How `Completions` starts and closes, and what becomes of waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.texts import said
from tests.virtual_time import virtual_time, wall
from tests.webhooks.fakes import lost
from tests.webhooks.waiting_kit import by_as_completed
from tests.webhooks.world import World, now, settle
from webhooks import CompletionsClosed, MemoryStore


@virtual_time
async def test_what_was_closed_says_so_however_it_is_used() -> None:
    world = World()
    async with world.completions:
        entered, never_entered = (world.completions.as_completed(["1"]) for _ in range(2))
        await entered.__aenter__()
        await world.deliver("3", status=None)
        await settle()
    await world.completions.aclose()
    for use in (world.completions.wait("1"), world.completions.start()):
        with pytest.raises(CompletionsClosed) as caught:
            await use
        said("what was closed says so", caught.value)
    with pytest.raises(CompletionsClosed):
        world.completions.as_completed(["1"])
    with pytest.raises(CompletionsClosed):
        await anext(entered)
    with pytest.raises(CompletionsClosed):
        aiter(never_entered)
    assert list(world.completions.pending()) == []
    assert world.completions.statistics.polls_pause_for == 0.0


class Hanging(MemoryStore):
    """Is slow to watch operations and to search by key."""

    async def watch(self, refs: Any, **options: Any) -> Any:
        await asyncio.sleep(1_000)
        return await super().watch(refs, **options)

    async def outcomes_by_key(self, *key: str) -> Any:
        await asyncio.sleep(1_000)
        return await super().outcomes_by_key(*key)


@virtual_time
async def test_closing_while_a_store_hangs_ends_every_wait_at_once() -> None:
    world = World(store=Hanging(clock=wall))
    async with world.completions:
        waiting = [world.start("1"), world.start("1", timeout=60), world.start(lost("k"))]
        waiting += [asyncio.create_task(by_as_completed(world, "1", timeout=60))]
        await asyncio.sleep(1)
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, CompletionsClosed)
    assert now() == 1.0
    assert list(world.completions.pending()) == []


@virtual_time
async def test_a_wait_whose_operation_was_found_while_all_was_closed_does_not_begin() -> None:
    world = World()
    async with world.completions:
        waiting = world.start(lost("k"))
        await settle()
        await world.deliver("1", key="k")
    assert isinstance((await asyncio.gather(waiting, return_exceptions=True))[0], CompletionsClosed)


@virtual_time
async def test_a_shutdown_signal_closes_while_requests_wait() -> None:
    world = World()
    shutdown = asyncio.Event()

    async def application() -> None:
        async with world.completions:
            await shutdown.wait()

    async def request() -> str:
        try:
            await world.completions.wait("1")
        except CompletionsClosed:
            return "503"
        raise AssertionError

    serving = asyncio.create_task(application())
    await settle()
    requests = [asyncio.create_task(request()) for _ in range(3)]
    await asyncio.sleep(10)
    shutdown.set()
    assert await asyncio.gather(*requests) == ["503"] * 3
    await serving
    assert now() == 10.0


async def test_waiting_before_the_start_says_how_to_start() -> None:
    world = World()
    with pytest.raises(RuntimeError) as caught:
        await world.completions.wait("1")
    said("waiting before the start says how to start", caught.value)
