"""Handlers: at least once, and independent of each other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

import pytest

from rewards_core.errors import StoreError
from rewards_core.operations import Event, OperationStatus
from tests.texts import said
from tests.virtual_time import EPOCH, virtual_time, wall
from tests.webhooks.fakes import FakeSource, a_ref, body_of, words_of
from tests.webhooks.store_contract import LoopTime, claim
from tests.webhooks.store_contract.handlers import JUMPS
from tests.webhooks.world import now, settle
from webhooks import EventState, HandlerPolicy, MemoryStore, Receiver
from webhooks.store.outcomes import CONFLICT_EVENT, unpack_object
from webhooks.store.records import RETIRED, ClaimedJob, HandlerStatus, Job, Outcome, Subscription


class Post:
    """A receiver with handlers, and a sender."""

    def __init__(self, store: Any = None, source: FakeSource | None = None, *, service: str = "default", **policy: Any) -> None:
        self.source = source or FakeSource()
        self.store: Any = store or MemoryStore(clock=wall)
        self.receiver = Receiver(
            self.source, self.store, service=service, handlers=HandlerPolicy(**policy), clock=wall, random=lambda: 0.0
        )

    async def send(self, name: str = "thing.done", **words: Any) -> None:
        body = body_of(name, **words)
        assert (await self.receiver.receive(self.source.sign(body), body)).status == 200

    async def dead(self) -> list[tuple[str, str | None]]:
        return [(job.handler, job.reason) for kept in await self.store.list_events(state=EventState.DEAD) for job in kept.jobs]

    async def states(self) -> list[str]:
        return [str(kept.state) for kept in reversed(await self.store.list_events())]


async def stopped(store: Any, name: str = "app.note", event_name: str = "*", **options: Any) -> Post:
    """Return a stopped receiver whose handler the store knows."""
    post = Post(store, **options)
    post.receiver.on(event_name, name=name)(Notes())
    async with post.receiver:
        return post


@asynccontextmanager
async def opened(post: Post) -> AsyncIterator[Post]:
    async with post.receiver:
        yield post


class Flickering(MemoryStore):
    """Fails each method a few times."""

    def __init__(self, **failures: int) -> None:
        super().__init__(clock=wall)
        self.failures = failures

    def _fail(self, method: str) -> None:
        if self.failures.get(method, 0) > 0:
            self.failures[method] -= 1
            raise StoreError("the disk is busy")

    async def register_handlers(self, subscriptions: Sequence[Subscription]) -> None:
        self._fail("register_handlers")
        await super().register_handlers(subscriptions)

    async def release_handlers(self, subscriptions: Sequence[Subscription]) -> None:
        self._fail("release_handlers")
        await super().release_handlers(subscriptions)

    async def list_handlers(self) -> Sequence[HandlerStatus]:
        self._fail("list_handlers")
        return await super().list_handlers()

    async def claim_jobs(self, handler: str, **options: Any) -> Sequence[ClaimedJob]:
        self._fail("claim_jobs")
        return await super().claim_jobs(handler, **options)

    async def finish_job(self, job: Job) -> bool:
        self._fail("finish_job")
        return await super().finish_job(job)

    async def fail_job(self, job: Job, **options: Any) -> bool:
        self._fail("fail_job")
        return await super().fail_job(job, **options)


class Notes:
    """A handler that records its events and their times, and then does what the test says."""

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
        assert await post.dead() == [("app.note", "raised ValueError: a fault of the handler")]
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
        assert await post.dead() == [("app.note", "raised ValueError: a fault of the handler")]


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
        assert await post.dead() == [("app.note", "raised ValueError: a fault of the handler")]


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
        assert await post.dead() == [("app.note", "was started 3 times and never finished")]


# handlers as subscriptions


@virtual_time
async def test_whichever_receiver_accepts_an_event_every_handler_that_wants_it_runs() -> None:
    store = MemoryStore(clock=wall)
    shop, ledger, silent = Post(store, service="shop"), Post(store, service="ledger"), Post(store)
    sold, booked = Notes(), Notes()
    shop.receiver.on("thing.done", name="app.credit")(sold)
    ledger.receiver.on("*", name="app.credit")(booked)
    async with opened(shop), opened(ledger), opened(silent):
        await silent.send("thing.done", uid="1")
        await shop.send("thing.other", uid="2")
        await settle()
        assert (sold.uids, sorted(booked.uids)) == (["1"], ["1", "2"])


@virtual_time
async def test_two_receivers_of_one_service_share_its_work() -> None:
    store, posts, notes = MemoryStore(clock=wall), [], Notes(partial(asyncio.sleep, 1))
    for _ in range(2):
        post = Post(store, concurrency=1)
        post.receiver.on("*", name="app.note")(notes)
        posts.append(post)
    async with opened(posts[0]), opened(posts[1]):
        for number in range(10):
            await posts[0].send(uid=str(number))
        await asyncio.sleep(5.5)
        assert sorted(notes.uids) == [str(number) for number in range(10)]


@virtual_time
async def test_receivers_of_different_scopes_leave_each_other_s_jobs_alone() -> None:
    store = MemoryStore(clock=wall)
    first, second = Post(store), Post(store, FakeSource("other"))
    mine, theirs = Notes(), Notes()
    first.receiver.on("*", name="app.note")(mine)
    second.receiver.on("*", name="app.note")(theirs)
    async with opened(first), opened(second):
        await first.send(uid="1")
        await second.send(uid="2")
        await settle()
        assert (mine.uids, theirs.uids) == (["1"], ["2"])


@virtual_time
async def test_jobs_of_a_handler_that_is_not_there_wait_for_it_and_are_named_in_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore(clock=wall)
    before = await stopped(store, "app.old")
    await before.send(uid="1")
    await before.send(uid="2")
    for post in (Post(store), Post(store, FakeSource("other"))):
        async with opened(post):
            await asyncio.sleep(3_600)
    assert await post.states() == ["ready", "ready"]
    (warning,) = [record.message for record in caplog.records if "app.old" in record.message]
    assert "app.old (2 jobs)" in warning
    late, notes = Post(store), Notes()
    late.receiver.on("*", name="app.old")(notes)
    async with opened(late):
        await settle()
    assert sorted(notes.uids) == ["1", "2"]


@virtual_time
async def test_jobs_of_a_retired_handler_are_dead_letters_and_its_successor_can_have_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore(clock=wall)
    await (await stopped(store, "app.old")).send()
    assert await store.retire_handler("default", "app.old") == 1
    post, notes = Post(store), Notes()
    post.receiver.on("*", name="app.new")(notes)
    async with opened(post):
        assert await post.dead() == [("app.old", RETIRED)]
        (kept,) = await store.list_events()
        assert await post.receiver.replay([kept.id]) == 1
        await settle()
        assert len(notes.seen) == 1
        assert await post.states() == ["done"]
    assert "app.old" not in caplog.text


@virtual_time
async def test_handlers_are_served_from_the_start_to_the_end_of_their_receiver() -> None:
    post = Post()
    post.receiver.on("thing.done", name="app.note")(Notes())
    post.receiver.on("*", name="app.all")(Notes())
    assert await post.store.list_handlers() == []
    for _ in range(2):
        async with opened(post):
            listed = await post.store.list_handlers()
            assert [(one.subscription.handler, one.served) for one in listed] == [("app.all", True), ("app.note", True)]
        assert [one.served for one in await post.store.list_handlers()] == [False, False]


@virtual_time
async def test_a_receiver_whose_handlers_cannot_be_registered_does_not_start() -> None:
    post, notes = Post(Flickering(register_handlers=1)), Notes()
    post.receiver.on("*", name="app.note")(notes)
    with pytest.raises(StoreError):
        await post.receiver.start()
    async with opened(post):
        await post.send()
        await settle()
        assert len(notes.seen) == 1


@virtual_time
async def test_a_store_in_trouble_keeps_no_receiver_from_starting_and_stopping(caplog: pytest.LogCaptureFixture) -> None:
    post, notes = Post(Flickering(list_handlers=1, release_handlers=1)), Notes()
    post.receiver.on("*", name="app.note")(notes)
    async with opened(post):
        await post.send()
        await settle()
        assert len(notes.seen) == 1
    said("a store in trouble keeps no receiver from starting and stopping", "\n".join(caplog.messages))


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
        assert unpack_object(event.body)["then"]["resource"] == words_of("1", "done")
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
    assert await claim(post.store, "app.note") == []
    await asyncio.sleep(60)
    assert len(await claim(post.store, "app.note")) == 1


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
        assert post.receiver.handler_statistics.restarts >= 6
    said("a store in trouble delays handlers and ends none", "\n".join(caplog.messages))


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
        assert post.receiver.handler_statistics.restarts == 3


# registration


async def plain(event: Event) -> None:
    """Do nothing."""


class Callable_:
    async def __call__(self, event: Event) -> None:
        """Do nothing."""

    async def method(self, event: Event, *, attempts: int = 3) -> None:
        """Do nothing."""


@pytest.mark.parametrize(
    "handler", [plain, partial(plain), Callable_(), Callable_().method, partial(Callable_().method, attempts=2)]
)
def test_what_is_called_with_an_event_and_awaited_can_be_a_handler(handler: Any) -> None:
    assert Post().receiver.on("*", name="app.note")(handler) is handler


def synchronous(event: Event) -> None:
    """Do nothing."""


async def without() -> None:
    """Do nothing."""


async def with_two(event: Event, attempt: int) -> None:
    """Do nothing."""


async def by_keyword(*, event: Event) -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("handler", "words"),
    [
        (synchronous, "is not an async function"),
        ("app.note", "is not an async function"),
        (Callable_, "is not an async function"),
        (lambda event: plain(event), "is not an async function"),
        (without, "too many positional arguments"),
        (with_two, "missing a required argument: 'attempt'"),
        (by_keyword, "too many positional arguments"),
        (partial(plain, cast("Event", None)), "too many positional arguments"),
    ],
)
def test_what_cannot_be_called_with_an_event_alone_is_refused_with_the_right_shape(handler: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words) as refused:
        Post().receiver.on("*")(handler)
    assert "async def handle(event: Event) -> None" in str(refused.value)


def test_an_event_name_that_no_source_knows_is_warned_about_once_with_the_closest(caplog: pytest.LogCaptureFixture) -> None:
    class Knowing(FakeSource):
        event_names = frozenset({"thing.done", "thing.made"})

    post = Post(source=Knowing())
    for name in ("thing.done", "*", "outcome.conflict"):
        post.receiver.on(name, name="app.note")(plain)
    assert caplog.text == ""
    post.receiver.on("thing.doen", name="app.note")(plain)
    post.receiver.on("something.else", name="app.other")(plain)
    said("an event name that no source knows is warned about once with the closest", "\n".join(caplog.messages))


def test_a_source_that_does_not_say_what_it_knows_may_know_every_event(caplog: pytest.LogCaptureFixture) -> None:
    class Knowing(FakeSource):
        event_names = frozenset({"thing.done"})

    receiver = Receiver([Knowing(), FakeSource("other")], MemoryStore())
    receiver.on("thing.doen")(plain)
    assert caplog.text == ""


@pytest.mark.parametrize("service", ["a/b", "", " a"])
def test_a_service_has_a_name_without_a_slash(service: str) -> None:
    with pytest.raises(ValueError, match="service"):
        Receiver(FakeSource(), MemoryStore(), service=service)


def test_a_name_that_could_be_another_service_s_handler_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        Post().receiver.on("*", name="shop/app.note")(plain)
    said("a name that could be another service s handler is refused", caught.value)
    Post(service="shop").receiver.on("*", name="shop/app.note")(plain)
    Post().receiver.on("*", name="forward /webhooks/thing")(plain)


@virtual_time
async def test_two_handlers_of_one_name_are_refused() -> None:
    post = Post()
    post.receiver.on("*", name="app.note")(Notes())
    with pytest.raises(ValueError) as caught:
        post.receiver.on("thing.done", name="app.note")(Notes())
    said("two handlers of one name are refused", caught.value)


@virtual_time
async def test_handlers_come_before_the_start() -> None:
    post = Post()
    post.receiver.on("*", name="app.note")(Notes())
    async with opened(post):
        with pytest.raises(RuntimeError) as caught:
            post.receiver.on("*", name="app.late")(Notes())
        said("handlers come before the start", caught.value)


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
