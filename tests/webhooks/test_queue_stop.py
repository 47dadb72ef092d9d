"""How the ingress of a queue stops and starts again: what was received is finished, or released."""

from __future__ import annotations

import asyncio

import pytest

from tests.virtual_time import virtual_time
from tests.webhooks.queue_kit import Scene, body, no_answer
from tests.webhooks.world import now


@virtual_time
async def test_a_stop_finishes_what_was_received_and_receives_nothing_more() -> None:
    scene = Scene(concurrency=1)
    await scene.ingress.start()
    scene.store.hangs.clear()
    scene.queue.send(body("1"))
    await scene.until(lambda: scene.counted.received)
    stopping = asyncio.create_task(scene.ingress.drain(10.0))
    scene.queue.send(body("2"))
    await scene.pass_by(5)
    scene.store.hangs.set()
    assert await stopping
    assert await scene.stored() == ["1"]
    assert [each.receives for each in scene.queue.messages.values()] == [0]
    assert (scene.counted.deleted, scene.counted.released, scene.queue.receiving) == (1, 0, 0)
    await scene.ingress.aclose()


@virtual_time
async def test_a_stop_ends_a_long_poll_at_once() -> None:
    scene = Scene(concurrency=4)
    await scene.ingress.start()
    await scene.until(lambda: scene.queue.receiving == 4)
    before = now()
    await scene.ingress.aclose()
    assert now() == before
    assert scene.queue.receiving == 0


@virtual_time
async def test_what_the_store_refuses_at_a_stop_is_visible_to_others_at_once() -> None:
    scene = Scene(concurrency=1)
    await scene.ingress.start()
    scene.store.down = True
    held, left = scene.queue.send(body("1")), scene.queue.send(body("2"), {})
    await scene.until(lambda: scene.counted.retried)
    assert not await scene.ingress.drain(10.0)
    assert scene.queue.messages[held].visible_at <= now() < scene.queue.messages[left].visible_at
    assert scene.counted.released == 1
    await scene.ingress.aclose()


@virtual_time
async def test_what_is_not_stored_within_the_grace_of_a_stop_is_visible_to_others_at_once() -> None:
    scene = Scene(concurrency=1, visibility=600)
    await scene.ingress.start()
    scene.store.hangs.clear()
    held = scene.queue.send(body("1"))
    await scene.until(lambda: scene.counted.received)
    before = now()
    await scene.ingress.aclose(7.0)
    assert now() == before + 7
    assert scene.queue.messages[held].visible_at <= now()
    assert (scene.counted.released, scene.counted.held) == (1, 0)


@virtual_time
async def test_a_queue_that_does_not_answer_at_a_stop_delays_it_little() -> None:
    scene = Scene(concurrency=1)
    await scene.ingress.start()
    scene.store.down = True
    scene.queue.send(body("1"))
    await scene.until(lambda: scene.counted.retried)
    scene.queue.faults["visibility"] = [no_answer() for _ in range(10)]
    await scene.ingress.aclose(7.0)
    assert scene.counted.released == 1


@virtual_time
async def test_it_can_be_started_again_and_both_are_idempotent() -> None:
    scene = Scene()
    for uid in "12":
        await scene.ingress.start()
        await scene.ingress.start()
        scene.queue.send(body(uid))
        await scene.until(lambda: not scene.queue.messages)
        await scene.ingress.aclose()
        await scene.ingress.aclose()
    assert await scene.stored() == ["1", "2"]


@virtual_time
async def test_two_starts_at_a_time_start_each_consumer_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(concurrency=2)
    start = scene.receiver.start

    async def start_slowly() -> None:
        await scene.pass_by(1.0)
        await start()

    monkeypatch.setattr(scene.receiver, "start", start_slowly)
    await asyncio.gather(scene.ingress.start(), scene.ingress.start())
    await scene.until(lambda: scene.queue.receiving)
    assert sum("consumer" in task.get_name() for task in asyncio.all_tasks()) == 2
    await scene.ingress.aclose()


@virtual_time
async def test_closing_while_it_drains_waits_for_the_messages_in_progress() -> None:
    scene = Scene(concurrency=1)
    await scene.ingress.start()
    deleting, go_on = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        deleting.set()
        await go_on.wait()

    scene.queue.before_delete = hold
    scene.queue.send(body("1"))
    await deleting.wait()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(scene.ingress.drain(60.0))
        closing = tasks.create_task(scene.ingress.aclose(30.0))
        await scene.pass_by(1.0)
        assert not closing.done()
        go_on.set()
    assert scene.counted.deleted == 1


@virtual_time
async def test_a_start_during_a_drain_begins_again_after_it() -> None:
    scene = Scene(concurrency=1)
    await scene.ingress.start()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(scene.ingress.drain(60.0))
        tasks.create_task(scene.ingress.start())
    scene.queue.send(body("1"))
    await scene.until(lambda: scene.counted.deleted)
    await scene.ingress.aclose()
