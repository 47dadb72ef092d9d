"""Queues from which nothing can be deleted, and an ingress that is started or closed twice at a time."""

from __future__ import annotations

import asyncio

import pytest

from tests.texts import said
from tests.virtual_time import virtual_time
from tests.webhooks.queue_kit import body
from tests.webhooks.test_queue_ingress import Scene, no_answer, running


@virtual_time
async def test_a_queue_that_deletes_nothing_is_trouble_until_it_deletes_again() -> None:
    async with running() as scene:
        scene.queue.faults["delete"] = [no_answer() for _ in range(3)]
        scene.queue.send(body("1"))
        await scene.until(lambda: scene.ingress.trouble)
        said("queue: nothing can be deleted", scene.ingress.trouble)
        assert await scene.stored() == ["1"]
        scene.queue.send(body("2"))
        await scene.until(lambda: scene.ingress.trouble is None)
        assert await scene.stored() == ["1", "2"]


@virtual_time
async def test_one_failed_deletion_is_no_trouble() -> None:
    async with running() as scene:
        scene.queue.faults["delete"] = [no_answer(), no_answer()]
        scene.queue.send(body("1"))
        await scene.until(lambda: scene.counted.deleted)
        assert scene.ingress.trouble is None


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
