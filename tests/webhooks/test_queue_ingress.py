"""Messages of a queue in memory and virtual time: what is stored, deleted and left alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from tests.virtual_time import virtual_time, wall
from tests.webhooks.fakes import SIGNATURE
from tests.webhooks.queue_kit import SOURCE, FakeQueue, Scene, ScriptedStore, body, running
from tests.webhooks.world import now
from tests.wrong_values import Number, cases, refuses
from webhooks.ingress.queue import QueueIngress
from webhooks.receiver import Receiver


@virtual_time
async def test_a_message_is_deleted_only_after_its_event_is_stored() -> None:
    async with running() as scene:
        at_deletion: list[list[str]] = []

        async def look() -> None:
            at_deletion.append(await scene.stored())

        scene.queue.before_delete = look
        scene.queue.send(body("1"))
        await scene.until(lambda: scene.counted.deleted)
        assert at_deletion == [["1"]]
        assert scene.queue.messages == {}
        assert (scene.counted.received, scene.counted.stored, scene.counted.left, scene.counted.held) == (1, 1, 0, 0)


@virtual_time
async def test_a_duplicate_is_deleted_and_makes_no_second_event() -> None:
    async with running() as scene:
        scene.queue.send(body("1"))
        scene.queue.send(body("1"))
        await scene.until(lambda: scene.counted.deleted == 2)
        assert await scene.stored() == ["1"]
        assert scene.receiver.statistics.duplicates == 1


@virtual_time
async def test_a_signature_counts_in_any_case_of_its_name_and_over_the_utf_8_bytes() -> None:
    async with running() as scene:
        raw = '{"event": "thing.done", "uid": "दिवाली"}'.encode()
        scene.queue.send(raw, {SIGNATURE.upper(): SOURCE.sign(raw)[SIGNATURE], "X-Correlation-ID": "c-1"})
        await scene.until(lambda: scene.counted.deleted)
        (kept,) = await scene.store.list_events()
        assert kept.event.body == raw
        assert kept.event.correlation_id == "c-1"


@pytest.mark.parametrize(
    "attributes",
    [{}, {SIGNATURE: "00"}, {SIGNATURE: ""}, {SIGNATURE: "\ud800é"}, {f"x{n}": "y" for n in range(50)}],
    ids=["no attribute", "wrong signature", "empty", "not ASCII", "too many"],
)
def test_an_unsigned_message_is_never_deleted_and_goes_to_the_dead_letters(attributes: Mapping[str, str]) -> None:
    @virtual_time
    async def play() -> None:
        async with running(max_receives=3) as scene:
            scene.queue.send(body("1"), attributes)
            await scene.until(lambda: scene.queue.dead)
            assert [each.receives for each in scene.queue.dead] == [3]
            assert now() >= 3 * 60
            assert scene.queue.calls["delete"] == scene.queue.calls["visibility"] == []
            assert await scene.stored() == []
            assert (scene.counted.left, scene.counted.deleted) == (3, 0)
            assert sum(scene.receiver.statistics.rejected.values()) == 3

    play()


@pytest.mark.parametrize("text", ["\ud800", "", "x" * 300_000], ids=["half a surrogate pair", "empty", "too large"])
def test_a_message_that_cannot_be_processed_is_left_and_holds_up_no_other(text: str) -> None:
    @virtual_time
    async def play() -> None:
        async with running(concurrency=1) as scene:
            scene.queue.send(text, None if len(text) > 100 else {})
            scene.queue.send(body("1"))
            await scene.until(lambda: scene.counted.deleted)
            assert await scene.stored() == ["1"]
            assert len(scene.queue.messages) == scene.counted.left == 1

    play()


@virtual_time
async def test_handlers_run_from_the_start() -> None:
    scene = Scene()
    handled = asyncio.Event()

    @scene.receiver.on("*")
    async def handle(_: object) -> None:
        handled.set()

    async with scene.ingress:
        scene.queue.send(body("1"))
        await handled.wait()


@virtual_time
async def test_two_consumers_share_a_queue() -> None:
    async with running() as scene:
        other = QueueIngress(scene.queue, Receiver(SOURCE, scene.store, clock=wall))
        async with other:
            for uid in range(200):
                scene.queue.send(body(str(uid)))
                await asyncio.sleep(0)
            await scene.until(lambda: not scene.queue.messages)
            assert len(await scene.stored()) == 200
            assert scene.counted.stored + other.statistics.stored == 200
            assert scene.counted.stored
            assert other.statistics.stored


@virtual_time
async def test_the_age_of_the_oldest_message_is_known() -> None:
    async with running(wait=1) as scene:
        scene.queue.send(body("1"))
        old = scene.queue.send(body("2"))
        scene.queue.messages[old].sent_at -= 90
        await scene.until(lambda: scene.counted.deleted)
        assert scene.counted.oldest_age >= 90
        await scene.until(lambda: scene.counted.oldest_age == 0)


@virtual_time
async def test_a_consumer_that_finds_the_queue_empty_does_not_hide_the_age_of_what_another_holds() -> None:
    async with running(wait=1) as scene:
        scene.store.down = True
        old = scene.queue.send(body("1"))
        scene.queue.messages[old].sent_at -= 90
        await scene.until(lambda: scene.counted.retried)
        await scene.pass_by(5)
        assert scene.counted.oldest_age >= 90
        scene.store.down = False
        await scene.until(lambda: scene.counted.oldest_age == 0)


def test_a_flood_of_unsigned_messages_makes_few_log_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    @virtual_time
    async def play() -> None:
        async with running() as scene:
            for _ in range(500):
                scene.queue.send(body("1"), {})
            await scene.until(lambda: scene.counted.left == 500)

    play()
    assert len(caplog.records) == 2
    assert any(" 401" in each.getMessage() for each in caplog.records)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    cases(
        {
            "concurrency": Number((0, -1, 65), whole=True),
            "visibility": Number((0, 1, 43_201), whole=True),
            "wait": Number((0, 21), whole=True),
        }
    ),
)
def test_wrong_settings_are_refused(name: str, value: Any, error: type[Exception]) -> None:
    receiver = Receiver(SOURCE, ScriptedStore())
    refuses(lambda **wrong: QueueIngress(FakeQueue(), receiver, **wrong), name, value, error)
