"""`webhook-listener tail`: each event once, as it comes to light."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from tests.texts import said
from tests.webhooks.command_kit import STRANGE, beside, fill, lines, neighbour, run, screen
from tests.webhooks.listener_process import environment
from tests.webhooks.store_contract import EPOCH, claim, event, ref, wants
from webhooks.store import paging
from webhooks.store.paging import EventFilter, EventFollower
from webhooks.store.records import EventState, StoredEvent
from webhooks.store.sqlite import SQLiteStore


async def three(store: SQLiteStore) -> None:
    for number in range(3):
        await store.accept(event(str(number)))


@pytest.mark.slow
def test_it_shows_the_last_events_and_those_that_another_process_accepts(folder: Path) -> None:
    fill(folder, three)

    async def work() -> Result:
        async with neighbour(folder) as other:
            await other.do("accept")
            result = await beside("tail", "--last", "2", "--count", "130")
            assert (await other.do("stop"))["refused"] == 0
            return result

    ids = [row["id"] for row in lines(asyncio.run(work()))]
    assert ids == list(range(ids[0], ids[0] + 130))
    assert ids[0] >= 2


@pytest.mark.slow
def test_it_may_begin_with_nothing(folder: Path) -> None:
    fill(folder, three)

    async def work() -> Result:
        async with neighbour(folder) as other:
            await other.do("accept")
            return await beside("tail", "--last", "0", "--count", "1")

    (row,) = lines(asyncio.run(work()))
    assert row["id"] > 3


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--uid", "7")], ids=["no event", "none that fits"])
async def test_a_person_is_told_what_an_empty_screen_waits_for(folder: Path, options: tuple[str, ...]) -> None:
    store = SQLiteStore(folder / "inbox.db")
    await (three(store) if options else store.ping())
    await store.aclose()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "webhooks", "tail", "--text", *options),
        cwd=folder,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    line = await process.stdout.readline()
    process.terminate()
    await process.wait()
    said("tail: no event yet", line.decode())


def test_a_person_sees_one_clean_line_for_each(folder: Path) -> None:
    fill(folder, lambda store: store.accept(event("1", name=STRANGE, of=ref("11"), problem="Unread.")), clock=lambda: EPOCH)
    said("tail", "\n".join(screen("tail", "--count", "1")))


@pytest.mark.slow
def test_it_ends_when_its_reader_does_though_nothing_comes(folder: Path) -> None:
    fill(folder, three)
    reading, writing = os.pipe()
    process = subprocess.Popen([sys.executable, "-m", "webhooks", "tail"], cwd=folder, env=environment(), stdout=writing)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as shown:
        assert [json.loads(shown.readline())["id"] for _ in range(3)] == [1, 2, 3]
    try:
        assert process.wait() == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("words", [["--last", "-1"], ["--count", "0"], ["--last", "x"]])
def test_a_number_that_cannot_be_is_exit_code_2(folder: Path, words: list[str]) -> None:
    fill(folder, three)
    assert run("tail", *words).exit_code == 2


# which events are new


class Ids:
    """A store of events of which only the ids matter; some come to light later than higher ones."""

    def __init__(self, *ids: int) -> None:
        self.ids = set(ids)
        self.longest = 0

    async def list_events(self, *, before_id: int | None = None, limit: int = 100, **_: Any) -> Sequence[StoredEvent]:
        self.longest = max(self.longest, limit)
        found = sorted((one for one in self.ids if before_id is None or one < before_id), reverse=True)[:limit]
        return [StoredEvent(id=one, event=event(str(one)), state=EventState.DONE, received_at=EPOCH) for one in found]


async def begun(ids: Ids, last: int = 10) -> tuple[EventFollower, list[int]]:
    follower = EventFollower(ids, EventFilter())  # type: ignore[arg-type]
    return follower, [stored.id for stored in await follower.start(last)]


async def unseen(follower: EventFollower) -> list[int]:
    return [stored.id for stored in await follower.new_events()]


async def test_an_id_that_comes_to_light_after_a_higher_one_is_shown_once() -> None:
    ids = Ids(1, 2, 4, 7)
    follower, shown = await begun(ids, last=2)
    assert shown == [4, 7]
    ids.ids |= {3, 6, 9}
    assert await unseen(follower) == [3, 6, 9]
    ids.ids |= {5, 8}
    assert await unseen(follower) == [5, 8]
    assert await unseen(follower) == []


async def test_more_events_than_a_page_between_two_looks_are_all_shown_in_order() -> None:
    ids = Ids(*range(1, 151))
    follower, shown = await begun(ids)
    assert shown == list(range(141, 151))
    ids.ids |= set(range(151, 900))
    assert await unseen(follower) == list(range(151, 900))
    ids.ids |= set(range(900, 5_000))
    assert await unseen(follower) == list(range(900, 5_000))
    assert await unseen(follower) == []
    assert ids.longest == 100


@pytest.mark.slow
async def test_a_long_tail_remembers_only_the_last_events() -> None:
    ids = Ids(0)
    tracemalloc.start()
    try:
        follower, _ = await begun(ids)
        for first in range(1, 40_001, 1_000):
            ids.ids = set(range(max(0, first - 500), first + 1_000))
            assert await unseen(follower) == list(range(first, first + 1_000))
        remembered = tracemalloc.take_snapshot().filter_traces(
            [tracemalloc.Filter(inclusive=True, filename_pattern=paging.__file__)]
        )
    finally:
        tracemalloc.stop()
    assert sum(each.size for each in remembered.statistics("filename")) < 600_000


async def test_old_events_do_not_look_new_when_those_above_them_are_purged() -> None:
    ids = Ids(*range(1, 501))
    follower, _ = await begun(ids)
    ids.ids -= set(range(420, 501))
    assert await unseen(follower) == []
    ids.ids |= set(range(501, 4_000))
    assert len(await unseen(follower)) == 3_499
    ids.ids -= set(range(2_500, 4_000))
    assert await unseen(follower) == []
    ids.ids.clear()
    assert await unseen(follower) == []
    ids.ids.add(4_000)
    assert await unseen(follower) == [4_000]


async def test_the_first_events_of_a_store_are_new() -> None:
    ids = Ids()
    follower, shown = await begun(ids)
    assert shown == []
    ids.ids |= {1, 2}
    assert await unseen(follower) == [1, 2]


async def test_more_events_than_a_page_may_come_before() -> None:
    ids = Ids(*range(1, 1_501))
    follower, shown = await begun(ids, last=1_200)
    assert shown == list(range(301, 1_501))
    assert await unseen(follower) == []
    assert ids.longest == 500


def test_an_event_that_is_purged_meanwhile_disturbs_nothing(folder: Path) -> None:
    async def work(store: SQLiteStore) -> None:
        await asyncio.gather(*(store.accept(event(f"old {number}")) for number in range(150)))
        follower, _ = await begun(store)  # type: ignore[arg-type]
        await store.accept(event("new"))
        await store.purge(0)
        await store.accept(event("newer"))
        assert await unseen(follower) == [152]

    fill(folder, work)


# filters


async def several(store: SQLiteStore) -> None:
    await store.accept(event("1", of=ref("7"), also=(ref("8"),)))
    await store.accept(event("2", name="reward.claimed", of=ref("8", kind="claim")))
    await store.accept(event("3", of=ref("9", scope="shop")))
    await store.accept(event("4", problem="Unread."))


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--event", "reward.allocated"], [1, 3, 4]),
        (["--uid", "8"], [1, 2]),
        (["--state", "dead"], [4]),
        (["--scope", "shop"], [3]),
        (["--uid", "8", "--event", "reward.claimed"], [2]),
    ],
)
def test_tail_begins_with_the_events_that_fit(folder: Path, options: list[str], ids: list[int]) -> None:
    fill(folder, several)
    assert [row["id"] for row in lines(run("tail", *options, "--count", str(len(ids))))] == ids


@pytest.mark.parametrize(
    ("which", "ids"),
    [
        (EventFilter(event="reward.claimed"), [6]),
        (EventFilter(uid="8"), [5, 6]),
        (EventFilter(state=EventState.DEAD), [8]),
        (EventFilter(scope="shop"), [7]),
    ],
)
async def test_tail_goes_on_with_the_events_that_fit(folder: Path, which: EventFilter, ids: list[int]) -> None:
    store = SQLiteStore(folder / "inbox.db")
    await several(store)
    follower = EventFollower(store, which)
    assert await follower.start(0) == []
    await store.accept(event("5", of=ref("7"), also=(ref("8"),)))
    await store.accept(event("6", name="reward.claimed", of=ref("8", kind="claim")))
    await store.accept(event("7", of=ref("9", scope="shop")))
    await store.accept(event("8", problem="Unread."))
    assert [stored.id for stored in await follower.new_events()] == ids
    assert await follower.new_events() == []
    await store.aclose()


async def test_tail_shows_an_event_once_its_handlers_are_in_the_state_asked_for(folder: Path) -> None:
    store = SQLiteStore(folder / "inbox.db")
    await store.register_handlers([wants()])
    await store.accept(event("1"))
    follower = EventFollower(store, EventFilter(state=EventState.DEAD))
    assert await follower.start(10) == []
    (claimed,) = await claim(store)
    await store.fail_job(claimed.job, reason="no", retry_in=None)
    assert [stored.id for stored in await follower.new_events()] == [1]
    await store.aclose()


async def test_an_event_that_comes_between_the_two_looks_of_a_filtered_tail_is_shown_once(folder: Path) -> None:
    class Busy(SQLiteStore):
        """A store into which an event comes after each listing."""

        async def list_events(self, **conditions: Any) -> Sequence[StoredEvent]:
            found = await super().list_events(**conditions)
            await self.accept(event(f"late {len(arrived)}"))
            arrived.append(len(arrived) + 5)
            return found

    arrived: list[int] = []
    store = Busy(folder / "inbox.db")
    await several(store)
    follower = EventFollower(store, EventFilter(event="reward.allocated"))
    shown = [stored.id for stored in await follower.start(10)]
    shown += [stored.id for stored in await follower.new_events()]
    shown += [stored.id for stored in await follower.new_events()]
    assert shown == [1, 3, 4, *arrived[:-1]]
    await store.aclose()
