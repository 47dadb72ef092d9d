"""Handlers are subscriptions: each wanted event reaches each handler, whichever receiver accepted it, also after trouble."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from rewards_core.errors import StoreError
from rewards_core.operations import OperationStatus
from tests.texts import said
from tests.virtual_time import EPOCH, virtual_time, wall
from tests.webhooks.fakes import FakeSource, a_ref, words_of
from tests.webhooks.receiver_kit import Flickering, Notes, Post, crash, hang, nothing, opened, stopped
from tests.webhooks.store_contract import claim
from tests.webhooks.world import now, settle
from webhooks import MemoryStore
from webhooks.store.outcomes import CONFLICT_EVENT, unpack_object
from webhooks.store.records import RETIRED, Outcome


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
