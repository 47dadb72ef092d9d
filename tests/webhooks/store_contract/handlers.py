"""Handlers: subscriptions that stay, and one job for each of them on each event that it wants."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.webhooks.store_contract.kit import A_DAY, COUNT, JUMPS, PAY, Ear, Time, claim, event, ref, wants
from webhooks.store.base import Store
from webhooks.store.records import RETIRED, UNSERVED, UNSERVED_DAYS, ClaimedJob, EventState, HandlerStatus, Job

HOUR = 3_600.0


def words_of(claimed: list[ClaimedJob]) -> list[str]:
    return [json.loads(one.event.body)["word"] for one in claimed]


async def statuses(store: Store) -> dict[tuple[str, str, str], HandlerStatus]:
    listed = await store.list_handlers()
    keys = [(one.subscription.service, one.subscription.handler, one.subscription.scope) for one in listed]
    assert keys == sorted(keys)
    return dict(zip(keys, listed, strict=True))


async def jobs(store: Store) -> list[Job]:
    return [job for kept in await store.list_events() for job in kept.jobs]


async def pass_hours(time: Time, hours: int) -> None:
    for _ in range(hours):
        await time.advance(HOUR)


class HandlersContract:
    # subscriptions

    async def test_whichever_store_object_accepts_an_event_it_makes_jobs_for_all_that_want_it(
        self, here: Store, there: Store
    ) -> None:
        ear = Ear()
        await here.subscribe(ear)
        await here.register_handlers([wants(PAY, "reward.allocated", "reward.claimed"), wants(COUNT)])
        await there.accept(event("1", of=ref()))
        await ear.until(lambda ear: ear.jobs)
        await there.accept(event("2", name="asset.minted"))
        (claimed,) = await claim(here)
        assert (claimed.event.body, claimed.event.ref) == (event("1", of=ref()).body, ref())
        assert (claimed.job.handler, claimed.job.attempts) == (PAY, 1)
        assert await claim(here) == []
        assert sorted(words_of(await claim(here, COUNT))) == ["1", "2"]
        assert await claim(here, "app.unknown") == []
        kept = await there.get_event(claimed.job.event_id)
        assert kept is not None
        assert [job.handler for job in kept.jobs] == [COUNT, PAY]

    async def test_subscriptions_are_of_one_scope_and_one_service(self, here: Store, there: Store) -> None:
        await here.register_handlers([wants(PAY), wants(PAY, scope="other", service="shop"), wants(PAY, service="shop")])
        await there.accept(event("1"))
        await there.accept(event("2", scope="other"))
        assert words_of(await claim(there, PAY, scopes=["default", "other"])) == ["1"]
        assert words_of(await claim(there, f"shop/{PAY}", scopes=["other"])) == ["2"]
        assert words_of(await claim(there, f"shop/{PAY}", scopes=["default", "other", "third"])) == ["1"]

    async def test_a_subscription_and_its_jobs_outlive_the_receiver_that_served_it(self, here: Store, there: Store) -> None:
        await here.register_handlers([wants()])
        await here.accept(event("1"))
        await here.release_handlers([wants()])
        await there.accept(event("2", name="another"))
        status = (await statuses(there))["default", PAY, "default"]
        assert (status.served, status.ready) == (False, 2)
        assert sorted(words_of(await claim(there))) == ["1", "2"]

    async def test_the_newest_patterns_of_a_handler_apply(self, here: Store, there: Store) -> None:
        await here.register_handlers([wants(PAY, "a")])
        await there.register_handlers([wants(PAY, "b")])
        for name in ("a", "b"):
            await here.accept(event(name, name=name))
        assert words_of(await claim(here)) == ["b"]
        (status,) = await here.list_handlers()
        assert (status.subscription, status.served, status.differing) == (wants(PAY, "b"), True, True)
        await here.release_handlers([wants(PAY, "a")])
        (status,) = await there.list_handlers()
        assert (status.served, status.differing) == (True, False)
        await there.release_handlers([wants(PAY, "b")])
        (status,) = await here.list_handlers()
        assert (status.subscription, status.served, status.differing) == (wants(PAY, "b"), False, False)

    async def test_of_two_receivers_that_serve_a_handler_one_may_go(self, here: Store, there: Store) -> None:
        await here.register_handlers([wants()])
        await there.register_handlers([wants()])
        await here.release_handlers([wants()])
        (status,) = await here.list_handlers()
        assert status.served
        await here.release_handlers([wants(COUNT)])  # never registered

    async def test_handlers_are_listed_with_their_jobs(self, here: Store, there: Store) -> None:
        await here.register_handlers([wants(PAY, service="shop"), wants(COUNT, "a"), wants(COUNT, "a", scope="other")])
        for word in "123":
            await here.accept(event(word, name="a"))
        (claimed,) = await claim(here, COUNT, limit=1)
        await here.fail_job(claimed.job, reason="gave up", retry_in=None)
        listed = await statuses(there)
        assert list(listed) == [("default", COUNT, "default"), ("default", COUNT, "other"), ("shop", PAY, "default")]
        assert [(one.ready, one.dead) for one in listed.values()] == [(2, 1), (0, 0), (3, 0)]
        assert listed["default", COUNT, "other"].subscription == wants(COUNT, "a", scope="other")

    async def test_a_retired_handler_gets_no_more_jobs_and_those_it_has_die(self, here: Store, there: Store) -> None:
        await here.register_handlers([wants(PAY), wants(PAY, scope="other"), wants(COUNT), wants(PAY, service="shop")])
        await here.accept(event("1"))
        await here.accept(event("2", scope="other"))
        await claim(here, limit=1)
        assert await there.retire_handler("default", PAY) == 2
        assert await there.retire_handler("default", PAY) == 0
        await here.accept(event("3"))
        assert await claim(here, PAY, scopes=["default", "other"]) == []
        assert {(job.handler, job.reason) for job in await jobs(here) if job.state is EventState.DEAD} == {(PAY, RETIRED)}
        assert sorted(words_of(await claim(here, COUNT))) == ["1", "3"]
        assert sorted(words_of(await claim(here, f"shop/{PAY}"))) == ["1", "3"]
        listed = await statuses(here)
        assert (listed["default", PAY, "default"].subscription.patterns, listed["default", PAY, "default"].dead) == (
            frozenset(),
            1,
        )

    async def test_jobs_of_a_retired_handler_can_be_retried_once_it_is_back(self, here: Store, there: Store) -> None:
        await here.register_handlers([wants()])
        await here.accept(event("1"))
        await here.retire_handler("default", PAY)
        await there.register_handlers([wants()])
        (dead,) = await there.list_events(state=EventState.DEAD)
        assert await there.requeue([dead.id]) == 1
        assert words_of(await claim(there)) == ["1"]

    @pytest.mark.slow
    async def test_jobs_that_no_receiver_serves_wait_for_fourteen_days_of_running_time(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.register_handlers([wants(PAY), wants(COUNT)])
        await here.accept(event("1"))
        await here.release_handlers([wants(PAY)])
        for jump in (450 * A_DAY, -460 * A_DAY):
            await time.jump(jump)
            await pass_hours(time, 24)
        await pass_hours(time, 24 * (UNSERVED_DAYS - 3))
        assert [job.state for job in await jobs(there)] == [EventState.READY, EventState.READY]
        await pass_hours(time, 26)
        assert {(job.handler, job.state, job.reason) for job in await jobs(there)} == {
            (COUNT, EventState.READY, None),
            (PAY, EventState.DEAD, UNSERVED),
        }

    @pytest.mark.slow
    async def test_a_handler_that_is_served_in_between_is_given_another_fourteen_days(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.register_handlers([wants()])
        await here.accept(event("1"))
        await here.release_handlers([wants()])
        await pass_hours(time, 24 * (UNSERVED_DAYS - 1))
        await there.register_handlers([wants()])
        await pass_hours(time, 2)
        await there.release_handlers([wants()])
        await pass_hours(time, 24 * (UNSERVED_DAYS - 1))
        assert words_of(await claim(here)) == ["1"]

    # jobs

    async def test_jobs_come_longest_due_first_up_to_the_limit(self, here: Store, there: Store, time: Time) -> None:
        await here.register_handlers([wants(), wants(scope="other")])
        for word, scope in (("1", "default"), ("2", "other"), ("3", "default"), ("4", "other")):
            await here.accept(event(word, scope=scope))
            await time.advance(1)
        both = ["default", "other"]
        assert words_of(await claim(there, limit=3, scopes=both)) == ["1", "2", "3"]
        assert await claim(there, limit=0, scopes=both) == []
        assert words_of(await claim(here, limit=3, scopes=both)) == ["4"]

    async def test_no_job_is_claimed_twice(self, here: Store, there: Store) -> None:
        await here.register_handlers([wants()])
        await asyncio.gather(*(here.accept(event(str(number))) for number in range(40)))
        claims = await asyncio.gather(*(claim(store, limit=5) for _ in range(6) for store in (here, there)))
        claimed = [one for some in claims for one in some]
        assert sorted(words_of(claimed), key=int) == [str(number) for number in range(40)]
        assert len({one.job.fence for one in claimed} - {None}) == 40

    async def test_an_event_is_done_when_its_last_job_is(self, here: Store, there: Store) -> None:
        await here.register_handlers([wants(PAY), wants(COUNT)])
        await here.accept(event())
        for handler, state in ((PAY, EventState.READY), (COUNT, EventState.DONE)):
            (claimed,) = await claim(here, handler)
            assert await here.finish_job(claimed.job) is True
            (kept,) = await there.list_events()
            assert kept.state is state
        assert kept.jobs == ()

    async def test_finishing_a_finished_job_is_true_and_failing_it_changes_nothing(self, here: Store, there: Store) -> None:
        await here.register_handlers([wants()])
        await here.accept(event())
        (claimed,) = await claim(here)
        for store in (here, there, here):
            assert await store.finish_job(claimed.job) is True
        await there.fail_job(claimed.job, reason="too late", retry_in=None)
        (kept,) = await there.list_events()
        assert (kept.state, kept.jobs) == (EventState.DONE, ())

    async def test_what_a_crashed_claimer_left_is_claimed_again_when_its_lease_is_over(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.register_handlers([wants()])
        await here.accept(event())
        (crashed,) = await claim(here)
        await time.advance(59)
        assert await claim(there) == []
        (waiting,) = await jobs(there)
        assert waiting.fence == crashed.job.fence
        assert waiting.due_in == pytest.approx(1, abs=0.5)
        await time.advance(1)
        (second,) = await claim(there)
        assert (second.job.event_id, second.job.attempts) == (crashed.job.event_id, 2)
        assert await here.finish_job(crashed.job) is False
        assert await here.fail_job(crashed.job, reason="late", retry_in=None) is False
        assert await there.finish_job(second.job) is True
        await time.advance(600)
        assert await claim(here) == []

    async def test_the_first_claim_of_each_of_two_store_objects_is_another_one(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.register_handlers([wants()])
        await here.accept(event())
        (old,) = await claim(here)
        await time.advance(60)
        (new,) = await claim(there)
        assert new.job.fence != old.job.fence
        assert await here.finish_job(old.job) is False
        assert await there.finish_job(new.job) is True

    async def test_work_that_outlived_its_lease_counts_unless_another_took_it_up(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.register_handlers([wants()])
        await here.accept(event())
        (claimed,) = await claim(here)
        await time.advance(600)
        assert await here.finish_job(claimed.job) is True
        assert await claim(there) == []

    async def test_a_failed_job_comes_back_when_told_and_harms_no_other(self, here: Store, there: Store, time: Time) -> None:
        await here.register_handlers([wants(PAY), wants(COUNT)])
        await here.accept(event())
        (claimed,) = await claim(here)
        for _ in range(2):
            assert await here.fail_job(claimed.job, reason="ValueError", retry_in=5) is True
            await time.advance(2)
        assert len(await claim(there, COUNT)) == 1
        (failed,) = [job for job in await jobs(there) if job.handler == PAY]
        assert (failed.reason, failed.fence) == ("ValueError", None)
        assert failed.due_in == pytest.approx(1, abs=0.5)
        assert await claim(there) == []
        await time.advance(1)
        (again,) = await claim(there)
        assert (again.job.reason, again.job.attempts) == ("ValueError", 2)
        assert await here.finish_job(claimed.job) is False

    async def test_the_age_of_a_job_is_counted_from_its_first_claim_until_it_is_requeued(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.register_handlers([wants()])
        await here.accept(event("1"))
        await time.advance(100)
        ages = []
        for _ in range(3):
            (claimed,) = await claim(there)
            ages.append(claimed.job.age)
            await time.advance(10)
            await there.fail_job(claimed.job, reason="no", retry_in=5)
            await time.advance(10)
        assert ages == pytest.approx([0, 20, 40])
        (claimed,) = await claim(here)
        await here.fail_job(claimed.job, reason="no", retry_in=None)
        await here.requeue([claimed.job.event_id])
        (again,) = await claim(there)
        assert again.job.age == 0

    async def test_a_job_failed_for_good_makes_its_event_a_dead_letter_until_it_is_requeued(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.register_handlers([wants(PAY), wants(COUNT)])
        await here.accept(event())
        (claimed,) = await claim(here)
        assert await here.fail_job(claimed.job, reason="gave up", retry_in=None) is True
        assert await here.fail_job(claimed.job, reason="gave up again", retry_in=1) is True
        assert await there.list_events(state=EventState.DEAD) == []
        (other,) = await claim(there, COUNT)
        await there.finish_job(other.job)
        (dead,) = await here.list_events(state=EventState.DEAD)
        assert [(job.handler, job.state, job.reason) for job in dead.jobs] == [(PAY, EventState.DEAD, "gave up")]
        assert (await here.statistics()).dead == 1
        await time.advance(600)
        assert await claim(here) == []
        ear = Ear()
        await there.subscribe(ear)
        assert await here.requeue([dead.id, 12_345]) == 1
        await ear.until(lambda ear: ear.jobs)
        (again,) = await claim(there)
        assert (again.job.attempts, again.job.reason) == (1, None)
        assert await claim(there, COUNT) == []

    async def test_an_event_can_be_given_to_every_handler_again_whatever_became_of_it(self, here: Store, there: Store) -> None:
        await here.register_handlers([wants(PAY), wants(COUNT, "another")])
        await here.accept(event())
        (old,) = await claim(here)
        await there.register_handlers([wants(COUNT)])
        assert await there.requeue([old.job.event_id], every_handler=True) == 1
        assert await here.finish_job(old.job) is False
        for handler in (PAY, COUNT):
            (claimed,) = await claim(there, handler)
            assert claimed.job.attempts == 1
            assert await there.finish_job(claimed.job) is True
        assert await there.requeue([old.job.event_id]) == 0
        assert await there.requeue([old.job.event_id], every_handler=True) == 1
        await there.retire_handler("default", PAY)
        await there.retire_handler("default", COUNT)
        assert await here.requeue([old.job.event_id], every_handler=True) == 0
        (kept,) = await here.list_events()
        assert (kept.state, kept.jobs) == (EventState.DONE, ())

    async def test_a_requeued_dead_letter_that_cannot_be_read_runs_no_handler(self, here: Store, there: Store) -> None:
        await here.register_handlers([wants()])
        await here.accept(event(problem="unreadable"))
        (dead,) = await there.list_events()
        assert await there.requeue([dead.id], every_handler=True) == 0
        assert await claim(here) == []

    async def test_requeueing_nothing_wakes_none(self, here: Store) -> None:
        await here.register_handlers([wants()])
        ear = Ear()
        await here.subscribe(ear)
        assert await here.requeue([12_345], every_handler=True) == 0
        assert await here.requeue([]) == 0
        assert ear.jobs == 0

    # a wall clock that is set

    @pytest.mark.parametrize("jump", JUMPS)
    async def test_a_wall_clock_that_is_set_moves_no_lease_and_no_retry(
        self, here: Store, there: Store, time: Time, jump: float
    ) -> None:
        await here.register_handlers([wants(PAY), wants(COUNT)])
        await here.accept(event())
        (leased,) = await claim(here, PAY, lease=60)
        (failing,) = await claim(here, COUNT)
        await here.fail_job(failing.job, reason="ValueError", retry_in=60)
        await time.jump(jump)
        await time.advance(58)
        assert (await claim(there, PAY), await claim(there, COUNT)) == ([], [])
        assert {round(job.due_in) for job in await jobs(there)} == {2}
        await time.advance(3)
        assert len(await claim(there, PAY)) == len(await claim(there, COUNT)) == 1
        assert await here.finish_job(leased.job) is False
        await here.accept(event("after"))
        assert words_of(await claim(there, PAY)) == ["after"]
