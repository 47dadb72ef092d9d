"""The ledger forgets nothing it has acknowledged, moves rows only along their ways, and belongs to one process at a time."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio
from attrs import evolve

from payouts.keys import derive_key
from payouts.ledger.lock import LedgerLock
from payouts.ledger.reader import LedgerReader
from payouts.ledger.schema import LEDGER, connect_to_read, connect_to_write
from payouts.ledger.sqlite import Ledger
from payouts.rows import Row
from payouts.states import (
    AuditNeeded,
    CampaignUnclear,
    Entry,
    KeyTaken,
    LedgerError,
    LedgerInUse,
    RowChanged,
    State,
    WrongWay,
    by_hand_only,
    ways_of,
)
from payouts.vendors import ROW_TYPES, EnkashRow, OriginalRow
from rewards_core.sqlite.connection import Connection, SQLiteError, connect
from tests.payouts.payout_kit import LAYOUT_2
from tests.virtual_time import virtual_time

T = TypeVar("T")

PATHS = {
    "original": {
        State.PLANNED: [],
        State.SENT: [State.SENT],
        State.ACCEPTED: [State.SENT, State.ACCEPTED],
        State.DONE: [State.SENT, State.ACCEPTED, State.DONE],
        State.FAILED: [State.SENT, State.ACCEPTED, State.FAILED],
        State.MISMATCH: [State.SENT, State.MISMATCH],
        State.REJECTED: [State.SENT, State.REJECTED],
        State.UNKNOWN: [State.SENT, State.UNKNOWN],
    },
    "enkash": {
        State.PLANNED: [],
        State.SENT: [State.SENT],
        State.DONE: [State.SENT, State.DONE],
        State.REJECTED: [State.SENT, State.REJECTED],
        State.UNKNOWN: [State.SENT, State.UNKNOWN],
    },
}
EXPECTED_WAYS = {
    ("original", "planned"): {"sent"},
    ("original", "sent"): {"planned", "accepted", "mismatch", "rejected", "unknown"},
    ("original", "accepted"): {"done", "failed", "mismatch", "unknown"},
    ("original", "unknown"): {"unknown", "accepted", "mismatch", "done", "rejected"},
    ("original", "rejected"): {"planned", "unknown", "done"},
    ("original", "failed"): {"planned"},
    ("enkash", "planned"): {"sent"},
    ("enkash", "sent"): {"planned", "done", "rejected", "unknown"},
    ("enkash", "unknown"): {"unknown", "done", "rejected"},
    ("enkash", "rejected"): {"planned", "done"},
}
BY_HAND_ONLY = {("unknown", "rejected"), ("rejected", "unknown"), ("rejected", "done")}


def tokens(row_id: str = "r1", **changed: Any) -> OriginalRow:
    values: dict[str, Any] = {"id": row_id, "reward_uid": "21", "to_user_uid": "32", "amount": "1.50", "line": 2}
    return OriginalRow(**values | changed)


def coins(row_id: str = "r1", **changed: Any) -> EnkashRow:
    return EnkashRow(**{"id": row_id, "user_id": "EKQZVMQK", "event": "REFERRAL_EVENT"} | changed)


def opened(path: Path, **changed: Any) -> Ledger:
    options: dict[str, Any] = {"vendor": "original", "campaign": "diwali-2026", "clock": lambda: 1000.0}
    return Ledger(path, **options | changed)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "payouts.db"


@pytest_asyncio.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    async with opened(path) as ledger:
        yield ledger


async def read(path: Path, what: Callable[[LedgerReader], T]) -> T:
    """Look into a ledger as another process would, off the loop."""

    def look() -> T:
        with LedgerReader(path) as reader:
            return what(reader)

    return await asyncio.to_thread(look)


@asynccontextmanager
async def writer_held(ledger: Ledger) -> AsyncIterator[None]:
    """Keep the ledger's writer busy, so that what is asked for meanwhile waits together."""
    entered, go = threading.Event(), threading.Event()

    def hold(_: Connection) -> None:
        entered.set()
        go.wait()

    held = asyncio.ensure_future(ledger._writer.run(hold))
    await asyncio.to_thread(entered.wait)
    yield
    await asyncio.sleep(0)
    go.set()
    await held


async def led_to(ledger: Ledger, state: State, row: Row) -> Entry:
    (entry,) = await ledger.plan([row])
    for step in PATHS[ledger.vendor][state]:
        entry = await ledger.move(entry, step)
    return entry


async def test_a_new_row_is_planned_with_the_key_that_follows_from_its_id(ledger: Ledger) -> None:
    (entry,) = await ledger.plan([tokens()])
    assert entry == await ledger.find("r1")
    assert (entry.state, entry.amount, entry.line) == (State.PLANNED, "1.50", 2)
    assert entry.key == derive_key("original", "diwali-2026", "r1")


async def test_the_key_follows_from_the_id_and_not_from_the_line(ledger: Ledger) -> None:
    before = await ledger.plan([tokens("a", line=2), tokens("b", line=3)])
    assert await ledger.plan([tokens("new", line=2), tokens("a", line=3), tokens("b", line=4)])
    assert [(await ledger.find(entry.id)) for entry in before] == before


async def test_a_key_that_the_file_brings_is_taken_as_it_is(ledger: Ledger) -> None:
    (entry,) = await ledger.plan([tokens(nonce="order-17:a")])
    assert entry.key == "order-17:a"


async def test_what_a_step_told_is_kept(path: Path) -> None:
    now = iter(range(1, 100))
    async with opened(path, clock=lambda: float(next(now))) as ledger:
        (entry,) = await ledger.plan([tokens()])
        entry = await ledger.move(entry, State.SENT)
        entry = await ledger.move(entry, State.ACCEPTED, uid="324167489835")
        entry = await ledger.move(entry, State.FAILED, settled_by="poll", problem=ValueError("the chain said failed"))
        assert entry == await ledger.find("r1")
    assert (entry.planned_at, entry.sent_at, entry.accepted_at, entry.settled_at) == (2, 3, 4, 5)
    assert (entry.uid, entry.settled_by, entry.problem_kind, entry.problem) == (
        "324167489835",
        "poll",
        "ValueError",
        "the chain said failed",
    )


async def test_a_row_that_never_left_is_planned_again_and_one_sent_twice_was_sent_when_it_was_sent_first(path: Path) -> None:
    now = iter(range(1, 100))
    async with opened(path, clock=lambda: float(next(now))) as ledger:
        entry = await led_to(ledger, State.SENT, tokens())
        entry = await ledger.move(entry, State.PLANNED, problem="not reached")
        assert (entry.sent_at, entry.problem) == (None, "not reached")
        entry = await ledger.move(entry, State.SENT)
        first = entry.sent_at
        entry = await ledger.move(await ledger.move(entry, State.UNKNOWN), State.ACCEPTED)
        assert (entry.sent_at, entry.settled_at, entry.problem) == (first, None, None)
        assert entry == await ledger.find("r1")


@pytest.mark.parametrize("vendor", ["original", "enkash"])
async def test_there_is_no_way_but_the_documented_ones(path: Path, vendor: str) -> None:
    async with opened(path, vendor=vendor) as ledger:
        for state in PATHS[vendor]:
            for to in State:
                entry = await led_to(ledger, state, (tokens if vendor == "original" else coins)(f"{state}-{to}"))
                if (state.value, to.value) in BY_HAND_ONLY and to in EXPECTED_WAYS.get((vendor, state.value), ()):
                    with pytest.raises(WrongWay):
                        await ledger.move(entry, to, problem="by machine")
                    assert (await ledger.move(entry, to, settled_by="hand", note="seen")).state is to
                elif to in EXPECTED_WAYS.get((vendor, state.value), ()):
                    assert (await ledger.move(entry, to)).state is to
                else:
                    with pytest.raises(WrongWay) as refused:
                        await ledger.move(entry, to)
                    assert (refused.value.row_id, refused.value.state, refused.value.to) == (entry.id, state, to)
                    assert await ledger.find(entry.id) == entry


def test_the_documented_ways_are_all_there_are() -> None:
    ways = {
        (vendor, state.value): set(following)
        for vendor, row in ROW_TYPES.items()
        for state, following in ways_of(has_lookup=row.has_lookup).items()
    }
    assert {place: following for place, following in ways.items() if following} == EXPECTED_WAYS


async def test_a_stale_entry_moves_nothing(ledger: Ledger) -> None:
    (stale,) = await ledger.plan([tokens()])
    await ledger.move(stale, State.SENT)
    with pytest.raises(WrongWay):
        await ledger.move(stale, State.SENT)


async def test_a_known_row_comes_back_as_it_stands(ledger: Ledger) -> None:
    done = await led_to(ledger, State.DONE, tokens())
    assert await ledger.plan([tokens(line=9), tokens(amount="1.5")]) == [done, done]


@pytest.mark.parametrize(
    "changed",
    [{"amount": "1.51"}, {"to_user_uid": "33"}, {"reward_uid": "22"}, {"nonce": "another"}],
)
async def test_a_known_row_with_other_content_is_refused_and_both_are_shown(ledger: Ledger, changed: dict[str, Any]) -> None:
    await led_to(ledger, State.DONE, tokens())
    with pytest.raises(RowChanged) as refused:
        await ledger.plan([tokens("new"), tokens(**changed)])
    key = derive_key("original", "diwali-2026", "r1")
    assert refused.value.known.content == f"1.50 of 21 to 32 under the key {key}"
    assert next(iter(changed.values())) in refused.value.given
    assert refused.value.known.content in str(refused.value)
    assert refused.value.given in str(refused.value)
    assert await ledger.find("new") is None


async def test_another_amount_of_coins_cannot_be_but_another_event_is_refused(path: Path) -> None:
    async with opened(path, vendor="enkash") as ledger:
        await ledger.plan([coins()])
        with pytest.raises(RowChanged):
            await ledger.plan([coins(event="OTHER_EVENT")])


async def test_two_rows_never_share_a_key(ledger: Ledger) -> None:
    await ledger.plan([tokens("a", nonce="n1")])
    with pytest.raises(KeyTaken) as refused:
        await ledger.plan([tokens("b"), tokens("c", nonce="n1")])
    assert (refused.value.key, refused.value.row_id, refused.value.owner) == ("n1", "c", "a")
    assert refused.value.campaign == "diwali-2026"
    assert await ledger.find("b") is None


async def test_campaigns_share_a_file_and_nothing_else(path: Path) -> None:
    keys = set()
    for vendor, campaign in [("original", "a"), ("original", "b"), ("enkash", "a")]:
        async with opened(path, vendor=vendor, campaign=campaign) as ledger:
            (entry,) = await ledger.plan([tokens() if vendor == "original" else coins()])
            await ledger.move(entry, State.SENT)
            assert await ledger.counts() == {State.SENT: 1}
            keys.add(entry.key)
    assert len(keys) == 3


async def test_both_vendors_may_know_the_same_key(path: Path) -> None:
    async with opened(path) as ledger:
        await ledger.plan([tokens(nonce="order-17")])
    async with opened(path, vendor="enkash") as ledger:
        assert (await ledger.plan([coins(request_id="order-17")]))[0].key == "order-17"


async def test_a_campaign_stays_where_it_was_begun(path: Path) -> None:
    async with opened(path, target="https://api-dev.getoriginal.com/v1"):
        pass
    async with opened(path):
        pass
    with pytest.raises(LedgerError, match=r"https://api-dev.getoriginal.com/v1"):
        await opened(path, target="https://api.getoriginal.com/v1").__aenter__()
    async with opened(path, campaign="another", target="https://api.getoriginal.com/v1"):
        pass


async def test_a_closing_slash_makes_no_other_place(path: Path) -> None:
    for target in ("https://api.example/v1/", "https://api.example/v1", "https://api.example/v1/"):
        async with opened(path, target=target):
            pass


@pytest.mark.parametrize("state", [State.REJECTED, State.FAILED])
async def test_a_retry_plans_the_row_with_a_new_key_linked_to_the_old(ledger: Ledger, path: Path, state: State) -> None:
    ended = await led_to(ledger, state, tokens())
    renewed = await ledger.renew_key(ended)
    assert (renewed.state, renewed.retries, renewed.uid, renewed.sent_at) == (State.PLANNED, 1, None, None)
    assert renewed.key == derive_key("original", "diwali-2026", "r1", retry=1)
    (retired,) = await read(path, lambda reader: list(reader.retired_keys(reader.campaign())))
    assert (retired.row_id, retired.retry, retired.state) == ("r1", 0, state)
    assert (retired.key, retired.replaced_by) == (ended.key, renewed.key)
    assert await ledger.plan([tokens()]) == [renewed]
    with pytest.raises(RowChanged):
        await ledger.plan([tokens(nonce="another")])


async def test_a_retried_row_is_known_by_the_key_its_file_brings_and_nobody_else_may_bring_it(ledger: Ledger) -> None:
    entry = await led_to(ledger, State.REJECTED, tokens(nonce="n1"))
    renewed = await ledger.renew_key(entry)
    assert await ledger.plan([tokens(nonce="n1")]) == [renewed]
    with pytest.raises(KeyTaken) as refused:
        await ledger.plan([tokens("r2", nonce="n1")])
    assert refused.value.owner == "r1"
    assert await ledger.plan([tokens(nonce=renewed.key)]) == [renewed]  # as results.csv says it


@pytest.mark.parametrize("state", [State.PLANNED, State.SENT, State.ACCEPTED, State.DONE, State.MISMATCH, State.UNKNOWN])
async def test_no_other_state_gets_a_new_key(ledger: Ledger, state: State) -> None:
    entry = await led_to(ledger, state, tokens())
    with pytest.raises(WrongWay):
        await ledger.renew_key(entry)


async def test_a_row_is_renewed_once_however_many_saw_it_rejected(ledger: Ledger) -> None:
    entry = await led_to(ledger, State.REJECTED, tokens())
    await ledger.renew_key(entry)
    with pytest.raises(WrongWay):
        await ledger.renew_key(entry)


async def test_a_row_settled_by_hand_keeps_the_error_and_the_note(ledger: Ledger) -> None:
    entry = await led_to(ledger, State.SENT, tokens())
    entry = await ledger.move(entry, State.UNKNOWN, problem=TimeoutError("no answer"))
    entry = await ledger.move(entry, State.DONE, settled_by="hand", note="seen in the console")
    assert (entry.problem_kind, entry.problem) == ("TimeoutError", "no answer")
    assert (entry.note, entry.settled_by) == ("seen in the console", "hand")
    assert entry == await ledger.find("r1")


async def test_rows_are_read_in_pages(ledger: Ledger) -> None:
    await ledger.plan([tokens(f"r{number}") for number in range(5)])
    first = await ledger.entries([State.PLANNED], limit=3)
    rest = await ledger.entries([State.PLANNED, State.SENT], after=first[-1].number)
    assert [entry.id for entry in first + rest] == ["r0", "r1", "r2", "r3", "r4"]
    assert await ledger.entries([State.SENT]) == []


async def test_another_process_reads_while_this_one_writes_and_can_change_nothing(ledger: Ledger, path: Path) -> None:
    entry = await led_to(ledger, State.SENT, tokens())

    def all_in(states: list[State]) -> Callable[[LedgerReader], list[Entry]]:
        return lambda reader: list(reader.entries(reader.campaign("diwali-2026", "original"), states))

    assert await read(path, all_in(list(State))) == [entry]
    assert await read(path, all_in([State.DONE])) == []
    assert await read(path, lambda reader: reader.find(reader.campaign(), "r2")) is None
    accepted = await ledger.move(entry, State.ACCEPTED, uid="1")
    assert await read(path, lambda reader: reader.find(reader.campaign(), "r1")) == accepted

    def write() -> None:
        with closing(connect_to_read(path)) as connection:
            connection.execute("DELETE FROM rows")

    with pytest.raises(SQLiteError, match="readonly"):
        await asyncio.to_thread(write)


async def test_a_reader_asks_which_campaign_where_there_are_several(path: Path) -> None:
    for campaign in "ab":
        async with opened(path, campaign=campaign):
            pass
    assert (await read(path, lambda reader: reader.campaign("b"))).name == "b"
    with pytest.raises(CampaignUnclear, match=r"a \(original\), b \(original\)"):
        await read(path, lambda reader: reader.campaign())
    with pytest.raises(CampaignUnclear, match="no campaign c"):
        await read(path, lambda reader: reader.campaign("c"))


async def test_everything_that_waits_at_one_moment_is_committed_at_once(ledger: Ledger) -> None:
    entries = await ledger.plan([tokens(f"r{number}") for number in range(200)])
    before = ledger.commits
    async with writer_held(ledger):
        moving = [asyncio.ensure_future(ledger.move(entry, State.SENT)) for entry in entries]
    await asyncio.gather(*moving)
    assert ledger.commits - before == 2


async def test_a_refused_step_does_not_touch_the_others_of_its_group(ledger: Ledger) -> None:
    first, second = await ledger.plan([tokens("a"), tokens("b")])
    stale = await ledger.move(first, State.SENT)
    steps = [ledger.move(second, State.SENT), ledger.move(first, State.SENT), ledger.move(stale, State.ACCEPTED)]
    results = await asyncio.gather(*steps, return_exceptions=True)
    assert isinstance(results[1], WrongWay)
    assert await ledger.counts() == {State.SENT: 1, State.ACCEPTED: 1}


async def test_rows_that_move_together_all_move_or_none(ledger: Ledger) -> None:
    first, second, third = await ledger.plan([tokens("a"), tokens("b"), tokens("c")])
    await ledger.move(third, State.SENT)
    with pytest.raises(WrongWay, match="Row c"):
        await ledger.move_all([(first, State.SENT, {}), (second, State.SENT, {}), (third, State.SENT, {})])
    assert [await ledger.find("a"), await ledger.find("b")] == [first, second]
    moved = await ledger.move_all([(first, State.SENT, {}), (second, State.SENT, {})])
    assert [await ledger.find("a"), await ledger.find("b")] == moved


async def test_a_row_cannot_move_twice_at_once(ledger: Ledger) -> None:
    first, second = await ledger.plan([tokens("a"), tokens("b")])
    with pytest.raises(WrongWay, match="Row a"):
        await ledger.move_all([(first, State.SENT, {}), (second, State.SENT, {}), (first, State.SENT, {})])
    assert await ledger.counts() == {State.PLANNED: 2}


async def test_two_rows_of_one_chunk_cannot_bring_one_key(ledger: Ledger) -> None:
    with pytest.raises(KeyTaken) as refused:
        await ledger.plan([tokens("a", nonce="n1"), tokens("b", nonce="n2"), tokens("c", nonce="n1")])
    assert (refused.value.row_id, refused.value.owner) == ("c", "a")
    assert await ledger.counts() == {}


async def test_many_rows_are_taken_up_together_or_not_at_all(ledger: Ledger) -> None:
    await ledger.plan([tokens("owner", nonce="n1")])
    with pytest.raises(KeyTaken, match="Row last"):
        await ledger.plan([*(tokens(f"r{number}") for number in range(1300)), tokens("last", nonce="n1")])
    assert await ledger.counts() == {State.PLANNED: 1}


async def test_many_rows_are_planned_and_moved_in_one_go(ledger: Ledger) -> None:
    rows = [tokens(f"r{number}") for number in range(1300)]
    moved = await ledger.move_all([(entry, State.SENT, {}) for entry in await ledger.plan(rows)])
    assert await ledger.plan(rows) == moved


async def test_new_rows_are_stored_as_sent_until_there_are_enough(ledger: Ledger) -> None:
    first, third = await ledger.plan([tokens("r0"), tokens("r2")])
    stored = await ledger.plan_sent([tokens(f"r{number}") for number in range(6)], 2)
    assert [(entry.id, entry.state) for entry in stored] == [
        ("r0", State.PLANNED),
        ("r1", State.SENT),
        ("r2", State.PLANNED),
        ("r3", State.SENT),
    ]
    assert (stored[0], stored[2]) == (first, third)
    assert [await ledger.find(entry.id) for entry in stored] == stored
    assert stored[1].sent_at == 1000.0
    assert await ledger.counts() == {State.PLANNED: 2, State.SENT: 2}
    assert await ledger.plan_sent([tokens("r0"), tokens("r1")], 2) == stored[:2]


async def test_rows_are_stored_as_sent_all_together_or_not_at_all(ledger: Ledger) -> None:
    await ledger.plan([tokens("a", nonce="n1")])
    with pytest.raises(KeyTaken, match="Row c"):
        await ledger.plan_sent([tokens("a", nonce="n1"), tokens("b"), tokens("c", nonce="n1")], 2)
    assert await ledger.counts() == {State.PLANNED: 1}


async def test_trouble_and_plain_sailing_may_move_together(ledger: Ledger) -> None:
    first, second = await ledger.plan([tokens("a"), tokens("b")])
    first = await ledger.move(await ledger.move(first, State.SENT), State.PLANNED, problem="not reached")
    moved = await ledger.move_all([(second, State.SENT, {}), (first, State.SENT, {})])
    assert [entry.problem for entry in moved] == [None, None]
    assert [await ledger.find("b"), await ledger.find("a")] == moved
    ended = await ledger.move_all([(moved[0], State.ACCEPTED, {"uid": "1"}), (moved[1], State.REJECTED, {"problem": "no"})])
    assert [await ledger.find("b"), await ledger.find("a")] == ended


@pytest.mark.parametrize(
    "facts", [{}, {"uid": "9", "settled_by": "lookup"}, {"problem": "said no"}], ids=["plain", "found", "refused"]
)
@pytest.mark.parametrize(("vendor", "state"), EXPECTED_WAYS)
async def test_what_a_move_returns_is_what_the_ledger_holds(path: Path, vendor: str, state: str, facts: Any) -> None:
    async with opened(path, vendor=vendor) as ledger:
        for number, to in enumerate(sorted(EXPECTED_WAYS[vendor, state])):
            (entry,) = await ledger.plan([(tokens if vendor == "original" else coins)(f"r{number}")])
            for step in PATHS[vendor][State(state)]:
                entry = await ledger.move(entry, step, **({"uid": "1"} if step is State.ACCEPTED else {}))
            if not by_hand_only(State(state), State(to)) and to not in {"planned", "sent"}:
                moved = await ledger.move(entry, State(to), **facts)
                assert await ledger.find(entry.id) == moved


@virtual_time
async def test_moves_of_half_the_rows_that_can_move_go_at_once_also_as_one_call(path: Path) -> None:
    async with opened(path) as ledger:
        entries = await ledger.plan([tokens(f"r{number}") for number in range(20)])
        async with ledger.one_run(rows_at_once=40):
            begun = asyncio.get_running_loop().time()
            await ledger.move_each([(entry, State.SENT, {}) for entry in entries])
            assert asyncio.get_running_loop().time() == begun


@virtual_time
async def test_rows_stored_as_sent_share_the_commit_of_moves_of_about_the_same_time(path: Path) -> None:
    async with opened(path) as ledger, ledger.one_run(rows_at_once=40):
        (planned,) = await ledger.plan([tokens("a")])
        commits = ledger.commits
        storing = asyncio.ensure_future(ledger.plan_sent([tokens("b")], 1))
        for _ in range(5):
            await asyncio.sleep(0)
        await ledger.move(planned, State.SENT)
        assert (storing.done(), ledger.commits) == (True, commits + 1)


async def test_a_cancelled_caller_leaves_the_ledger_whole(ledger: Ledger) -> None:
    (entry,) = await ledger.plan([tokens()])
    async with writer_held(ledger):
        moving = asyncio.ensure_future(ledger.move(entry, State.SENT))
        await asyncio.sleep(0)
        moving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await moving
    assert await ledger.counts() == {State.SENT: 1}


async def test_a_full_disk_ends_the_work_and_loses_nothing_that_was_acknowledged(path: Path) -> None:
    async with opened(path) as ledger:
        kept = await ledger.plan([tokens("kept")])
        pages = await ledger._writer.run(lambda database: database.execute("PRAGMA page_count").get)
        await ledger._writer.run(lambda database: database.execute(f"PRAGMA max_page_count = {pages}").fetchall())
        with pytest.raises(LedgerError, match="database or disk is full"):
            await ledger.plan([tokens(f"r{number}") for number in range(1000)])
        with pytest.raises(LedgerError, match="cannot be written"):
            await ledger.find("kept")
    async with opened(path) as ledger:
        assert await ledger.find("kept") == kept[0]
        assert await ledger.counts() == {State.PLANNED: 1}


async def test_what_waits_when_the_disk_is_full_hears_of_it_too(path: Path) -> None:
    async with opened(path) as ledger:

        def broken(database: Connection) -> None:
            raise SQLiteError("disk I/O error")

        results = await asyncio.gather(ledger.find("a"), ledger._writer.run(broken), ledger.find("b"), return_exceptions=True)
        assert all(isinstance(result, LedgerError) for result in results[1:])


async def test_a_closed_ledger_says_so_and_closes_twice(path: Path) -> None:
    ledger = opened(path)
    await ledger.aclose()
    with pytest.raises(LedgerError, match="inside `async with`"):
        await ledger.find("r1")
    async with ledger:
        pass
    await ledger.aclose()
    with pytest.raises(LedgerError, match="closed"):
        await ledger.find("r1")
    with pytest.raises(LedgerError, match="make another Ledger"):
        await ledger.__aenter__()


async def test_a_ledger_whose_closing_is_cancelled_keeps_its_lock_until_its_work_is_on_the_disk(path: Path) -> None:
    ledger = opened(path)
    async with ledger:
        (entry,) = await ledger.plan([tokens()])
        async with writer_held(ledger):
            moving = asyncio.ensure_future(ledger.move(entry, State.SENT))
            await asyncio.sleep(0)
            closing_it = asyncio.ensure_future(ledger.aclose())
            await asyncio.sleep(0)
            closing_it.cancel()
            await asyncio.gather(closing_it, return_exceptions=True)
            (taken,) = await asyncio.gather(asyncio.to_thread(LedgerLock(path).acquire), return_exceptions=True)
        assert isinstance(taken, LedgerInUse)
        assert (await moving).state is State.SENT
    async with opened(path) as again:
        assert await again.counts() == {State.SENT: 1}


async def test_more_than_one_group_of_work_is_finished_before_it_closes(path: Path) -> None:
    async with opened(path) as ledger, writer_held(ledger):
        waiting = [asyncio.ensure_future(ledger.find(str(number))) for number in range(5000)]
    assert await asyncio.gather(*waiting) == [None] * 5000


async def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        (tmp_path / "loose.db").touch(0o666)
        for name in ("new.db", "loose.db"):
            async with opened(tmp_path / name) as ledger:
                await ledger.plan([tokens()])
                assert {stray.name: stray.stat().st_mode & 0o777 for stray in tmp_path.glob(f"{name}*")} == {
                    f"{name}{suffix}": 0o600 for suffix in ("", "-wal", "-shm", ".lock")
                }
    finally:
        os.umask(old)


async def test_the_disk_is_asked_to_keep_every_commit(ledger: Ledger) -> None:
    ask = ["journal_mode", "synchronous", "fullfsync", "application_id"]
    said = await ledger._writer.run(lambda database: [database.pragma(name) for name in ask])
    assert said == ["wal", 2, sys.platform == "darwin", LEDGER.application_id]


async def test_a_second_ledger_on_the_same_file_is_refused_while_the_first_is_open(path: Path) -> None:
    link = path.with_name("link.db")
    async with opened(path):
        link.symlink_to(path)
        for way in (path, link):
            with pytest.raises(LedgerInUse, match=f"process {os.getpid()}") as refused:
                await opened(way).__aenter__()
            assert refused.value.pid == os.getpid()
    async with opened(path):
        pass


HOLDER = """
import asyncio, sys
from payouts.ledger.sqlite import Ledger

async def hold():
    async with Ledger(sys.argv[1], vendor="original", campaign="c"):
        print("holding", flush=True)
        sys.stdin.read()

asyncio.run(hold())
"""


async def test_the_lock_ends_with_the_process_even_if_it_is_killed(path: Path) -> None:
    def start() -> subprocess.Popen[bytes]:
        root = Path(__file__).parents[2]
        process = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)
        assert process.stdout is not None
        assert process.stdout.readline() == b"holding\n"
        return process

    process = await asyncio.to_thread(start)
    try:
        with pytest.raises(LedgerInUse, match=f"process {process.pid}"):
            await opened(path).__aenter__()
    finally:
        process.send_signal(signal.SIGKILL)
        await asyncio.to_thread(process.communicate)
    async with opened(path):
        pass


async def test_a_lock_whose_holder_has_not_yet_written_its_name_is_still_a_lock(path: Path) -> None:
    async with opened(path):
        path.with_name("payouts.db.lock").write_bytes(b"")
        with pytest.raises(LedgerInUse, match="process unknown") as refused:
            await opened(path).__aenter__()
        assert refused.value.pid is None


async def test_what_is_no_ledger_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "rewards.csv"
    text.write_text("id,reward_uid\n" * 100)
    other = tmp_path / "inbox.db"

    def make() -> None:
        with closing(connect(other)) as connection:
            connection.execute("CREATE TABLE events (id TEXT)")

    await asyncio.to_thread(make)
    for path, words in [(text, "damaged or not a SQLite file"), (other, "database of another program")]:
        before = path.read_bytes()
        with pytest.raises(LedgerError, match=words):
            await opened(path).__aenter__()
        with pytest.raises(LedgerError, match=words):
            await asyncio.to_thread(LedgerReader, path)
        assert path.read_bytes() == before


async def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"\.lock cannot be written: No such file or directory"):
        await opened(tmp_path / "nowhere" / "payouts.db").__aenter__()
    (tmp_path / "folder").mkdir()
    with pytest.raises(LedgerError, match="is a folder"):
        await opened(tmp_path / "folder").__aenter__()
    with pytest.raises(LedgerError, match="there is no such file"):
        await asyncio.to_thread(LedgerReader, tmp_path / "none.db")


def test_an_older_layout_is_led_forward_with_its_rows(path: Path) -> None:
    connect_to_write(path).close()
    with closing(connect(path)) as connection:
        connection.execute("INSERT INTO campaigns (vendor, name, target, opened_at) VALUES ('original', 'c', '', 0)")
    added = "ALTER TABLE campaigns ADD COLUMN owner TEXT; UPDATE campaigns SET owner = 'nobody'"
    newer = connect_to_write(path, schema=evolve(LEDGER, migrations=(*LEDGER.migrations, added)))
    assert newer.execute("SELECT name, owner FROM campaigns").fetchall() == [("c", "nobody")]
    assert newer.pragma("user_version") == LEDGER.layout + 1
    newer.close()
    with pytest.raises(LedgerError, match="a newer version"):
        connect_to_write(path)
    with pytest.raises(LedgerError, match="a newer version"):
        LedgerReader(path)


def test_a_step_forward_that_fails_changes_nothing(path: Path) -> None:
    connect_to_write(path).close()
    added = "ALTER TABLE campaigns ADD COLUMN owner TEXT; NONSENSE"
    with pytest.raises(LedgerError, match="syntax error"):
        connect_to_write(path, schema=evolve(LEDGER, migrations=(*LEDGER.migrations, added)))
    connection = connect_to_write(path)
    assert "owner" not in connection.execute("SELECT sql FROM sqlite_master WHERE name = 'campaigns'").get
    connection.close()


def test_an_older_layout_is_led_forward_also_by_who_only_reads(path: Path) -> None:
    old = connect_to_write(path, schema=LAYOUT_2)
    old.execute("INSERT INTO campaigns VALUES (1, 'original', 'c', '', 0)")
    old.close()
    with LedgerReader(path) as reader:
        assert [campaign.name for campaign in reader.campaigns()] == ["c"]
        assert reader.generation()[1] == 0


def test_an_older_layout_that_is_in_use_waits(path: Path) -> None:
    connect_to_write(path, schema=LAYOUT_2).close()
    lock = LedgerLock(path)
    lock.acquire()
    with pytest.raises(LedgerInUse):
        LedgerReader(path)
    lock.release()
    LedgerReader(path).__exit__(None, None, None)


def test_an_empty_file_is_no_ledger(path: Path) -> None:
    path.touch()
    with pytest.raises(LedgerError, match="no ledger yet"):
        LedgerReader(path)


async def test_errors_can_be_pickled_and_copied(ledger: Ledger) -> None:
    (entry,) = await ledger.plan([tokens()])
    for error in [
        WrongWay("r1", State.DONE, State.SENT),
        RowChanged(entry, "2 of 21 to 32"),
        KeyTaken("n1", "b", "a", "c"),
        AuditNeeded("payouts.db", "older"),
        CampaignUnclear("which?", known=2, meant=2),
        LedgerInUse("in use", pid=7),
    ]:
        for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
            assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))


SENDER = """
import asyncio, os, sys
from payouts.ledger.sqlite import Ledger
from payouts.vendors import OriginalRow
from payouts.states import State

async def send():
    async with Ledger(sys.argv[1], vendor="original", campaign="c") as ledger:
        for number in range(5):
            row = OriginalRow(id=f"r{number}", reward_uid="1", to_user_uid="2", amount="3")
            (entry,) = await ledger.plan([row])
            os.write(1, b"MARKING %d" % number)
            await ledger.move(entry, State.SENT)
            os.write(1, b"SENDING %d" % number)
            row = OriginalRow(id=f"q{number}", reward_uid="1", to_user_uid="2", amount="3")
            os.write(1, b"STORING %d" % number)
            await ledger.plan_sent([row], 1)
            os.write(1, b"LEAVING %d" % number)

asyncio.run(send())
"""


@pytest.mark.skipif(
    shutil.which("strace") is None, reason="this machine has no strace; tests/install_system_parts.sh installs it"
)
def test_a_row_is_on_the_disk_as_sent_before_anything_of_it_can_leave(path: Path, tmp_path: Path) -> None:
    """Killing a process proves nothing about the disk; the order of its system calls does."""
    trace = tmp_path / "trace"
    root = Path(__file__).parents[2]
    command = [
        "strace",
        "-f",
        "-y",
        "-o",
        str(trace),
        "-e",
        "trace=write,fdatasync,fsync",
        sys.executable,
        "-c",
        SENDER,
        str(path),
    ]
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
    calls = trace.read_text()
    for begin, end in (("MARKING", "SENDING"), ("STORING", "LEAVING")):
        for number in range(5):
            between = calls[calls.index(f'"{begin} {number}"') : calls.index(f'"{end} {number}"')]
            assert "-wal>) = 0" in between, f"row {number} could leave before the log that holds it was on the disk"
