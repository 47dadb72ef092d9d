"""Processes that die, sleep or come back, other boots of the host, and clocks that are set."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from rewards_core.clock import boot_id, uptime
from rewards_core.sqlite.connection import Connection
from tests.rewards_core.sqlite_kit import run_elsewhere
from tests.texts import said
from tests.webhooks.fakes import FakeVendor
from tests.webhooks.sqlite_kit import Host, cut_power, ear_of, id_of, on_file, rows
from tests.webhooks.store_contract import A_DAY, PAY, claim, event, outcome, ref, wants
from webhooks.completions import Completions
from webhooks.store import sqlite_hints, sqlite_outcomes
from webhooks.store.records import Priority
from webhooks.store.sqlite import SQLiteStore
from webhooks.store.sqlite_session import Session

HOUR = 3_600.0

# processes that die


async def renewals(host: Host, store: SQLiteStore, count: int = 1) -> None:
    """Advance time in steps in which the store renews its record."""
    for _ in range(count):
        host.advance(10.0)
        await until_renewed(host, store)


async def until_renewed(host: Host, store: SQLiteStore) -> None:
    me = await id_of(store)
    while (await rows(store, "SELECT renewed_at FROM process WHERE id = ?", me)) != [(host.passed,)]:
        await asyncio.sleep(0)


async def test_operations_of_a_dead_process_are_polled_as_nobodys(host: Host) -> None:
    dead, living = host.open(ticks=False), host.open()
    await dead.watch([ref("1"), ref("2"), ref("3")], poll_in=HOUR)
    await dead.hurry_polls([ref("3")], Priority.LOOKUP)
    await ear_of(living)
    await living.watch([ref("2")], poll_in=HOUR)
    await renewals(host, living, 5)
    pending = {one.ref.uid: one.priority for one in await living.list_pending()}
    assert pending == {"1": Priority.ABANDONED, "2": Priority.ROUTINE, "3": Priority.LOOKUP}
    assert await rows(living, "SELECT uid, process FROM interest") == [("2", await id_of(living))]


async def test_a_process_that_renews_its_record_keeps_its_operations(host: Host) -> None:
    here, there = host.open(), host.open()
    await ear_of(here)
    await ear_of(there)
    await here.watch([ref("1")], poll_in=HOUR)
    for _ in range(12):
        host.advance(10.0)
        await until_renewed(host, here)
        await until_renewed(host, there)
    assert [one.priority for one in await there.list_pending()] == [Priority.ROUTINE]


async def test_after_the_whole_host_slept_nobody_is_taken_for_dead(host: Host) -> None:
    here, there = host.open(), host.open(ticks=False)
    await ear_of(here)
    ear = await ear_of(there, "1")
    await there.watch([ref("1")], poll_in=HOUR)
    await renewals(host, here)
    host.advance(HOUR)
    await until_renewed(host, here)
    assert [one.priority for one in await here.list_pending()] == [Priority.ROUTINE]
    await on_file(there, Session.renew)
    await renewals(host, here)
    assert [one.priority for one in await here.list_pending()] == [Priority.ROUTINE]
    assert ear.misses == 0


async def test_a_process_that_was_taken_for_dead_comes_back_and_is_told_what_it_missed(host: Host) -> None:
    here, there = host.open(ticks=False), host.open()
    ear = await ear_of(here, "1")
    await here.register_handlers([wants(PAY)])
    await here.claim_polls("default", limit=1, lease=60, max_per_second=10)
    await here.watch([ref("1")], poll_in=HOUR)
    await ear_of(there)
    await renewals(host, there, 5)
    assert not (await there.list_handlers())[0].served
    await there.record_outcome(outcome(ref("1")))
    await on_file(here, Session.renew)
    await ear.until(lambda ear: ear.misses)
    assert await here.outcome(ref("1")) is not None
    assert (await there.list_handlers())[0].served
    await there.record_outcome(outcome(ref("2")))
    await until_renewed(host, there)
    await there.accept(event("1"))
    await ear.until(lambda ear: ear.jobs)


async def test_what_a_process_waits_for_is_watched_again_when_it_comes_back(host: Host) -> None:
    asleep, living = host.open(ticks=False), host.open()
    vendor = FakeVendor()
    async with Completions(vendor, asleep) as completions:
        waiting = [asyncio.create_task(completions.wait("1", timeout=60)) for _ in range(2)]
        while await rows(living, "SELECT uid FROM interest") != [("1",)]:
            await asyncio.sleep(0)
        await ear_of(living)
        await renewals(host, living, 5)
        assert await rows(living, "SELECT watched, priority FROM pending") == [(0, Priority.ABANDONED)]
        await on_file(asleep, Session.renew)
        while await rows(living, "SELECT uid FROM interest") != [("1",)]:
            await asyncio.sleep(0)
        assert await rows(living, "SELECT watched, priority FROM pending") == [(1, Priority.ROUTINE)]
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_what_was_missed_is_told_though_the_first_look_failed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = host.open(ticks=False), host.open(ticks=False)
    ear = await ear_of(here, "1")
    monkeypatch.setattr("webhooks.store.hints.RETRY_AFTER", 0.001)
    failures: list[None] = []

    def newest_seq(db: Connection) -> int:
        if len(failures) < 2:
            failures.append(None)
            db.execute("SELECT nonsense")
        return sqlite_outcomes.newest_seq(db)

    monkeypatch.setattr(sqlite_hints, "newest_seq", newest_seq)
    await rows(there, "UPDATE process SET alive = 0")
    await on_file(here, Session.renew)
    await ear.until(lambda ear: ear.misses)
    assert len(failures) == 2


async def test_a_limit_of_polls_holds_while_its_process_asks(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    here, there = host.open(), host.open()
    await here.claim_polls("default", limit=1, lease=60, max_per_second=1.0)
    for _ in range(4):
        await renewals(host, here)
        await here.claim_polls("default", limit=1, lease=60, max_per_second=1.0)
    await there.add_pending([ref("1")], poll_in=0)
    await there.claim_polls("default", limit=1, lease=60, max_per_second=10.0)
    said("a limit of polls holds while its process asks", "\n".join(caplog.messages))
    await renewals(host, there, 6)
    assert await rows(there, "SELECT per_second FROM rate WHERE seen_at > ?", host.passed - 30) == []
    await there.claim_polls("default", limit=1, lease=60, max_per_second=10.0)
    assert await rows(there, "SELECT per_second FROM rate WHERE seen_at > ?", host.passed - 30) == [(10.0,)]


async def test_the_record_of_a_dead_process_goes_after_a_day(host: Host) -> None:
    dead, here = host.open(ticks=False), host.open()
    await dead.watch([ref("1")], poll_in=HOUR)
    await ear_of(here)
    await renewals(host, here, 5)
    assert await rows(here, "SELECT alive FROM process ORDER BY alive") == [(0,), (1,)]
    host.advance(A_DAY)
    await until_renewed(host, here)
    assert await rows(here, "SELECT alive FROM process") == [(1,)]
    assert await rows(here, "SELECT * FROM interest") == []


@pytest.mark.slow
async def test_what_many_dead_processes_waited_for_is_given_up_some_at_a_time(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webhooks.store.sqlite_session.MAX_RELEASED", 2)
    dead, here = host.open(ticks=False), host.open()
    await dead.watch([ref(str(number)) for number in range(100)], poll_in=HOUR)
    await ear_of(here)
    await renewals(host, here, 5)
    assert 0 < len(await rows(here, "SELECT * FROM interest")) < 100  # further ticks may have come between
    while await rows(here, "SELECT * FROM interest"):
        await renewals(host, here)
    assert {one.priority for one in await here.list_pending()} == {Priority.ABANDONED}


KILLED = """
import asyncio, os, sys
from rewards_core.operations import OperationRef
from webhooks.store.sqlite import SQLiteStore

async def main():
    store = SQLiteStore(sys.argv[1], boot="first")
    await store.watch([OperationRef("default", "allocation", "1")], poll_in=60)
    os._exit(0)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_survivors_remove_the_socket_of_a_process_that_was_killed(host: Host, short_folder: Path) -> None:
    late, path = 0.0, short_folder / "inbox.db"
    here = host.open(path=path, uptime=lambda: uptime() + late)
    await ear_of(here)
    own = sockets_beside(path)
    await run_elsewhere(KILLED, path)
    assert len(sockets_beside(path)) == 2
    late = 31.0
    while sockets_beside(path) != own:  # until it was late twice
        late += 11.0
        await on_file(here, lambda session: session.now)


def sockets_beside(path: Path) -> set[Path]:
    return {each for each in path.parent.iterdir() if each.is_socket()}


async def test_a_closed_store_gives_up_what_it_waited_for_at_once(host: Host) -> None:
    here, there = host.open(), host.open()
    await ear_of(here)
    await here.watch([ref("1")], poll_in=HOUR)
    await here.register_handlers([wants(PAY)])
    await here.claim_polls("default", limit=1, lease=60, max_per_second=10)
    await here.aclose()
    assert [one.priority for one in await there.list_pending()] == [Priority.ABANDONED]
    assert not (await there.list_handlers())[0].served
    assert await rows(there, "SELECT alive, address FROM process") == [(0, None)]
    assert await rows(there, "SELECT * FROM rate") == []


# another boot, and clocks that were set


async def test_after_another_boot_everything_is_due_and_nobody_is_there(host: Host) -> None:
    here = host.open()
    ear = await ear_of(here)
    await here.register_handlers([wants(PAY)])
    await here.accept(event("1"))
    (claimed,) = await claim(here, lease=10 * A_DAY)
    await here.watch([ref("1")], poll_in=A_DAY)
    await here.add_pending([ref("2")], poll_in=A_DAY)
    await here.pause_polls("default", A_DAY, refused=True)
    await here.upkeep(keep=A_DAY)
    here.unsubscribe(ear)
    await cut_power(here)
    await host.reboot()
    here = host.open()
    (again,) = await claim(here)
    assert again.job.event_id == claimed.job.event_id
    assert not await here.finish_job(claimed.job)
    assert {(one.ref.uid, one.due_in, one.priority) for one in await here.list_pending()} == {
        ("1", 0.0, Priority.ABANDONED), ("2", 0.0, Priority.ABANDONED)
    }  # fmt: skip
    assert len((await here.claim_polls("default", limit=9, lease=60, max_per_second=10)).claims) == 1
    assert await here.upkeep(keep=A_DAY)
    assert await rows(here, "SELECT id FROM process") == [(await id_of(here),)]


async def test_a_job_ages_over_a_boot_by_the_time_that_the_host_was_on(host: Host) -> None:
    here = host.open()
    await here.register_handlers([wants(PAY)])
    await here.accept(event("1"))
    await claim(here, lease=10)
    await renewals(host, here, 10)
    await cut_power(here)
    await host.reboot()
    (again,) = await claim(host.open())
    assert again.job.age == 100


@pytest.mark.parametrize("registered", [False, True])
async def test_where_boots_cannot_be_told_apart_times_to_come_show_another_one(host: Host, registered: bool) -> None:
    here = host.open(boot="unknown")
    await here.register_handlers([wants(PAY)])
    await here.accept(event("1"))
    await claim(here, lease=10 * A_DAY)
    if not registered:
        await here.upkeep(keep=A_DAY)
        await rows(here, "DELETE FROM process")
    await cut_power(here)
    await host.reboot("unknown")
    assert len(await claim(host.open(boot="unknown"))) == 1


async def test_the_same_boot_leaves_leases_as_they_are(host: Host) -> None:
    here = host.open()
    await here.register_handlers([wants(PAY)])
    await here.accept(event("1"))
    await claim(here, lease=60)
    await here.aclose()
    there = host.open()
    assert await claim(there) == []
    host.advance(60)
    assert len(await claim(there)) == 1


async def test_a_process_that_cannot_read_the_boot_leaves_the_leases_of_others_and_they_leave_its_own(host: Host) -> None:
    here, confined = host.open(), host.open(boot="unknown")
    await here.register_handlers([wants(PAY)])
    await here.accept(event("1"))
    assert len(await claim(here, lease=60)) == 1
    await confined.register_handlers([wants(PAY)])
    assert await claim(confined) == []
    await confined.accept(event("2"))
    assert len(await claim(confined, lease=60)) == 1
    assert await claim(host.open()) == []
    assert await rows(here, "SELECT value FROM meta WHERE name = 'boot'") == [("first",)]


async def test_after_a_boot_that_nobody_could_read_the_next_reader_names_it_and_the_one_after_is_another(host: Host) -> None:
    confined = host.open(boot="unknown")
    await confined.register_handlers([wants(PAY)])
    await confined.accept(event("1"))
    await claim(confined, lease=10 * A_DAY)
    assert await claim(host.open()) == []
    await host.reboot()
    host.passed = 2_000.0  # no time in the file is to come
    assert len(await claim(host.open())) == 1


async def test_without_a_boot_given_the_system_is_asked(host: Host) -> None:
    here = host.open(boot=None)
    await here.ping()
    assert await rows(here, "SELECT value FROM meta WHERE name = 'boot'") == [(boot_id(),)]


async def test_a_first_transaction_that_was_taken_back_leaves_the_boot_to_the_next(host: Host) -> None:
    here = host.open()
    await here.register_handlers([wants(PAY)])
    await here.accept(event("1"))
    await claim(here, lease=10 * A_DAY)
    await host.reboot()
    here = host.open(ticks=False)

    def fail(session: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await on_file(here, fail)
    assert len(await claim(here)) == 1


@pytest.mark.repeats_itself
@pytest.mark.parametrize("jump", [-1_800.0, 40 * A_DAY, 450 * A_DAY])
async def test_a_jump_of_the_wall_clock_puts_off_and_purges_nothing_but_what_an_hour_allows(host: Host, jump: float) -> None:
    here = host.open()
    await here.register_handlers([wants(PAY)])
    many = 2_500
    await asyncio.gather(*(here.accept(event(str(number), name="quiet", scope="other")) for number in range(many)))
    await asyncio.gather(*(here.record_outcome(outcome(ref(str(number)))) for number in range(many)))
    await here.accept(event("job"))
    await claim(here, lease=60)
    await here.add_pending([ref("pending")], poll_in=60)
    host.wall += jump
    await here.upkeep(keep=30 * A_DAY, keep_bodies=A_DAY)
    held = await here.statistics()
    assert held.events >= many + 1 - 1_000
    assert held.outcomes >= many - 1_000
    assert held.pending == 1
    assert (await rows(here, "SELECT count(*) FROM identity"))[0][0] >= many + 1 - 1_000
    host.passed += 60
    assert len(await claim(here)) == 1
    assert (await here.list_pending())[0].due_in == 0


async def test_one_upkeep_an_hour_is_done_for_all_processes(host: Host) -> None:
    here, there = host.open(), host.open()
    assert await here.upkeep(keep=A_DAY)
    assert not await there.upkeep(keep=A_DAY)
    host.advance(HOUR - 1)
    assert not await here.upkeep(keep=A_DAY)
    host.advance(1)
    assert sum(await asyncio.gather(here.upkeep(keep=A_DAY), there.upkeep(keep=A_DAY))) == 1
