"""Messages of a queue while the store fails, hangs or is slow: how many are held, and for how long."""

from __future__ import annotations

import asyncio

import pytest

from tests.virtual_time import virtual_time
from tests.webhooks.queue_kit import body, running
from tests.webhooks.world import now

HOUR = 3_600


@pytest.mark.slow
@virtual_time
async def test_in_an_outage_of_the_store_messages_are_held_and_stored_afterwards() -> None:
    async with running(max_receives=1) as scene:
        scene.store.down = True
        for uid in "123":
            scene.queue.send(body(uid))
        await scene.pass_by(1_000)
        assert scene.queue.calls["delete"] == []
        assert [each.receives for each in scene.queue.messages.values()] == [1, 1, 1]
        assert all(each.visible_at > now() for each in scene.queue.messages.values())
        assert scene.counted.extended >= 3 * 32
        assert (scene.counted.held, scene.counted.left, scene.queue.dead) == (3, 0, [])
        scene.store.down = False
        await scene.until(lambda: not scene.queue.messages)
        assert await scene.stored() == ["1", "2", "3"]
        assert scene.counted.received == scene.counted.stored == scene.counted.deleted == 3


@virtual_time
async def test_attempts_in_an_outage_grow_apart() -> None:
    async with running() as scene:
        scene.store.down = True
        scene.queue.send(body("1"))
        await scene.pass_by(900)
        assert 30 <= scene.counted.retried <= 40


@pytest.mark.slow
@virtual_time
async def test_while_the_store_hangs_nobody_else_receives_a_message() -> None:
    async with running(max_receives=1) as scene:
        scene.store.hangs.clear()
        scene.queue.send(body("1"))
        await scene.pass_by(1_000)
        assert [each.receives for each in scene.queue.messages.values()] == [1]
        scene.store.hangs.set()
        await scene.until(lambda: scene.counted.deleted)
        assert await scene.stored() == ["1"]


@pytest.mark.slow
@virtual_time
async def test_a_message_that_alone_is_refused_by_the_store_is_left() -> None:
    async with running(concurrency=2) as scene:
        scene.store.poison.add("poison")
        poison = scene.queue.send(body("0", "poison"))
        sent = 0
        while not scene.counted.left:
            scene.queue.send(body(str(sent)))
            sent += 1
            await asyncio.sleep(5.0)
        assert list(scene.queue.messages) == [poison]
        assert len(await scene.stored()) == scene.counted.deleted == sent
        assert now() < 300


@pytest.mark.slow
@virtual_time
async def test_a_message_is_held_no_longer_than_an_hour() -> None:
    async with running() as scene:
        scene.store.down = True
        scene.queue.send(body("1"))
        await scene.until(lambda: scene.counted.left)
        assert HOUR <= now() <= HOUR + 120
        scene.store.down = False
        await scene.until(lambda: scene.counted.deleted)
        assert await scene.stored() == ["1"]


@virtual_time
async def test_no_more_batches_are_in_progress_than_allowed() -> None:
    async with running(concurrency=3) as scene:
        scene.store.hangs.clear()
        for uid in range(100):
            scene.queue.send(body(str(uid)))
        await scene.pass_by(500)
        assert scene.queue.most_held == scene.counted.held == 30
        scene.store.hangs.set()
        await scene.until(lambda: not scene.queue.messages)
        assert len(await scene.stored()) == 100
