"""Handlers: at least once, and independent of each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from rewards_core.operations import Event
from tests.texts import said
from tests.virtual_time import virtual_time, wall
from tests.webhooks.fakes import FakeSource, body_of, words_of
from tests.webhooks.receiver_kit import Notes, Post, crash, hang, nothing, opened, stopped
from tests.webhooks.store_contract import LoopTime, claim
from tests.webhooks.store_contract.kit import JUMPS
from tests.webhooks.world import settle
from webhooks import HandlerPolicy, MemoryStore, Receiver


@virtual_time
async def test_a_handler_runs_for_events_of_its_name() -> None:
    post, notes = Post(), Notes()
    post.receiver.on("thing.done", name="app.note")(notes)
    async with opened(post):
        await post.send("thing.done", resource=words_of("1", "done"))
        await post.send("thing.other", uid="2")
        await settle()
        assert notes.uids == ["1"]
        assert await post.states() == ["done", "done"]
        assert post.receiver.handler_statistics.finished == 1


@virtual_time
async def test_a_wildcard_runs_for_every_event_once() -> None:
    post, notes = Post(), Notes()
    post.receiver.on("*", name="app.note")(notes)
    post.receiver.on("thing.done", name="app.note")(notes)
    async with opened(post):
        for number, name in enumerate(["thing.done", "thing.other", "thing.done"]):
            await post.send(name, uid=str(number))
        await settle()
        assert sorted(notes.uids) == ["0", "1", "2"]


@virtual_time
async def test_a_handler_gets_the_event_with_its_resource_and_hints_also_after_a_restart() -> None:
    store = MemoryStore(clock=wall)
    first = await stopped(store, event_name="thing.done")
    body = body_of(resource=words_of("1", "done"))
    await first.receiver.receive({**first.source.sign(body), "x-correlation-id": "c-1", "x-attempt": "3"}, body)
    second, notes = Post(store), Notes()
    second.receiver.on("thing.done", name="app.note")(notes)
    async with opened(second):
        await settle()
    ((_, event),) = notes.seen
    assert (event.resource, event.correlation_id, event.attempt) == (words_of("1", "done"), "c-1", "3")
    assert event.body == body


@virtual_time
async def test_a_function_handler_is_known_by_module_and_name() -> None:
    post = Post()

    @post.receiver.on("thing.done")
    async def note(event: Event) -> None:
        """Do nothing."""

    async with opened(post):
        (handler,) = await post.store.list_handlers()
    assert handler.subscription.handler == f"{__name__}.{note.__qualname__}"


@virtual_time
async def test_events_without_a_handler_are_done_with_at_once() -> None:
    post = Post()
    async with opened(post):
        await post.send()
        assert await post.states() == ["done"]


@virtual_time
async def test_dead_letters_and_duplicates_run_nothing() -> None:
    post, notes = Post(source=FakeSource(app="mine")), Notes()
    post.receiver.on("*", name="app.note")(notes)
    async with opened(post):
        await post.send(uid="1", sent_at="10:00")
        await post.send(uid="1", sent_at="10:05")
        await post.send(uid="2", app="theirs")
        await asyncio.sleep(10)
        assert notes.uids == ["1"]


@virtual_time
async def test_a_handler_that_crashes_runs_again_later_and_later_and_then_is_a_dead_letter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    post, notes = Post(attempts=5, max_delay=4.0), Notes(crash)
    post.receiver.on("*", name="app.note")(notes)
    async with opened(post):
        await post.send()
        await asyncio.sleep(600)
        assert notes.times == [0.0, 1.0, 3.0, 7.0, 11.0]
        said("dead letters: a handler that raised an error", await post.dead())
        statistics = post.receiver.handler_statistics
        assert (statistics.failed, statistics.dead, statistics.finished, statistics.running) == (5, 1, 0, 0)
        said("a handler that crashes runs again later and later and then is a dead letter", "\n".join(caplog.messages))


@virtual_time
@pytest.mark.parametrize("jump", JUMPS)
async def test_a_wall_clock_that_is_set_neither_hurries_nor_delays_a_retry(jump: float) -> None:
    def crash_and_set_clock() -> None:
        clock.wall += jump
        raise ValueError("a fault of the handler")

    clock = LoopTime()
    source, store, notes = FakeSource(), MemoryStore(clock=clock.clock), Notes(crash_and_set_clock)
    receiver = Receiver(source, store, handlers=HandlerPolicy(attempts=4), clock=clock.clock, random=lambda: 0.0)
    receiver.on("*", name="app.note")(notes)
    async with receiver:
        body = body_of()
        await receiver.receive(source.sign(body), body)
        await asyncio.sleep(100)
    assert notes.times == [0.0, 1.0, 3.0, 7.0]


@pytest.mark.slow
@pytest.mark.repeats_itself
@virtual_time
async def test_a_job_may_be_tried_any_number_of_times() -> None:
    post, notes = Post(attempts=2_000, max_delay=1.0), Notes(crash)
    post.receiver.on("*", name="app.note")(notes)
    async with opened(post):
        await post.send()
        await asyncio.sleep(2_001)
        assert notes.times == [float(second) for second in range(2_000)]
        said("dead letters: a handler that raised an error", await post.dead())


@virtual_time
@pytest.mark.parametrize(("limit", "times"), [(0.5, [0.0]), (7.0, [0.0, 1.0, 3.0, 7.0]), (6.9, [0.0, 1.0, 3.0])])
async def test_a_job_is_given_up_once_its_next_run_would_begin_too_late(limit: float, times: list[float]) -> None:
    post, notes = Post(attempts=1_000, give_up_after=limit), Notes(crash)
    post.receiver.on("*", name="app.note")(notes)
    async with opened(post):
        await asyncio.sleep(100)
        await post.send()
        await asyncio.sleep(60)
        assert [at - notes.times[0] for at in notes.times] == times
        said("dead letters: a handler that raised an error", await post.dead())


@virtual_time
async def test_the_time_that_a_run_took_counts_towards_the_limit_of_its_job() -> None:
    post, notes = Post(timeout=30.0, give_up_after=31.5), Notes(hang)
    post.receiver.on("*", name="app.note")(notes)
    async with opened(post):
        await post.send()
        await asyncio.sleep(200)
        assert notes.times == [0.0, 31.0]


@virtual_time
async def test_a_handler_that_recovers_is_done() -> None:
    post, notes = Post(), Notes(crash, crash, nothing)
    post.receiver.on("*", name="app.note")(notes)
    async with opened(post):
        await post.send()
        await asyncio.sleep(60)
        assert len(notes.seen) == 3
        assert await post.states() == ["done"]


@virtual_time
async def test_a_handler_that_hangs_is_cancelled_at_its_timeout() -> None:
    post, notes = Post(attempts=2), Notes(hang)
    post.receiver.on("*", name="app.note")(notes)
    async with opened(post):
        await post.send()
        await asyncio.sleep(120)
        assert notes.times == [0.0, 31.0]
        said("dead letters: a handler that hung", await post.dead())


@virtual_time
async def test_a_timeout_of_the_handlers_own_is_not_taken_for_ours() -> None:
    def give_up() -> None:
        raise TimeoutError("the bank did not answer")

    post = Post(attempts=1)
    post.receiver.on("*", name="app.note")(Notes(give_up))
    async with opened(post):
        await post.send()
        await settle()
        said("dead letters: a handler that raised TimeoutError", await post.dead())


@virtual_time
async def test_a_handler_that_cancels_itself_has_failed() -> None:
    def cancel() -> None:
        raise asyncio.CancelledError

    post = Post(attempts=1)
    post.receiver.on("*", name="app.note")(Notes(cancel))
    async with opened(post):
        await post.send()
        await settle()
        assert await post.dead() == [("app.note", "raised CancelledError")]


class Untamed(BaseException):
    """A BaseException as some libraries raise it to stop their own code."""


def escape() -> None:
    raise Untamed("stop")


@virtual_time
@pytest.mark.parametrize("raised", [Untamed("stop"), BaseExceptionGroup("several", [Untamed("stop")])])
async def test_a_handler_fails_by_whatever_it_raises(raised: BaseException) -> None:
    def end() -> None:
        raise raised

    post = Post(attempts=2)
    post.receiver.on("*", name="app.note")(Notes(end))
    async with opened(post):
        await post.send()
        await asyncio.sleep(2)
        assert await post.dead() == [("app.note", f"raised {type(raised).__name__}: {raised}")]


@pytest.mark.slow
@virtual_time
@pytest.mark.parametrize("trouble", [hang, crash, escape])
async def test_a_handler_in_trouble_never_holds_up_another(trouble: Callable[[], Any]) -> None:
    post, bad, good = Post(concurrency=2), Notes(trouble), Notes()
    post.receiver.on("*", name="app.bad")(bad)
    post.receiver.on("*", name="app.good")(good)
    async with opened(post):
        for number in range(200):
            await post.send(uid=str(number))
        await asyncio.sleep(1)
        assert len(good.seen) == 200
        assert good.times[-1] == 0.0


@virtual_time
async def test_only_so_many_events_are_worked_on_at_a_time() -> None:
    running = most = 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(1)
        running -= 1

    post, notes = Post(concurrency=3), Notes(work)
    post.receiver.on("*", name="app.note")(notes)
    async with opened(post):
        for number in range(9):
            await post.send(uid=str(number))
        await asyncio.sleep(2.5)
        assert post.receiver.handler_statistics.running == 3
        await asyncio.sleep(1)
        assert (most, len(notes.seen), await post.states()) == (3, 9, ["done"] * 9)


@virtual_time
async def test_what_a_crash_left_is_picked_up_when_its_lease_is_over() -> None:
    store = MemoryStore(clock=wall)
    crashed = await stopped(store)
    await crashed.send()
    assert len(await claim(store, "app.note")) == 1
    post, notes = Post(store), Notes()
    post.receiver.on("*", name="app.note")(notes)
    async with opened(post):
        await asyncio.sleep(120)
        assert notes.times == [60.0]
        assert await post.states() == ["done"]


@virtual_time
async def test_events_acknowledged_before_a_crash_and_not_handed_on_are_handed_on_at_the_start() -> None:
    store = MemoryStore(clock=wall)
    before = await stopped(store)
    for number in range(50):
        await before.send(uid=str(number))
    post, notes = Post(store), Notes()
    post.receiver.on("*", name="app.note")(notes)
    async with opened(post):
        await settle()
        assert len(notes.seen) == 50


@virtual_time
async def test_a_job_that_takes_its_process_down_each_time_is_given_up() -> None:
    store = MemoryStore(clock=wall)
    post, notes = Post(store, attempts=3), Notes()
    post.receiver.on("*", name="app.note")(notes)
    await (await stopped(store)).send()
    for _ in range(3):
        assert len(await claim(store, "app.note")) == 1
        await asyncio.sleep(60)
    async with opened(post):
        await settle()
        assert notes.seen == []
        said("dead letters: a job that takes its process down", await post.dead())


@virtual_time
async def test_a_store_that_is_closed_too_early_stops_each_handler_with_one_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    post, notes = Post(), Notes()
    for name in ("app.first", "app.second"):
        post.receiver.on("*", name=name)(notes)
    async with opened(post):
        await settle()
        await post.store.aclose()
        await asyncio.sleep(10_000)
        assert sorted(record.getMessage().partition(" has stopped")[0] for record in caplog.records) == [
            "handler app.first",
            "handler app.second",
        ]
        said("a store that is closed too early stops each handler", caplog.records[0].getMessage())
        assert post.receiver.handler_statistics.restarts == 0
        caplog.clear()
