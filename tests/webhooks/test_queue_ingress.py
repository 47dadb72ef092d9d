"""Messages of a queue in memory and virtual time: what is stored, deleted, held, left alone and released, and when."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rewards_core.errors import ConfigurationError
from tests.texts import said
from tests.virtual_time import virtual_time, wall
from tests.webhooks.fakes import SIGNATURE
from tests.webhooks.queue_kit import BUSY, GONE, SOURCE, FakeQueue, ScriptedStore, body
from tests.wrong_values import Number, cases, refuses
from webhooks.errors import QueueError
from webhooks.ingress.base import Reply
from webhooks.ingress.queue import QueueIngress
from webhooks.receiver import Receiver

HOUR = 3_600


def no_answer() -> QueueError:
    return QueueError("The queue does not answer.")


class Scene:
    """A queue, a store, and the ingress between them."""

    def __init__(self, max_receives: int | None = None, max_body: int = 262_144, **options: Any) -> None:
        self.queue = FakeQueue(max_receives=max_receives)
        self.store = ScriptedStore()
        self.receiver = Receiver(SOURCE, self.store, clock=wall, max_body=max_body)
        self.ingress = QueueIngress(self.queue, self.receiver, clock=wall, random=lambda: 0.0, **options)

    @property
    def counted(self) -> Any:
        return self.ingress.statistics

    async def stored(self) -> list[str]:
        return sorted(each.event.ref.uid for each in await self.store.list_events(limit=1000) if each.event.ref is not None)

    async def until(self, condition: Callable[[], object]) -> None:
        """Let time pass until something is so."""
        for _ in range(100_000):
            if condition():
                return
            await asyncio.sleep(0.25)
        raise AssertionError("it was never so")

    async def pass_by(self, seconds: float) -> None:
        end = now() + seconds
        await self.until(lambda: now() >= end)


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Scene]:
    scene = Scene(**options)
    async with scene.ingress:
        yield scene


def now() -> float:
    return asyncio.get_running_loop().time()


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
