"""Changes and lists of many records leave room for deliveries: each commit and each lookup is short."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rewards_core.operations import OperationRef
from tests.webhooks.sqlite_kit import Host, on_file
from tests.webhooks.store_contract import PAY, event, ref, wants
from webhooks.store import sqlite, sqlite_jobs, sqlite_life, sqlite_polls, sqlite_upkeep
from webhooks.store.records import Acceptance, EventState
from webhooks.store.sqlite import SQLiteStore
from webhooks.store.sqlite_rows import insert
from webhooks.store.sqlite_session import Session

HOUR = 3_600.0


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many records each commit of a slice was to change."""
    changed: list[int] = []
    monkeypatch.setattr(sqlite_life, "SLICE", 2)

    def spy_on(change: Callable[..., int]) -> Callable[..., int]:
        def spy(session: Session, *arguments: Any, **more: Any) -> int:
            changed.append(len(arguments[-1]))
            return change(session, *arguments, **more)

        return spy

    for name in ("retire", "requeue"):
        monkeypatch.setattr(sqlite_jobs, name, spy_on(getattr(sqlite_jobs, name)))
    return changed


async def five_jobs(host: Host) -> SQLiteStore:
    here = host.open()
    await here.register_handlers([wants()])
    await asyncio.gather(*(here.accept(event(str(number))) for number in range(5)))
    return here


async def test_a_handler_is_retired_some_jobs_at_a_time(host: Host, commits: list[int]) -> None:
    here = await five_jobs(host)
    assert await here.retire_handler("default", PAY) == 5
    assert commits == [2, 2, 1]
    assert {kept.state for kept in await here.list_events()} == {EventState.DEAD}
    assert await here.accept(event("later")) is Acceptance.NEW
    assert (await here.list_events(limit=1))[0].jobs == ()


async def test_retiring_leaves_the_jobs_that_come_meanwhile_where_the_handler_registers_again(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, retire = await five_jobs(host), sqlite_jobs.retire

    def retire_and_get_a_job(session: Session, service: str, handler: str, event_ids: Sequence[int]) -> int:
        count = retire(session, service, handler, event_ids)
        session.db.execute("UPDATE job SET state = 1 WHERE event_id = ?", (event_ids[0],))
        return count

    monkeypatch.setattr(sqlite_jobs, "retire", retire_and_get_a_job)
    async with asyncio.timeout(20):
        assert await here.retire_handler("default", PAY) == 5


async def test_events_are_requeued_some_at_a_time(host: Host, commits: list[int]) -> None:
    here = await five_jobs(host)
    ids = [kept.id for kept in await here.list_events()]
    assert await here.requeue(ids, every_handler=True) == 5
    assert commits == [2, 2, 1]


async def test_an_hour_buries_only_so_many_jobs_of_a_handler_that_no_process_serves(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_jobs, "MAX_DEAD_LETTERS", 2)
    here = await five_jobs(host)
    await here.release_handlers([wants()])
    await on_file(here, lambda session: session.db.execute("UPDATE subscription SET unserved_hours = 14 * 24"))
    left = []
    for _ in range(3):
        host.advance(HOUR)
        await here.ping()
        left.append((await here.statistics()).ready)
    assert left == [3, 1, 0]


async def test_a_page_of_pending_operations_costs_no_more_where_there_are_many(host: Host) -> None:
    here = host.open()
    await here.add_pending([ref(f"{number:04d}") for number in range(5_000)], poll_in=60)
    late = [f"{number:04d}" for number in range(4_981, 4_991)]
    for scope, after, expected in (
        (None, None, [f"{number:04d}" for number in range(10)]),
        ("default", None, [f"{number:04d}" for number in range(10)]),
        (None, ref("4980"), late),
        ("default", ref("4980"), late),
        ("default", ref("4980", scope="another"), [f"{number:04d}" for number in range(10)]),
        ("another", ref("4980"), []),
        ("other", None, []),
    ):
        found, steps = await on_file(here, lambda session, scope=scope, after=after: paged(session, scope, after))  # type: ignore[misc]
        assert found == expected
        assert steps < 1_000


async def test_identities_are_counted_a_day_at_a_time(host: Host) -> None:
    here = host.open()
    kept = [(b"%d" % number, number // 100) for number in range(5_000)]
    await on_file(here, lambda session: insert(session.db, "identity", "identity, day", kept))
    for day in range(-1, 49):
        counted, steps = await on_file(here, lambda session, day=day: measured(session, sqlite_upkeep.count_identities, day))  # type: ignore[misc]
        assert counted == (day + 1, 100)
        assert steps < 1_000
    assert await on_file(here, lambda session: sqlite_upkeep.count_identities(session.db, 49)) is None


async def test_an_upkeep_knows_how_many_identities_there_are(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[int] = []

    async def spy(store: SQLiteStore, *, identities: int, **_: object) -> None:
        known.append(identities)

    monkeypatch.setattr(sqlite, "remove_old", spy)
    here = host.open()
    kept = [(b"%d" % number, number % 7) for number in range(70)]
    await on_file(here, lambda session: insert(session.db, "identity", "identity, day", kept))
    await here.upkeep(keep=HOUR)
    assert known == [70]


def paged(session: Session, scope: str | None, after: OperationRef | None) -> tuple[list[str], int]:
    """Return a page of ten, and what it cost in steps of SQLite's machine."""
    page, steps = measured(session, sqlite_polls.listed_pending, scope, None, None, after, 10, 0.0)
    return [one.ref.uid for one in page], steps


def measured(session: Session, look: Callable[..., Any], *arguments: Any) -> tuple[Any, int]:
    """Return what a lookup finds, and its cost in steps of SQLite's virtual machine."""
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return False

    session.db.set_progress_handler(count, 1)
    try:
        return look(session.db, *arguments), steps
    finally:
        session.db.set_progress_handler(None)


@pytest.mark.slow
async def test_an_event_costs_no_more_where_many_operations_are_about_other_things(host: Host) -> None:
    here = host.open()
    await here.add_pending([OperationRef("default", "transfer", str(n), f"asset/{n}") for n in range(3_000)], poll_in=60)
    await here.add_pending([ref(str(n)) for n in range(3_000)], poll_in=60)
    things = [ref(str(n), kind="reward") for n in range(64)]
    found, steps = await on_file(here, lambda session: measured(session, sqlite_polls.dependents, things))
    assert (found, steps < 2_000) == ([], True)
    found, steps = await on_file(here, lambda session: measured(session, sqlite_polls.dependents, [ref("7", kind="asset")]))
    assert ([one.uid for one in found], steps < 100) == (["7"], True)
