"""Several store objects on one SQLite file notify each other."""

from __future__ import annotations

import asyncio

import pytest

from rewards_core.clock import uptime
from rewards_core.sqlite.wakeups import Wakeups
from tests.rewards_core.sqlite_kit import run_elsewhere, until
from tests.webhooks.sqlite_kit import Host, ear_of, on_file
from tests.webhooks.store_contract import A_DAY, COUNT, PAY, Ear, claim, event, outcome, ref, resource, wants
from webhooks.store import sqlite_hints, sqlite_jobs
from webhooks.store.records import Priority
from webhooks.store.sqlite_session import Session


async def test_an_outcome_recorded_elsewhere_wakes_a_store_that_watches_it(host: Host) -> None:
    here, there = host.open(ticks=False), host.open(ticks=False)
    ear = await ear_of(here, "1", "2")
    await here.watch([ref("1"), ref("2")], poll_in=60)
    await there.accept(event("1", of=ref("1"), complete=resource("1")))
    await ear.until(lambda ear: ear.settlements)
    await there.record_outcome(outcome(ref("2"), "failed"))
    await ear.until(lambda ear: len(ear.settlements) == 2)
    assert [one.ref.uid for one in ear.settlements] == ["1", "2"]


SETTLES = """
import asyncio, sys
from tests.webhooks.store_contract import event, outcome, ref
from webhooks.store.sqlite import SQLiteStore

async def main():
    store = SQLiteStore(sys.argv[1], boot="first")
    await store.record_outcome(outcome(ref("1")))
    await store.accept(event("1"))
    await store.aclose()

asyncio.run(main())
"""


@pytest.mark.slow
async def test_another_process_wakes_those_whom_it_concerns(host: Host) -> None:
    here = host.open(ticks=False, uptime=uptime)
    ear = await ear_of(here, "1")
    await here.watch([ref("1")], poll_in=60)
    await here.register_handlers([wants(PAY)])
    await run_elsewhere(SETTLES, host.path)
    await ear.until(lambda ear: ear.settlements and ear.jobs)


async def test_a_confirmation_made_elsewhere_is_heard_by_those_who_still_wait(host: Host) -> None:
    here, there = host.open(ticks=False), host.open(ticks=False)
    ear = await ear_of(here, "1")
    await here.watch([ref("1")], poll_in=60)
    await there.accept(event("1", of=ref("1"), complete=resource("1")))
    await ear.until(lambda ear: ear.settlements)  # it has looked beyond the first outcome
    await here.watch([ref("1")], poll_in=60, confirmed=True)
    await there.record_outcome(outcome(ref("1"), confirmed=True))
    await ear.until(lambda ear: ear.confirmations)
    assert ear.confirmations[0].confirmed
    assert ear.confirmations[0].via == "webhook"


async def test_jobs_made_elsewhere_wake_the_store_that_serves_the_handler(host: Host) -> None:
    here, there = host.open(ticks=False), host.open(ticks=False)
    ear = await ear_of(here)
    await here.register_handlers([wants(PAY)])
    await there.accept(event("1"))
    await ear.until(lambda ear: ear.jobs)
    assert len(await claim(here)) == 1


async def test_jobs_wake_no_store_that_serves_another_handler(host: Host) -> None:
    here, there, elsewhere = (host.open(ticks=False) for _ in range(3))
    ear, other = await ear_of(here), await ear_of(elsewhere)
    await here.register_handlers([wants(PAY)])
    await elsewhere.register_handlers([wants(COUNT, "something.else")])
    await there.accept(event("1"))
    await ear.until(lambda ear: ear.jobs)
    assert other.jobs == 0


async def test_operations_to_poll_wake_the_store_that_polls_their_scope(host: Host) -> None:
    here, there = host.open(ticks=False), host.open(ticks=False)
    ear = await ear_of(here)
    assert not (await here.claim_polls("default", limit=1, lease=60, max_per_second=10)).claims
    await there.accept(event("1", of=ref("1")))
    await ear.until(lambda ear: ear.polls)
    await there.add_pending([ref("2", scope="other")], poll_in=0)
    await there.hurry_polls([ref("3")], Priority.WISH)
    await ear.until(lambda ear: ear.polls == 2)


async def test_hints_that_are_lost_cost_a_tick(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = host.open(), host.open(ticks=False)
    monkeypatch.setattr(Wakeups, "send", lambda *_: None)
    ear = await ear_of(here, "1")
    await here.watch([ref("1")], poll_in=60)
    await here.register_handlers([wants(PAY)])
    await there.record_outcome(outcome(ref("1")))
    await ear.until(lambda ear: ear.settlements)
    await there.accept(event("1"))
    await ear.until(lambda ear: ear.jobs > 1)


async def test_more_outcomes_than_one_look_takes_are_all_heard_in_order(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webhooks.store.sqlite_hints.OUTCOMES_AT_ONCE", 3)
    here, there = host.open(), host.open(ticks=False)
    uids = [str(number) for number in range(10)]
    ear = await ear_of(here, *uids)
    await asyncio.gather(*(there.record_outcome(outcome(ref(uid))) for uid in uids))
    await ear.until(lambda ear: len(ear.settlements) == 10)
    assert [one.ref.uid for one in ear.settlements] == uids


async def test_outcomes_that_are_not_waited_for_are_not_told(host: Host) -> None:
    here, there = host.open(), host.open(ticks=False)
    ear = await ear_of(here, "2")
    await there.record_outcome(outcome(ref("1")))
    await there.record_outcome(outcome(ref("2")))
    await ear.until(lambda ear: ear.settlements)
    assert [one.ref.uid for one in ear.settlements] == ["2"]


async def test_an_outcome_recorded_between_the_last_look_and_subscribing_is_seen_or_heard(host: Host) -> None:
    here, there = host.open(), host.open(ticks=False)
    for number in range(20):
        uid = str(number)
        ear = Ear(ref(uid))
        recording = asyncio.ensure_future(there.record_outcome(outcome(ref(uid))))
        await here.subscribe(ear)
        if await here.outcome(ref(uid)) is None:
            await ear.until(lambda ear: ear.settlements)
        await recording
        here.unsubscribe(ear)


async def test_a_confirmed_outcome_is_found_again_though_the_newest_was_purged(host: Host) -> None:
    here, there = host.open(), host.open(ticks=False)
    ear = await ear_of(here, "1", "2")
    for uid in ("1", "2"):
        await there.record_outcome(outcome(ref(uid), via="webhook", at=host.wall - 10 * A_DAY))
    await ear.until(lambda ear: len(ear.settlements) == 2)
    for uid in ("1", "2"):
        await there.record_outcome(outcome(ref(uid), confirmed=True))
        await ear.until(lambda ear, uid=uid: any(one.ref.uid == uid for one in ear.confirmations))  # type: ignore[misc]
    await there.purge_outcomes(A_DAY)
    await there.record_outcome(outcome(ref("1")))
    await ear.until(lambda ear: len(ear.settlements) == 5)


async def test_a_look_up_of_others_outcomes_that_fails_is_repeated(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    here, there = host.open(), host.open(ticks=False)
    ear = await ear_of(here, "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("webhooks.store.hints.RETRY_AFTER", 0.001)
        patch.setattr(sqlite_hints, "refs_after", lambda db, *_: db.execute("SELECT nonsense"))
        await there.record_outcome(outcome(ref("1")))
        await until(lambda: "could not be read; this is retried" in caplog.text)
    await ear.until(lambda ear: ear.settlements)


async def test_subscribers_that_come_at_one_time_miss_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = host.open(), host.open(ticks=False)
    places = iter([0, 99])  # outcomes came while the second one subscribed
    monkeypatch.setattr(sqlite_hints, "newest_seq", lambda db: next(places))
    await asyncio.gather(here.subscribe(Ear()), here.subscribe(Ear()))
    assert not list(places)
    ear = await ear_of(here, "1")
    await there.record_outcome(outcome(ref("1")))
    await ear.until(lambda ear: ear.settlements)


async def test_a_handler_registered_elsewhere_between_two_commits_gets_its_jobs(host: Host) -> None:
    """A tick that notices the registration must leave reading it to the next commit."""
    here, there = host.open(), host.open(ticks=False)
    ear = await ear_of(here, "told")
    await here.ping()
    await there.register_handlers([wants(PAY)])
    await there.record_outcome(outcome(ref("told")))
    await ear.until(lambda ear: ear.settlements)
    await here.accept(event("1"))
    assert len(await claim(there)) == 1


async def test_a_handler_gets_its_jobs_though_a_registration_was_taken_back(host: Host) -> None:
    """What a rolled back transaction read must not pass for what another one commits later."""
    here, there = host.open(ticks=False), host.open(ticks=False)
    await here.register_handlers([wants("app.of.here")])
    await there.register_handlers([wants("app.of.there")])

    def register_and_fail(session: Session) -> None:
        sqlite_jobs.register(session, [wants("app.never")])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await on_file(here, register_and_fail)
    await there.register_handlers([wants(PAY)])
    await here.accept(event("1"))
    assert [one.job.handler for one in await claim(there)] == [PAY]
    assert [one.subscription.handler for one in await there.list_handlers()] == ["app.of.here", "app.of.there", PAY]


async def test_a_registration_whose_batch_was_repeated_is_released_at_once(host: Host) -> None:
    here = host.open(ticks=False)
    await here.ping()

    def fail(session: object) -> None:
        raise ZeroDivisionError

    registering = asyncio.ensure_future(here.register_handlers([wants(PAY)]))
    failing = asyncio.ensure_future(on_file(here, fail))
    await asyncio.wait([registering, failing])
    assert isinstance(failing.exception(), ZeroDivisionError)
    await here.release_handlers([wants(PAY)])
    assert not (await here.list_handlers())[0].served
