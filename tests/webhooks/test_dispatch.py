"""Handlers on kept events: at least once, each alone, none in the way of another."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from rewards_core.operations import Event, OperationStatus
from tests.virtual_time import EPOCH, virtual_time, wall
from tests.webhooks.fakes import FakeSource, a_ref, body_of, words_of
from tests.webhooks.world import now, settle
from webhooks import EventState, HandlerPolicy, MemoryStore, Receiver, StoreError
from webhooks.store.base import NO_SUCH_HANDLER, ClaimedJob, Job, Outcome
from webhooks.store.outcomes import CONFLICT_EVENT, unpack


class Post:
    """A receiver with handlers, and somebody who sends."""

    def __init__(self, store: Any = None, source: FakeSource | None = None, **policy: Any) -> None:
        self.source = source or FakeSource()
        self.store: Any = store or MemoryStore(clock=wall)
        self.receiver = Receiver(self.source, self.store, handlers=HandlerPolicy(**policy), clock=wall, random=lambda: 0.0)

    async def send(self, name: str = "thing.done", **words: Any) -> None:
        body = body_of(name, **words)
        assert (await self.receiver.receive(self.source.sign(body), body)).status == 200

    async def dead(self) -> list[tuple[str, str | None]]:
        return [(job.handler, job.reason) for kept in await self.store.list_events(state=EventState.DEAD) for job in kept.jobs]

    async def states(self) -> list[str]:
        return [str(kept.state) for kept in reversed(await self.store.list_events())]


@asynccontextmanager
async def opened(post: Post) -> AsyncIterator[Post]:
    async with post.receiver:
        yield post


class Notes:
    """A handler that writes down what it was given and when, and does what it is told."""

    def __init__(self, *endings: Callable[[], Any]) -> None:
        self.endings = list(endings)
        self.seen: list[tuple[float, Event]] = []

    async def __call__(self, event: Event) -> None:
        self.seen.append((now(), event))
        if self.endings:
            ending = self.endings.pop(0) if len(self.endings) > 1 else self.endings[0]
            result = ending()
            if asyncio.iscoroutine(result):
                await result

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.seen]

    @property
    def uids(self) -> list[str]:
        return [event.ref.uid for _, event in self.seen if event.ref]


def crash() -> None:
    raise ValueError("a fault of the handler")


def nothing() -> None:
    return


hang = partial(asyncio.sleep, 1e9)


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
        assert post.receiver.dispatcher.statistics.finished == 1


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
    first = Post(store)
    first.receiver.on("thing.done", name="app.note")(Notes())
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

    await post.send()
    (kept,) = await post.store.list_events()
    assert kept.jobs[0].handler == f"{__name__}.{note.__qualname__}"


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
        assert await post.dead() == [("app.note", "raised ValueError: a fault of the handler")]
        statistics = post.receiver.dispatcher.statistics
        assert (statistics.failed, statistics.dead, statistics.finished, statistics.running) == (5, 1, 0, 0)
        assert "kept as a dead letter" in caplog.text


@virtual_time
async def test_a_job_may_be_tried_any_number_of_times() -> None:
    post, notes = Post(attempts=2_000, max_delay=1.0), Notes(crash)
    post.receiver.on("*", name="app.note")(notes)
    async with opened(post):
        await post.send()
        await asyncio.sleep(2_001)
        assert notes.times == [float(second) for second in range(2_000)]
        assert await post.dead() == [("app.note", "raised ValueError: a fault of the handler")]


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
        assert await post.dead() == [("app.note", "ran longer than 30 s and was cancelled")]


@virtual_time
async def test_a_timeout_of_the_handlers_own_is_not_taken_for_ours() -> None:
    def give_up() -> None:
        raise TimeoutError("the bank did not answer")

    post = Post(attempts=1)
    post.receiver.on("*", name="app.note")(Notes(give_up))
    async with opened(post):
        await post.send()
        await settle()
        assert await post.dead() == [("app.note", "raised TimeoutError: the bank did not answer")]


@virtual_time
async def test_a_handler_that_cancels_itself_has_failed() -> None:
    def cancel() -> None:
        raise asyncio.CancelledError

    post = Post(attempts=1)
    post.receiver.on("*", name="app.note")(Notes(cancel))
    async with opened(post):
        await post.send()
        await settle()
        assert await post.dead() == [("app.note", "was cancelled from inside")]


class Untamed(BaseException):
    """What some libraries stop their own code with."""


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
        assert post.receiver.dispatcher.statistics.running == 3
        await asyncio.sleep(1)
        assert (most, len(notes.seen), await post.states()) == (3, 9, ["done"] * 9)


@virtual_time
async def test_what_a_crash_left_is_picked_up_when_its_lease_is_over() -> None:
    store = MemoryStore(clock=wall)
    crashed = Post(store)
    crashed.receiver.on("*", name="app.note")(Notes())
    await crashed.send()
    assert len(await store.claim_jobs("app.note", limit=1, lease=60)) == 1
    post, notes = Post(store), Notes()
    post.receiver.on("*", name="app.note")(notes)
    async with opened(post):
        await asyncio.sleep(120)
        assert notes.times == [60.0]
        assert await post.states() == ["done"]


@virtual_time
async def test_events_acknowledged_before_a_crash_and_not_handed_on_are_handed_on_at_the_start() -> None:
    store = MemoryStore(clock=wall)
    before = Post(store)
    before.receiver.on("*", name="app.note")(Notes())
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
    await post.send()
    for _ in range(3):
        assert len(await store.claim_jobs("app.note", limit=1, lease=60)) == 1
        await asyncio.sleep(60)
    async with opened(post):
        await settle()
        assert notes.seen == []
        assert await post.dead() == [("app.note", "was started 3 times and never came to an end")]


@virtual_time
async def test_jobs_of_a_handler_that_was_renamed_are_visible_as_dead_letters(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore(clock=wall)
    before = Post(store)
    before.receiver.on("*", name="app.old")(Notes())
    await before.send()
    post, notes = Post(store), Notes()
    post.receiver.on("*", name="app.new")(notes)
    async with opened(post):
        await settle()
        assert await post.dead() == [("app.old", NO_SUCH_HANDLER)]
        assert "1 jobs" in caplog.text
        (kept,) = await store.list_events()
        await post.receiver.replay([kept.id])
        await settle()
        assert len(notes.seen) == 1


@virtual_time
async def test_conflicts_are_told_to_handlers() -> None:
    post, notes, other = Post(), Notes(), Notes()
    post.receiver.on("outcome.conflict", name="app.alarm")(notes)
    post.receiver.on("thing.done", name="app.note")(other)
    async with opened(post):
        failed = Outcome(
            ref=a_ref("1"), status=OperationStatus.FAILED, resource=words_of("1", "failed"), via="poll", settled_at=EPOCH
        )
        await post.store.record_outcome(failed)
        await post.send(resource=words_of("1", "done"))
        await settle()
        ((_, event),) = notes.seen
        assert (event.name, event.ref) == (CONFLICT_EVENT, a_ref("1"))
        assert unpack(event.body)["then"]["resource"] == words_of("1", "done")
        assert len(other.seen) == 1


@virtual_time
async def test_a_drain_lets_running_handlers_come_to_their_end_and_starts_no_more() -> None:
    post, notes = Post(concurrency=1), Notes(partial(asyncio.sleep, 5))
    post.receiver.on("*", name="app.note")(notes)
    await post.receiver.start()
    await post.receiver.start()
    await post.send(uid="1")
    await post.send(uid="2")
    await settle()
    await post.receiver.aclose(drain=20)
    assert now() == 5.0
    assert notes.times == [0.0]
    assert sorted(await post.states()) == ["done", "ready"]
    await post.receiver.aclose()


@virtual_time
async def test_what_is_not_drained_in_time_is_cancelled_and_its_lease_runs_out() -> None:
    post, notes = Post(), Notes(hang)
    post.receiver.on("*", name="app.note")(notes)
    await post.receiver.start()
    await post.send()
    await settle()
    await post.receiver.aclose(drain=3)
    assert now() == 3.0
    assert await post.states() == ["ready"]
    assert await post.store.claim_jobs("app.note", limit=1, lease=60) == []


@virtual_time
async def test_a_receiver_can_be_started_again() -> None:
    post, notes = Post(), Notes()
    post.receiver.on("*", name="app.note")(notes)
    for number in range(2):
        async with opened(post):
            await post.send(uid=str(number))
            await settle()
    assert notes.uids == ["0", "1"]


@virtual_time
async def test_a_store_in_trouble_at_the_start_does_not_keep_the_receiver_from_starting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Busy(MemoryStore):
        async def retire_jobs(self, scopes: Any, keep: Any) -> int:
            raise StoreError("the disk is busy")

    post, notes = Post(Busy(clock=wall)), Notes()
    post.receiver.on("*", name="app.note")(notes)
    async with opened(post):
        await post.send()
        await settle()
        assert len(notes.seen) == 1
    assert "not registered any more" in caplog.text


class Flickering(MemoryStore):
    """Fails each method a few times."""

    def __init__(self, **failures: int) -> None:
        super().__init__(clock=wall)
        self.failures = failures

    def _fail(self, method: str) -> None:
        if self.failures.get(method, 0) > 0:
            self.failures[method] -= 1
            raise StoreError("the disk is busy")

    async def claim_jobs(self, handler: str, **options: Any) -> Sequence[ClaimedJob]:
        self._fail("claim_jobs")
        return await super().claim_jobs(handler, **options)

    async def finish_job(self, job: Job) -> bool:
        self._fail("finish_job")
        return await super().finish_job(job)

    async def fail_job(self, job: Job, **options: Any) -> bool:
        self._fail("fail_job")
        return await super().fail_job(job, **options)


@virtual_time
async def test_a_store_in_trouble_delays_handlers_and_ends_none(caplog: pytest.LogCaptureFixture) -> None:
    post, notes, bad = Post(Flickering(claim_jobs=6, finish_job=1, fail_job=1)), Notes(), Notes(crash, nothing)
    post.receiver.on("*", name="app.note")(notes)
    post.receiver.on("*", name="app.bad")(bad)
    async with opened(post):
        await post.send()
        await asyncio.sleep(200)
        assert await post.states() == ["done"]
        assert len(notes.seen) == 2
        assert len(bad.seen) == 2
        assert post.receiver.dispatcher.statistics.restarts >= 6
    assert "died and starts again" in caplog.text
    assert "could not be noted" in caplog.text


@virtual_time
async def test_a_store_in_trouble_leaves_running_handlers_alone() -> None:
    flickering = Flickering()
    post, notes = Post(flickering), Notes(partial(asyncio.sleep, 20))
    post.receiver.on("*", name="app.note")(notes)
    async with opened(post):
        await post.send(uid="1")
        await settle()
        flickering.failures["claim_jobs"] = 3
        await post.send(uid="2")
        await asyncio.sleep(40)
        assert await post.states() == ["done", "done"]
        assert notes.uids == ["1", "2"]
        assert post.receiver.dispatcher.statistics.restarts == 3


# registration


@virtual_time
async def test_only_async_functions_can_be_handlers() -> None:
    def plain(event: Event) -> None:
        """Do nothing."""

    with pytest.raises(TypeError, match="async def"):
        Post().receiver.on("*")(plain)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="async def"):
        Post().receiver.on("*")("app.note")  # type: ignore[type-var]


@virtual_time
async def test_two_handlers_of_one_name_are_refused() -> None:
    post = Post()
    post.receiver.on("*", name="app.note")(Notes())
    with pytest.raises(ValueError, match="name="):
        post.receiver.on("thing.done", name="app.note")(Notes())


@virtual_time
async def test_handlers_come_before_the_start() -> None:
    post = Post()
    post.receiver.on("*", name="app.note")(Notes())
    async with opened(post):
        with pytest.raises(RuntimeError, match="before start"):
            post.receiver.on("*", name="app.late")(Notes())


@virtual_time
async def test_names_of_events_that_strangers_choose_are_not_remembered_without_end() -> None:
    post, notes = Post(concurrency=50), Notes()
    post.receiver.on("*", name="app.note")(notes)
    async with opened(post):
        for number in range(1_200):
            await post.send(f"stranger.{number}")
        await asyncio.sleep(5)
        assert len(notes.seen) == 1_200
        assert len(post.receiver.dispatcher._answers) == 1_000


@virtual_time
async def test_what_a_handler_raises_is_told_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    def noisy() -> None:
        raise ValueError("one\ntwo\x1b[31m" + "x" * 1_000)

    caplog.set_level(logging.WARNING)
    post = Post(attempts=1)
    post.receiver.on("*", name="app.note")(Notes(noisy))
    async with opened(post):
        await post.send()
        await settle()
        ((_, reason),) = await post.dead()
    assert reason is not None
    assert reason.isprintable()
    assert len(reason) <= 300
