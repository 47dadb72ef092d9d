"""Commands by hand and workers keep out of each other's way, and a restored database is told by its notes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from payouts.audit.release import release
from payouts.ledger.fleet_note import FleetNote
from payouts.ledger.generation import Standing
from payouts.ledger.place import place_of
from payouts.ledger.postgres import PostgresLedger, connect_to_database, engine_of, holds_ledger, lock_of
from payouts.ledger.reader import Campaign, LedgerReader
from payouts.ledger.worker import Worker
from payouts.states import LedgerError, LedgerInUse, State
from tests.canary import locals_with
from tests.payouts.payout_kit import token_row
from tests.payouts.postgres_ledger_kit import database_of_its_own, run_sql
from tests.postgres_server import Server
from tests.texts import raises

CAMPAIGN = "diwali-2026"


@pytest.fixture
def url(postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with database_of_its_own(postgres) as url:
        asyncio.run(plan(url))
        yield url


async def plan(url: str, *ids: str) -> None:
    async with PostgresLedger(url, vendor="original", campaign=CAMPAIGN) as ledger:
        await ledger.plan([token_row(each) for each in ids or ("r1", "r2", "r3")])


def campaign_of(url: str) -> Campaign:
    with LedgerReader(url) as reader:
        return reader.campaign()


def test_one_command_at_a_time_decides_about_a_campaign(url: str) -> None:
    place, campaign = place_of(url), campaign_of(url)
    with place.lock([campaign]), pytest.raises(LedgerInUse, match="Another command"), place.lock([campaign]):
        pass
    with place.lock([campaign]):
        pass


def test_commands_about_other_campaigns_and_plans_do_not_disturb_each_other(url: str) -> None:
    async def begin() -> None:
        async with PostgresLedger(url, vendor="original", campaign="other"):
            pass

    asyncio.run(begin())
    place = place_of(url)
    with LedgerReader(url) as reader:
        one, other = reader.campaigns()
    with place.lock([one]), place.lock([other]), place.lock(), pytest.raises(LedgerInUse), place.lock():
        pass


def test_a_lock_of_many_campaigns_is_one_lock_that_keeps_all_others_away(url: str) -> None:
    async def work(campaign: str) -> None:
        async with PostgresLedger(url, vendor="original", campaign=campaign) as ledger, ledger.one_worker():
            pass

    some = "SELECT 'original', 'c' || n, '', 0 FROM generate_series(1, 50) AS n"
    asyncio.run(run_sql(url, f"INSERT INTO campaigns (vendor, name, target, opened_at) {some}"))
    place = place_of(url)
    with LedgerReader(url) as reader:
        known = reader.campaigns()
    with place.lock(known) as lock:
        held = (
            "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database "
            "WHERE locktype = 'advisory' AND datname = current_database()"
        )
        assert asyncio.run(run_sql(url, held))[0]["count"] == 1
        for others in (known, known[:1], known[-1:]):
            with pytest.raises(LedgerInUse), place.lock(others):
                pass
        with raises(LedgerInUse, "ledger: a command is changing the campaign"):
            asyncio.run(work("c50"))
        with place.lock():
            asyncio.run(settle_by_hand(url, lock))
    for others in (known[:1], known[-1:]):
        with place.lock(others), pytest.raises(LedgerInUse), place.lock(known):
            pass
    with place.lock(), place.lock(known):
        pass
    asyncio.run(work("c50"))


async def settle_by_hand(url: str, lock: Any) -> None:
    async with place_of(url).ledger(vendor="original", campaign=CAMPAIGN, lock=lock) as ledger:
        entry = await ledger.find("r1")
        assert entry is not None
        await ledger.move(await ledger.move(entry, State.SENT), State.UNKNOWN, settled_by="hand")


def test_a_worker_does_not_begin_while_somebody_decides(url: str) -> None:
    async def work() -> None:
        async with PostgresLedger(url, vendor="original", campaign=CAMPAIGN) as ledger, ledger.one_worker():
            pass

    with place_of(url).lock([campaign_of(url)]), raises(LedgerInUse, "ledger: a command is changing the campaign"):
        asyncio.run(work())
    asyncio.run(work())


def test_a_killed_worker_keeps_commands_away_until_its_requests_must_be_over(url: str) -> None:
    async def begin() -> None:
        async with PostgresLedger(url, vendor="original", campaign=CAMPAIGN) as ledger:
            await Worker(ledger, rate=None, lease=60.0, grace=30.0, state=None).begin()

    asyncio.run(begin())
    place, campaign = place_of(url), campaign_of(url)
    with pytest.raises(LedgerInUse, match=r"wait [0-9]+ seconds"), place.lock([campaign]):
        pass
    asyncio.run(run_sql(url, "UPDATE workers SET lease_until = now_s() - 29"))
    with pytest.raises(LedgerInUse), place.lock([campaign]):
        pass
    asyncio.run(run_sql(url, "UPDATE workers SET lease_until = now_s() - 31"))
    with place.lock([campaign]):
        assert asyncio.run(run_sql(url, "SELECT FROM workers WHERE alive")) == []  # it cannot renew its lease


def test_nothing_is_decided_once_the_lock_is_lost(url: str) -> None:
    async def settle(lock: Any) -> None:
        async with place_of(url).ledger(vendor="original", campaign=CAMPAIGN, lock=lock) as ledger:
            await run_sql(url, "SELECT pg_terminate_backend(pid, 60000) FROM pg_locks WHERE locktype = 'advisory'")
            await ledger.transact(lambda database: database.execute("DELETE FROM row_states"))

    async def look() -> None:
        async with PostgresLedger(url, vendor="original", campaign=CAMPAIGN) as ledger:
            assert await ledger.counts() == {State.PLANNED: 3}

    with place_of(url).lock([campaign_of(url)]) as lock, pytest.raises(LedgerInUse, match="was lost"):
        asyncio.run(settle(lock))
    asyncio.run(look())


async def test_a_worker_may_begin_while_another_one_of_its_machine_sends(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = FleetNote.open
    async with PostgresLedger(url, vendor="original", campaign=CAMPAIGN) as ledger, ledger.one_worker(rate=None) as other:
        loop = asyncio.get_running_loop()

        def open_late(note: FleetNote, *names: str) -> None:
            asyncio.run_coroutine_threadsafe(claim(), loop).result()
            opened(note, *names)

        async def claim() -> None:
            assert len((await other.claim(1)).entries) == 1

        second = PostgresLedger(url, vendor="original", campaign=CAMPAIGN)
        async with second:
            monkeypatch.setattr(FleetNote, "open", open_late)
            async with second.one_worker(rate=None):
                pass


def test_what_this_machine_has_paid_from_a_newer_copy_makes_an_older_one_known(url: str, tmp_path: Path) -> None:
    async def send() -> None:
        async with PostgresLedger(url, vendor="original", campaign=CAMPAIGN) as ledger, ledger.one_worker(rate=None) as worker:
            await worker.claim(2)

    async def release_it() -> int:
        async with PostgresLedger(url, vendor="original", campaign=CAMPAIGN) as ledger:
            return await release(ledger, ledger.now())

    place = place_of(url)
    asyncio.run(send())
    assert place.standing() == (Standing.NEWEST, 0.0)
    (kept,) = asyncio.run(run_sql(url, "SELECT identity, tables, generation FROM ledger, campaigns"))
    asyncio.run(run_sql(url, "UPDATE campaigns SET generation = 1"))
    found, at = place.standing()
    assert (found, at > 0) == (Standing.OLDER, True)
    assert asyncio.run(release_it()) == 0
    assert place.standing() == (Standing.NEWEST, 0.0)
    asyncio.run(run_sql(url, "UPDATE campaigns SET generation = $1", kept["generation"]))  # the copy that was the newest before
    assert place.standing()[0] is Standing.OLDER
    assert place_of(url).standing(tmp_path / "elsewhere")[0] is Standing.NEWEST


def test_a_note_that_was_cut_off_counts_all_the_same(url: str, tmp_path: Path) -> None:
    async def send(rows: int) -> None:
        async with PostgresLedger(url, vendor="original", campaign=CAMPAIGN) as ledger, ledger.one_worker(rate=None) as worker:
            await worker.claim(rows)

    asyncio.run(send(2))
    (note,) = (tmp_path / "rewards-async").glob("fleet-*")
    note.write_bytes(note.read_bytes()[:50])
    assert place_of(url).standing()[0] is Standing.NEWEST
    asyncio.run(run_sql(url, "UPDATE campaigns SET generation = 1"))
    assert place_of(url).standing()[0] is Standing.OLDER
    asyncio.run(run_sql(url, "UPDATE campaigns SET generation = 2"))
    asyncio.run(send(1))
    assert CAMPAIGN in note.read_text()


def test_no_error_of_a_ledgers_url_shows_the_password(url: str) -> None:
    secret = "s3cret-of-the-database"
    away = f"postgresql://payer:{secret}@127.0.0.1:1/none"
    no_url = away.replace("/none", "/none?sslmode=never")
    failing: list[Callable[[], Any]] = [
        place_of(away).exists,
        place_of(away).reader,
        lambda: place_of(away).lock().__enter__(),
        *(partial(use, no_url) for use in (holds_ledger, connect_to_database, engine_of, partial(lock_of, campaigns=None))),
    ]
    for call in failing:
        with pytest.raises((LedgerError, ValueError)) as caught:
            call()
        assert locals_with(caught.value, [secret]) == []
        assert secret not in str(caught.value)
