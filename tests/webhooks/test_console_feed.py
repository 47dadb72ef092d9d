"""The console's feed: made once for all viewers, at most ten times a second, and only while there is one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import Any

from rewards_core.errors import StoreError
from tests.texts import said
from tests.virtual_time import virtual_time
from tests.webhooks.console_kit import FakeWatched, batch, heard, parsed, row
from tests.webhooks.store_contract import event
from webhooks.console.commands import Commands
from webhooks.console.feed import MAX_VIEWERS, Feed
from webhooks.console.views import Views
from webhooks.delivery_watch import EVERYTHING, DeliveryFilter
from webhooks.store.memory import MemoryStore
from webhooks.store.urls import StoreUrl


class Broken(MemoryStore):
    """A store whose reads fail."""

    async def list_events(self, **_: Any) -> Any:
        raise StoreError("the disk is gone")

    async def statistics(self) -> Any:
        raise StoreError("the disk is gone")


def feed_of(watched: FakeWatched, store: MemoryStore | None = None) -> Feed:
    views = Views(store or MemoryStore(), watched, Commands(StoreUrl("memory:")), lambda: 1_760_000_000.0)
    return Feed(watched, views)


async def opened(feed: Feed, which: DeliveryFilter = EVERYTHING) -> AsyncGenerator[bytes, None]:
    """Return the frames of a new viewer, after the first."""
    frames = feed.frames(which)
    assert parsed(await anext(frames))[0] == "hello"
    return frames


@virtual_time
async def test_nothing_is_collected_without_a_viewer() -> None:
    watched = FakeWatched()
    feed = feed_of(watched)
    await asyncio.sleep(10)
    assert (watched.asked, watched.rested) == (0, 0)
    frames = await opened(feed)
    await asyncio.sleep(1)
    assert 9 <= watched.asked <= 11
    await frames.aclose()
    before = watched.asked
    await asyncio.sleep(10)
    assert (watched.asked, watched.rested) == (before, 1)
    again = await opened(feed)  # and it begins again
    await asyncio.sleep(1)
    assert watched.asked > before
    await again.aclose()
    await feed.aclose()


@virtual_time
async def test_deliveries_are_shown_within_a_tenth_of_a_second_and_no_more_often_than_that() -> None:
    watched, loop = FakeWatched(), asyncio.get_running_loop()
    feed = feed_of(watched)
    frames = await opened(feed)
    watched.coming = [batch(row(str(number))) for number in range(20)]
    began = loop.time()
    for number in range(20):
        data = await heard(frames, "deliveries")
        assert [one["uid"] for one in data["rows"]] == [str(number)]
        assert loop.time() - began <= 0.1 * (number + 1) + 0.001
    assert loop.time() - began >= 1.8
    await feed.aclose()
    await frames.aclose()


@virtual_time
async def test_eight_viewers_may_look_and_a_place_is_free_when_one_leaves() -> None:
    feed = feed_of(FakeWatched())
    viewers = [await opened(feed) for _ in range(MAX_VIEWERS)]
    refused = feed.frames(EVERYTHING)
    kind, told = parsed(await anext(refused))
    assert kind == "full"
    said("console: a ninth viewer", told["reason"])
    assert [frame async for frame in refused] == []
    await viewers.pop().aclose()
    viewers.append(await opened(feed))
    await feed.aclose()
    for frames in viewers:
        await frames.aclose()


@virtual_time
async def test_viewers_that_want_the_same_get_the_same_bytes() -> None:
    watched = FakeWatched()
    feed = feed_of(watched)
    one, other, third = await opened(feed), await opened(feed), await opened(feed, DeliveryFilter(uid="2"))
    watched.coming = [batch(row("1"), row("2"), row(None, "refused"))]

    async def next_of(frames: AsyncGenerator[bytes, None]) -> bytes:
        while parsed(frame := await anext(frames))[0] != "deliveries":
            pass
        return frame

    first = await next_of(one)
    assert await next_of(other) is first
    assert [row["uid"] for row in parsed(first)[1]["rows"]] == ["1", "2", None]
    _, data = parsed(await next_of(third))
    assert [row["uid"] for row in data["rows"]] == ["2"]
    assert data["counts"] == {"new": 2, "refused": 1}  # the figures are those of all
    await feed.aclose()
    for frames in (one, other, third):
        await frames.aclose()


@virtual_time
async def test_a_filter_finds_its_delivery_among_more_than_are_shown_and_strangers_leave_room() -> None:
    watched = FakeWatched()
    feed = feed_of(watched)
    everything, mine = await opened(feed), await opened(feed, DeliveryFilter(uid="7", event="reward.allocated", verdict="new"))
    many = [row(str(number)) for number in range(300)] + [row(None, "refused") for _ in range(100)]
    watched.coming = [batch(*many)]
    data = await heard(everything, "deliveries")
    assert [one["uid"] for one in data["rows"]] == [str(number) for number in range(250, 300)] + [None] * 10
    assert data["left_out"] == 340
    data = await heard(mine, "deliveries")
    assert ([one["uid"] for one in data["rows"]], data["left_out"]) == (["7"], 0)
    await feed.aclose()
    await everything.aclose()
    await mine.aclose()


@virtual_time
async def test_a_viewer_that_does_not_read_is_dropped_and_the_others_go_on() -> None:
    watched = FakeWatched()
    feed = feed_of(watched)
    slow, quick = await opened(feed), await opened(feed)
    watched.coming = [batch(row(str(number))) for number in range(80)]
    seen = [(await heard(quick, "deliveries"))["rows"][0]["uid"] for _ in range(80)]
    assert seen == [str(number) for number in range(80)]
    left = []
    async for frame in slow:
        left.append(parsed(frame)[0])
        assert left == ["status"]  # the rest is not kept for it
    others = [await opened(feed) for _ in range(MAX_VIEWERS - 1)]
    await feed.aclose()
    for frames in (quick, *others):
        await frames.aclose()


@virtual_time
async def test_a_store_that_fails_is_said_in_the_status_and_deliveries_go_on() -> None:
    watched = FakeWatched()
    feed = feed_of(watched, Broken())
    frames = feed.frames(EVERYTHING)
    assert parsed(await anext(frames))[1]["rows"] == []
    status = await heard(frames, "status")
    assert (status["ready"], status["store"]) == (True, None)
    said("console: a store that fails", "\n".join(status["reasons"]))
    watched.coming = [batch(row("1"))]
    assert (await heard(frames, "deliveries"))["counts"] == {"new": 1}
    await feed.aclose()
    await frames.aclose()


@virtual_time
async def test_deliveries_that_cannot_be_read_are_read_later() -> None:
    class Failing(FakeWatched):
        async def deliveries(self, filters: Any) -> Any:
            taken = await super().deliveries(filters)
            if self.asked < 5:
                raise StoreError("busy")
            return taken

    watched = Failing()
    watched.coming = [batch(row(str(number))) for number in range(6)]
    feed = feed_of(watched)
    frames = await opened(feed)
    assert (await heard(frames, "deliveries"))["rows"][0]["uid"] == "4"
    await feed.aclose()
    await frames.aclose()


@virtual_time
async def test_a_store_that_answers_slowly_is_asked_less_often() -> None:
    asked: list[float] = []

    class Slow(MemoryStore):
        async def statistics(self) -> Any:
            asked.append(asyncio.get_running_loop().time())
            await asyncio.sleep(0.5)
            return await super().statistics()

    feed = feed_of(FakeWatched(), Slow())
    frames = await opened(feed)
    for _ in range(3):
        await heard(frames, "status")
    assert [int(later - earlier) for earlier, later in pairwise(asked)] == [50, 50]
    await feed.aclose()
    await frames.aclose()


@virtual_time
async def test_a_new_viewer_gets_what_is_known_at_once() -> None:
    store = MemoryStore(clock=lambda: 1_760_000_000.0)
    await store.accept(event("first"))
    feed = feed_of(FakeWatched(), store)
    frames = feed.frames(EVERYTHING)
    _, data = parsed(await anext(frames))
    assert [(one["verdict"], one["event"], one["at"]) for one in data["rows"]] == [
        ("refused", "", 2.0),
        ("new", "reward.allocated", 1_760_000_000.0),
    ]
    await heard(frames, "status")
    later = feed.frames(EVERYTHING)
    began = asyncio.get_running_loop().time()
    assert [parsed(await anext(later))[0] for _ in range(2)] == ["hello", "status"]
    assert asyncio.get_running_loop().time() == began
    await feed.aclose()
    for each in (frames, later):
        await each.aclose()


@virtual_time
async def test_a_closed_feed_ends_every_viewer_and_takes_no_other() -> None:
    feed = feed_of(FakeWatched())
    frames = await opened(feed)
    await feed.aclose()
    await feed.aclose()
    assert [parsed(frame)[0] for frame in [frame async for frame in frames]] == []
    assert parsed(await anext(feed.frames(EVERYTHING)))[0] == "full"


@virtual_time
async def test_a_fault_in_what_is_watched_ends_no_viewer() -> None:
    class Faulty(FakeWatched):
        async def deliveries(self, filters: Any) -> Any:
            taken = await super().deliveries(filters)
            if self.asked == 2:
                raise RuntimeError("a bug")
            return taken

    watched = Faulty()
    feed = feed_of(watched)
    frames = await opened(feed)
    await asyncio.sleep(1)
    watched.coming = [batch(row("9"))]
    assert (await heard(frames, "deliveries"))["rows"][0]["uid"] == "9"
    await feed.aclose()
    await frames.aclose()


@virtual_time
async def test_a_quiet_feed_is_kept_alive_while_the_store_takes_long() -> None:
    class Hanging(MemoryStore):
        async def statistics(self) -> Any:
            await asyncio.sleep(1_000)
            return await super().statistics()

    feed = feed_of(FakeWatched(), Hanging())
    frames = await opened(feed)
    loop = asyncio.get_running_loop()
    moments = [(loop.time(), await anext(frames)) for _ in range(3)]
    assert {frame for _, frame in moments} == {b":\n\n"}
    assert loop.time() <= 15.1
    await feed.aclose()
    await frames.aclose()


@virtual_time
async def test_a_worker_that_hangs_does_not_put_off_the_next_status() -> None:
    class Hung(FakeWatched):
        async def readiness(self) -> Any:
            await asyncio.sleep(2)
            return await super().readiness()

    feed = feed_of(Hung())
    frames = await opened(feed)
    loop = asyncio.get_running_loop()
    await heard(frames, "status")
    began = loop.time()
    await heard(frames, "status")
    assert loop.time() - began <= 4.1
    await feed.aclose()
    await frames.aclose()
