"""Queues that fail: deletions, extensions and receipts are tried again, and the trouble is told."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest

from rewards_core.errors import ConfigurationError
from tests.texts import said
from tests.virtual_time import virtual_time
from tests.webhooks.queue_kit import BUSY, GONE, body, no_answer, running
from tests.webhooks.world import now
from webhooks.ingress.base import Reply


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
async def test_messages_that_were_not_deleted_are_deleted_again() -> None:
    async with running() as scene:
        first, second = scene.queue.send(body("1")), scene.queue.send(body("2"))
        scene.queue.faults["delete"] = [{second: BUSY}, no_answer()]
        await scene.until(lambda: not scene.queue.messages)
        assert [ids for _, ids, _ in scene.queue.calls["delete"]] == [(first, second), (second,), (second,)]
        assert (scene.counted.received, scene.counted.deleted, scene.counted.undeleted) == (2, 2, 0)


@pytest.mark.parametrize("fault", [None, BUSY, GONE])
def test_a_message_whose_deletion_was_lost_returns_as_a_duplicate(fault: str | None) -> None:
    @virtual_time
    async def play() -> None:
        async with running() as scene:
            message = scene.queue.send(body("1"))
            scene.queue.faults["delete"] = [no_answer() if fault is None else {message: fault} for _ in range(3)]
            if fault == GONE:
                del scene.queue.faults["delete"][1:]
            await scene.until(lambda: not scene.queue.messages)
            assert await scene.stored() == ["1"]
            assert scene.receiver.statistics.duplicates == 1
            assert (scene.counted.received, scene.counted.deleted, scene.counted.undeleted) == (2, 1, 1)

    play()


@virtual_time
async def test_a_message_whose_visibility_ran_out_is_stored_once_and_deleted_later() -> None:
    """The process was stopped for longer than the visibility timeout, and another consumer has the message."""
    async with running(concurrency=1) as scene:
        scene.store.hangs.clear()
        scene.queue.send(body("1"))
        await scene.until(lambda: scene.counted.received)
        (held,) = scene.queue.messages.values()
        held.handle, held.visible_at = "of another consumer", now() + 90
        await scene.pass_by(80)
        scene.store.hangs.set()
        await scene.until(lambda: not scene.queue.messages)
        assert await scene.stored() == ["1"]
        assert [len(ids) for _, ids, _ in scene.queue.calls["visibility"]] == [1]
        assert (scene.counted.undeleted, scene.counted.deleted, scene.receiver.statistics.duplicates) == (1, 1, 1)


@virtual_time
async def test_an_extension_that_fails_is_tried_again_in_time() -> None:
    async with running(max_receives=1) as scene:
        scene.store.hangs.clear()
        message = scene.queue.send(body("1"))
        scene.queue.faults["visibility"] = [no_answer(), {message: BUSY}, no_answer()]
        await scene.pass_by(200)
        assert [each.receives for each in scene.queue.messages.values()] == [1]
        scene.store.hangs.set()
        await scene.until(lambda: scene.counted.deleted)


@virtual_time
async def test_a_queue_that_fails_is_asked_again_with_growing_pauses() -> None:
    async with running(concurrency=1) as scene:
        scene.queue.faults["receive"] = [no_answer() for _ in range(10)]
        await scene.until(lambda: scene.ingress.trouble)
        assert scene.ingress.trouble == "The queue does not answer."
        scene.queue.send(body("1"))
        await scene.until(lambda: scene.counted.deleted)
        assert scene.ingress.trouble is None
        times = [at for at, _, _ in scene.queue.calls["receive"]][:11]
        pauses = [round(after - before, 2) for before, after in itertools.pairwise(times)]
        assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
        assert scene.counted.failures == 10


@virtual_time
async def test_an_empty_queue_that_failed_once_is_soon_known_to_be_readable() -> None:
    async with running() as scene:
        await scene.pass_by(1)
        scene.queue.faults["receive"] = [no_answer()]
        await scene.until(lambda: scene.ingress.trouble)
        failed_at = now()
        await scene.until(lambda: scene.ingress.trouble is None)
        assert now() - failed_at <= 2


@virtual_time
async def test_an_unforeseen_error_of_the_queue_is_trouble_until_it_is_read_again() -> None:
    async with running(concurrency=1) as scene:
        scene.queue.faults["receive"] = [ConfigurationError("There are no AWS credentials.") for _ in range(5)]
        await scene.until(lambda: scene.ingress.trouble)
        said("queue: an unforeseen error", scene.ingress.trouble)
        scene.queue.send(body("1"))
        await scene.until(lambda: scene.counted.deleted)
        assert scene.ingress.trouble is None


@virtual_time
async def test_a_bug_in_a_queue_ends_no_consumer() -> None:
    async with running(concurrency=1) as scene:
        scene.queue.faults["receive"] = [RuntimeError("a bug")]
        scene.queue.send(body("1"))
        await scene.until(lambda: scene.counted.deleted)


@virtual_time
async def test_a_receiver_that_raises_or_answers_strangely_leaves_the_message() -> None:
    async with running(concurrency=1) as scene:
        answers: list[Exception | Reply] = [RuntimeError("a bug"), Reply(status=202), Reply(status=500), Reply(status=200)]

        async def receive(headers: Mapping[str, str], body: bytes, peer: object = None) -> Reply:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        scene.receiver.receive = receive  # type: ignore[method-assign]
        scene.queue.send(body("1"))
        await scene.until(lambda: scene.counted.deleted)
        assert scene.counted.left == 3
