"""The ledger forgets nothing it has acknowledged, moves rows only along their ways, and belongs to one process at a time."""

from __future__ import annotations

import asyncio
import copy
import itertools
import pickle
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from payouts.ledger.base import Database
from payouts.ledger.lock import LedgerLock
from payouts.ledger.reader import LedgerReader
from payouts.ledger.schema import connect_to_read
from payouts.ledger.sqlite import Ledger
from payouts.states import (
    AuditNeeded,
    CampaignUnclear,
    InvalidTransition,
    KeyTaken,
    LedgerError,
    LedgerInUse,
    RowChanged,
    State,
    ways_of,
)
from payouts.vendors import ROW_TYPES
from rewards_core.sqlite.connection import SQLiteError
from tests.payouts.ledger_contract import EXPECTED_WAYS, LedgerContract, OpenLedger, Read, led_to, tokens
from tests.payouts.reader_contract import ReaderContract, RecordsContract
from tests.texts import raises

T = TypeVar("T")


def opened(path: Path, **changed: Any) -> Ledger:
    options: dict[str, Any] = {"vendor": "original", "campaign": "diwali-2026", "clock": lambda: 1000.0}
    return Ledger(path, **options | changed)


@pytest_asyncio.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    async with opened(path) as ledger:
        yield ledger


@pytest.fixture
def open_ledger(path: Path) -> OpenLedger:
    return partial(opened, path)


@pytest.fixture
def read(path: Path) -> Read:
    async def read(look: Callable[[LedgerReader], T]) -> T:
        def in_a_thread() -> T:
            with LedgerReader(path) as reader:
                return look(reader)

        return await asyncio.to_thread(in_a_thread)

    return read


class TestLedger(LedgerContract):
    """In SQLite."""


class TestReader(ReaderContract):
    """In SQLite."""

    @pytest_asyncio.fixture
    async def ledger(self, path: Path) -> AsyncIterator[Ledger]:
        ticks = itertools.count(1000)
        async with opened(path, clock=lambda: float(next(ticks))) as ledger:
            yield ledger


class TestRecords(RecordsContract):
    """In SQLite."""


@asynccontextmanager
async def writer_held(ledger: Ledger) -> AsyncIterator[None]:
    """Keep the ledger's writer busy, so that what is asked for meanwhile waits together."""
    entered, go = threading.Event(), threading.Event()

    def hold(_: Database) -> None:
        entered.set()
        go.wait()

    held = asyncio.ensure_future(ledger.transact(hold))
    await asyncio.to_thread(entered.wait)
    yield
    await asyncio.sleep(0)
    go.set()
    await held


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


def test_the_documented_ways_are_all_there_are() -> None:
    ways = {
        (vendor, state.value): set(following)
        for vendor, row in ROW_TYPES.items()
        for state, following in ways_of(has_lookup=row.has_lookup).items()
    }
    assert {place: following for place, following in ways.items() if following} == EXPECTED_WAYS


async def test_who_reads_can_change_nothing(ledger: Ledger, path: Path) -> None:
    await ledger.plan([tokens()])

    def write() -> None:
        with closing(connect_to_read(path)) as connection:
            connection.execute("DELETE FROM rows")

    with pytest.raises(SQLiteError, match="readonly"):
        await asyncio.to_thread(write)


async def test_everything_that_waits_at_one_moment_is_committed_at_once(ledger: Ledger) -> None:
    entries = await ledger.plan([tokens(f"r{number}") for number in range(200)])
    before = ledger.commits
    async with writer_held(ledger):
        moving = [asyncio.ensure_future(ledger.move(entry, State.SENT)) for entry in entries]
    await asyncio.gather(*moving)
    assert ledger.commits - before == 2


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


async def test_rows_stored_as_sent_share_the_commit_of_moves_at_the_same_time(path: Path) -> None:
    async with opened(path) as ledger, ledger.one_run():
        (planned,) = await ledger.plan([tokens("a")])
        commits = ledger.commits
        await asyncio.gather(ledger.plan_sent([tokens("b")], 1), ledger.move(planned, State.SENT))
        assert ledger.commits == commits + 1


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
        pages = await ledger.transact(lambda database: database.execute("PRAGMA page_count").get)
        await ledger.transact(lambda database: database.execute(f"PRAGMA max_page_count = {pages}").get)
        with raises(LedgerError, "ledger: a full disk"):
            await ledger.plan([tokens(f"r{number}") for number in range(1000)])
        with raises(LedgerError, "ledger: a full disk"):
            await ledger.find("kept")
    async with opened(path) as ledger:
        assert await ledger.find("kept") == kept[0]
        assert await ledger.counts() == {State.PLANNED: 1}


async def test_what_waits_when_the_disk_is_full_hears_of_it_too(path: Path) -> None:
    async with opened(path) as ledger:

        def broken(database: Database) -> None:
            raise SQLiteError("disk I/O error")

        results = await asyncio.gather(ledger.find("a"), ledger.transact(broken), ledger.find("b"), return_exceptions=True)
        assert all(isinstance(result, LedgerError) for result in results[1:])


async def test_a_closed_ledger_says_so_and_closes_twice(path: Path) -> None:
    ledger = opened(path)
    await ledger.aclose()
    with raises(LedgerError, "ledger: used before `async with`"):
        await ledger.find("r1")
    async with ledger:
        pass
    await ledger.aclose()
    with raises(LedgerError, "ledger: used after it was closed"):
        await ledger.find("r1")
    with raises(LedgerError, "ledger: used after it was closed"):
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


@pytest.mark.slow
async def test_more_than_one_group_of_work_is_finished_before_it_closes(path: Path) -> None:
    async with opened(path) as ledger, writer_held(ledger):
        waiting = [asyncio.ensure_future(ledger.find(str(number))) for number in range(5000)]
    assert await asyncio.gather(*waiting) == [None] * 5000


async def test_errors_can_be_pickled_and_copied(ledger: Ledger) -> None:
    (entry,) = await ledger.plan([tokens()])
    for error in [
        InvalidTransition("r1", State.DONE, State.SENT),
        RowChanged(entry, "2 of 21 to 32"),
        KeyTaken("n1", "b", "a", "c"),
        AuditNeeded("payouts.db", "older"),
        CampaignUnclear("which?", known=2, meant=2),
        LedgerInUse("in use", pid=7),
    ]:
        for twin in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
            assert (type(twin), str(twin), vars(twin)) == (type(error), str(error), vars(error))
