"""Upkeep: what is purged, erased and counted, hints, and the end of a store object."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from attrs import evolve

from rewards_core.errors import StoreClosed
from tests.texts import raises
from tests.webhooks.store_contract.events import words
from tests.webhooks.store_contract.handlers import jobs
from tests.webhooks.store_contract.kit import A_DAY, JUMPS, PAY, Ear, Time, claim, event, made_with, outcome, ref, resource, wants
from webhooks.store.base import Store, Subscriber
from webhooks.store.outcomes import CONFLICT_EVENT
from webhooks.store.records import (
    FORGOTTEN,
    IDENTITY_DAYS,
    UNSERVED_DAYS,
    Acceptance,
    EventState,
    Job,
    Outcome,
    PollClaim,
    PollResult,
    Priority,
)

USER = "223144788242"
JOB = Job(event_id=1, handler=PAY, state=EventState.READY, fence="1")
CLAIM = PollClaim(ref=ref(), priority=Priority.ROUTINE, polls=0, attempt=0, start_in=0.0, refusals=0, fence="1")

CALLS: dict[str, Callable[[Store], Awaitable[object]]] = {
    "subscribe": lambda store: store.subscribe(Ear()),
    "accept": lambda store: store.accept(event("2")),
    "amend": lambda store: store.amend(1, event("2")),
    "list_events": lambda store: store.list_events(),
    "get_event": lambda store: store.get_event(1),
    "register_handlers": lambda store: store.register_handlers([wants()]),
    "release_handlers": lambda store: store.release_handlers([wants()]),
    "list_handlers": lambda store: store.list_handlers(),
    "retire_handler": lambda store: store.retire_handler("default", PAY),
    "claim_jobs": claim,
    "finish_job": lambda store: store.finish_job(JOB),
    "fail_job": lambda store: store.fail_job(JOB, reason="", retry_in=None),
    "requeue": lambda store: store.requeue([1]),
    "outcome": lambda store: store.outcome(ref()),
    "outcomes": lambda store: store.outcomes([ref()]),
    "outcomes_by_key": lambda store: store.outcomes_by_key("default", "allocation", "k"),
    "list_outcomes": lambda store: store.list_outcomes(),
    "conflicts": lambda store: store.conflicts(ref()),
    "record_outcome": lambda store: store.record_outcome(outcome(ref())),
    "watch": lambda store: store.watch([ref()], poll_in=0),
    "add_pending": lambda store: store.add_pending([ref()], poll_in=0),
    "remove_pending": lambda store: store.remove_pending([ref()]),
    "list_pending": lambda store: store.list_pending(),
    "pending": lambda store: store.pending([ref()]),
    "hurry_polls": lambda store: store.hurry_polls([ref()], Priority.WISH),
    "claim_polls": lambda store: store.claim_polls("default", limit=1, lease=60, max_per_second=10),
    "permit_poll": lambda store: store.permit_poll("default", max_per_second=10),
    "settle_polls": lambda store: store.settle_polls([PollResult(claim=CLAIM, retry_in=1)]),
    "resume_polls": lambda store: store.resume_polls("default"),
    "pause_polls": lambda store: store.pause_polls("default", 1),
    "upkeep": lambda store: store.upkeep(keep=1),
    "purge": lambda store: store.purge(0),
    "purge_outcomes": lambda store: store.purge_outcomes(0),
    "purge_identities": lambda store: store.purge_identities(),
    "erase_bodies": lambda store: store.erase_bodies(0),
    "forget_user": lambda store: store.forget_user(USER),
    "statistics": lambda store: store.statistics(),
    "activity": lambda store: store.activity(),
    "ping": lambda store: store.ping(),
}


class UpkeepContract:
    # purging

    async def test_purge_takes_only_old_events_in_the_given_state(self, here: Store, there: Store, time: Time) -> None:
        await here.accept(event("done"))
        await here.accept(event("dead", problem="unreadable"))
        await here.register_handlers([wants(PAY, "reward.claimed")])
        await here.accept(event("ready", name="reward.claimed"))
        await time.advance(60)
        await here.accept(event("young"))
        assert await there.purge(30) == 1
        assert await there.purge(30, state=EventState.DEAD) == 1
        with pytest.raises(ValueError, match="state: give "):
            await there.purge(30, state=EventState.READY)
        assert await words(here) == ["young", "ready"]
        assert (await there.statistics()).events == 2

    async def test_purge_takes_the_oldest_first_and_no_more_than_it_may(self, here: Store, there: Store, time: Time) -> None:
        for number in range(5):
            await here.accept(event(str(number)))
            await time.advance(10)
        assert await there.purge(15, limit=3) == 3
        assert await words(here) == ["4", "3"]
        assert await there.purge(15, limit=3) == 1
        assert await there.purge(0, limit=0) == 0

    async def test_an_identity_outlives_its_event_and_is_forgotten_after_four_hundred_days(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.register_handlers([wants()])
        await here.accept(event("old"))
        (claimed,) = await claim(here)
        await here.finish_job(claimed.job)
        await time.advance(300 * A_DAY)
        assert await there.purge(A_DAY) == 1
        assert await words(here) == []
        assert await here.accept(event("old")) is Acceptance.DUPLICATE
        await time.advance((IDENTITY_DAYS - 301) * A_DAY)
        await here.accept(event("young"))
        assert await there.purge_identities() == 0
        await time.advance(3 * A_DAY)
        assert await there.purge_identities(limit=0) == 0
        assert await there.purge_identities() == 1
        assert await here.accept(event("young")) is Acceptance.DUPLICATE
        assert await here.accept(event("old")) is Acceptance.NEW

    async def test_outcomes_are_purged_by_age_with_their_conflicts_and_keys(self, here: Store, there: Store, time: Time) -> None:
        await here.add_pending([ref("waiting")], poll_in=60)
        for uid in "12":
            await here.record_outcome(outcome(ref(uid), "failed", key="k", at=time.wall))
        await here.record_outcome(outcome(ref("1"), "done", at=time.wall))
        await time.advance(60)
        await here.record_outcome(outcome(ref("3"), key="k", at=time.wall))
        assert await there.purge_outcomes(30, limit=1) == 1
        assert await there.purge_outcomes(30) == 1
        assert [one.ref for one in await here.outcomes([ref("1"), ref("2"), ref("3")])] == [ref("3")]
        assert list(await here.conflicts(ref("1"))) == []
        assert await made_with(here, "k") == ["3"]
        assert [pending.ref for pending in await here.list_pending()] == [ref("waiting")]
        await here.record_outcome(outcome(ref("1"), key="k", at=time.wall))
        assert await made_with(there, "k") == ["1", "3"]

    async def test_bodies_are_erased_by_age_while_identity_and_outcome_stay(self, here: Store, there: Store, time: Time) -> None:
        await here.accept(event("old", of=ref(), complete=resource(), signature="k,abc"))
        await here.register_handlers([wants()])
        await here.accept(event("waiting"))
        await here.accept(event("dead", problem="unreadable"))
        await time.advance(60)
        await here.accept(event("young"))
        assert await there.erase_bodies(30, limit=0) == 0
        assert await there.erase_bodies(30) == 1
        assert await there.erase_bodies(30) == 0
        (erased,) = await here.list_events(state=EventState.DONE)
        assert (erased.event.body, erased.event.signature, erased.event.ref) == (b"", None, ref())
        assert [bool(kept.event.body) for kept in await here.list_events()] == [True, True, True, False]
        assert await here.accept(event("old")) is Acceptance.DUPLICATE
        assert await here.outcome(ref()) is not None

    async def test_what_was_erased_is_handed_to_no_handler_again(self, here: Store, there: Store, time: Time) -> None:
        await here.accept(event("old"))
        await time.advance(60)
        await there.erase_bodies(30)
        await here.register_handlers([wants()])
        (erased,) = await here.list_events()
        assert await there.requeue([erased.id], every_handler=True) == 0
        assert await claim(there) == []

    @pytest.mark.parametrize("jump", JUMPS)
    async def test_a_wall_clock_that_is_set_purges_and_erases_nothing(
        self, here: Store, there: Store, time: Time, jump: float
    ) -> None:
        await here.accept(event("done", of=ref("1"), complete=resource("1")))
        await here.accept(event("asks", of=ref("2")))
        await here.accept(event("dead", problem="unreadable"))
        await time.jump(jump)
        await time.advance(60)
        old = A_DAY
        assert await there.purge(old) == await there.purge(old, state=EventState.DEAD) == 0
        assert await there.purge_outcomes(old) == await there.erase_bodies(old) == await there.purge_identities() == 0
        assert sorted(await words(here)) == ["asks", "dead", "done"]
        assert await here.outcome(ref("1")) is not None
        assert [pending.ref for pending in await here.list_pending()] == [ref("2")]
        await time.advance(2 * A_DAY)
        assert await there.purge(old) == 2
        assert await there.purge_outcomes(old) == 1

    async def test_one_upkeep_an_hour_lets_go_of_what_is_old(self, here: Store, there: Store, time: Time) -> None:
        await here.accept(event("old", of=ref("1"), complete=resource("1")))
        await here.accept(event("dead", problem="unreadable"))
        await here.add_pending([ref("2")], poll_in=60)
        await time.advance(10 * A_DAY)
        await here.accept(event("older body"))
        await time.advance(10 * A_DAY)
        await here.accept(event("young"))
        assert await there.upkeep(keep=15 * A_DAY, keep_bodies=5 * A_DAY) is True
        assert [kept.event.body for kept in await here.list_events(state=EventState.DONE)] == [event("young").body, b""]
        assert len(await here.list_events(state=EventState.DEAD)) == 1
        assert await here.outcome(ref("1")) is None
        assert [pending.ref for pending in await here.list_pending()] == [ref("2")]
        await time.advance(3_500)
        assert await here.upkeep(keep=A_DAY) is False
        assert await there.upkeep(keep=A_DAY) is False
        await time.advance(200)
        assert await here.upkeep(keep=A_DAY) is True
        assert await words(there, state=EventState.DONE) == ["young"]

    async def test_an_upkeep_lets_go_of_dead_letters_late_and_of_what_waits_never(
        self, here: Store, there: Store, time: Time, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        await here.accept(event("unreadable", problem="unreadable"))
        await here.register_handlers([wants()])
        await here.accept(event("waits"))
        await time.advance(179 * A_DAY)
        assert await there.upkeep(keep=30 * A_DAY) is True
        assert sorted(await words(here)) == ["unreadable", "waits"]
        await time.advance(2 * A_DAY)
        await here.accept(event("young", problem="unreadable"))
        assert await there.upkeep(keep=30 * A_DAY) is True
        assert sorted(await words(here)) == ["waits", "young"]
        assert "upkeep removed 1 dead letter" in caplog.messages
        await time.advance(15 * A_DAY)
        assert await there.upkeep(keep=30 * A_DAY, keep_dead=UNSERVED_DAYS * A_DAY) is True
        assert await words(here) == ["waits"]

    async def test_an_upkeep_removes_no_more_dead_letters_than_an_hour_allows(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await asyncio.gather(*(here.accept(event(str(number), problem="unreadable")) for number in range(1_500)))
        await time.advance(200 * A_DAY)
        assert await there.upkeep(keep=30 * A_DAY) is True
        assert (await here.statistics()).dead == 500

    async def test_an_upkeep_removes_no_more_than_an_hour_allows(
        self, here: Store, there: Store, time: Time, caplog: pytest.LogCaptureFixture
    ) -> None:
        await asyncio.gather(*(here.accept(event(str(number))) for number in range(1_500)))
        await time.advance(40 * A_DAY)
        assert await there.upkeep(keep=30 * A_DAY) is True
        assert (await here.statistics()).events == 500
        assert "1,000 events" in caplog.text
        await time.advance(3_700)
        assert await there.upkeep(keep=30 * A_DAY) is True
        assert (await here.statistics()).events == 0

    # forgetting a user

    @pytest.mark.parametrize(
        "said",
        [{"to_user_uid": USER}, {"deep": [1, {"user": {"uid": USER}}]}, {"user": int(USER)}, {"by_user": {USER: True}}, [USER]],
    )
    async def test_a_forgotten_user_is_found_wherever_a_body_mentions_it(self, here: Store, there: Store, said: object) -> None:
        await here.accept(event("mentions", said=said, of=ref(), signature="k,abc"))
        assert await there.forget_user(USER) == 1
        assert await there.forget_user(USER) == 0
        (kept,) = await here.list_events()
        assert (kept.event.body, kept.event.signature, kept.state) == (b"", None, EventState.DONE)
        assert await here.accept(event("mentions", said=said)) is Acceptance.DUPLICATE

    @pytest.mark.parametrize("said", [f"{USER}0", f"user {USER}", f"-{USER}", int(USER) * 10, f"0{USER}", USER[:-1]])
    async def test_a_user_whose_uid_only_resembles_another_is_not_forgotten(
        self, here: Store, there: Store, said: object
    ) -> None:
        await here.accept(event("resembles", said=said))
        await here.record_outcome(outcome(ref(), to_user_uid=said))
        assert await there.forget_user(USER) == 0
        (kept,) = await here.list_events()
        assert kept.event.body
        settled = await here.outcome(ref())
        assert settled is not None
        assert settled.resource["to_user_uid"] == said

    async def test_events_of_a_forgotten_user_that_wait_for_a_handler_become_dead_letters(
        self, here: Store, there: Store
    ) -> None:
        await here.register_handlers([wants()])
        for word in "12":
            await here.accept(event(word, said=USER))
        await here.accept(event("another"))
        (running,) = await claim(here, limit=1)
        assert await there.forget_user(USER) == 2
        dead = await here.list_events(state=EventState.DEAD)
        assert [(job.state, job.reason) for kept in dead for job in kept.jobs] == [(EventState.DEAD, FORGOTTEN)] * 2
        assert await there.requeue([kept.id for kept in dead]) == 0
        (left,) = await claim(there)
        assert left.event.body == event("another").body
        assert await here.finish_job(running.job) is True

    async def test_of_outcomes_that_mention_a_forgotten_user_only_their_status_stays(self, here: Store, there: Store) -> None:
        await here.record_outcome(outcome(ref("1"), "failed", key="k", to_user_uid=USER))
        await here.record_outcome(outcome(ref("1"), "done", to_user_uid=USER))
        await here.record_outcome(outcome(ref("2"), key="k"))
        assert await there.forget_user(USER) == 2  # the outcome, and the event that told of the conflict
        settled = await here.outcome(ref("1"))
        assert settled is not None
        assert (settled.status, settled.resource, settled.key) == ("failed", {}, None)
        assert [(one.status, one.resource) for one in await here.conflicts(ref("1"))] == [("done", {})]
        (told,) = await here.list_events(name=CONFLICT_EVENT)
        assert told.event.body == b""
        assert await made_with(here, "k") == ["2"]

    async def test_a_dead_letter_that_cannot_be_read_is_erased_if_it_holds_the_uid_as_a_word(
        self, here: Store, there: Store
    ) -> None:
        def unreadable(word: str) -> bytes:
            return b'{"to_user_uid": "' + word.encode() + b'", broken'

        for word in (USER, f"{USER}1"):
            await here.accept(evolve(event(word, problem="unreadable"), body=unreadable(word)))
        assert await there.forget_user(USER) == 1
        assert [kept.event.body for kept in await here.list_events()] == [unreadable(f"{USER}1"), b""]

    # hints

    async def test_hints_come_before_the_call_returns_and_end_with_unsubscribe(self, here: Store) -> None:
        ear, other = Ear(), Ear()
        for each in (ear, ear, other):
            await here.subscribe(each)
        await here.record_outcome(outcome(ref("1")))
        assert [one.ref for one in ear.settlements] == [ref("1")]
        here.unsubscribe(ear)
        here.unsubscribe(ear)
        await here.record_outcome(outcome(ref("2")))
        assert [one.ref for one in ear.settlements] == [ref("1")]
        assert [one.ref for one in other.settlements] == [ref("1"), ref("2")]

    async def test_subscribers_of_a_store_object_hear_of_deliveries_refused_for_their_signature(self, here: Store) -> None:
        ear = Ear()
        await here.subscribe(ear)
        here.refused("mismatch")
        assert ear.refusals == ["mismatch"]
        here.unsubscribe(ear)
        here.refused("missing")
        assert ear.refusals == ["mismatch"]
        assert (await here.statistics()).events == 0

    async def test_when_an_outcome_is_heard_it_can_be_looked_up(self, here: Store) -> None:
        seen: list[asyncio.Task[Outcome | None]] = []

        class Looker(Subscriber):
            def settled(self, outcome: Outcome) -> None:
                seen.append(asyncio.get_running_loop().create_task(here.outcome(outcome.ref)))

        await here.subscribe(Looker())
        await here.accept(event(of=ref("1"), complete=resource("1")))
        assert [one is not None for one in await asyncio.gather(*seen)] == [True]

    async def test_a_subscriber_that_raises_harms_no_other(self, here: Store, caplog: pytest.LogCaptureFixture) -> None:
        class Broken(Subscriber):
            def settled(self, outcome: Outcome) -> None:
                raise RuntimeError("broken")

            def polls_due(self) -> None:
                raise RuntimeError("broken")

            def jobs_ready(self) -> None:
                raise RuntimeError("broken")

            def refused(self, reason: str) -> None:
                raise RuntimeError("broken")

        early, late = Ear(), Ear()
        for each in (early, Broken(), late):
            await here.subscribe(each)
        await here.register_handlers([wants()])
        await here.accept(event("1", of=ref("1"), complete=resource("1")))
        await here.accept(event("2", of=ref("2")))
        here.refused("mismatch")
        for ear in (early, late):
            assert (len(ear.settlements), ear.jobs > 0, ear.polls > 0, ear.refusals) == (1, True, True, ["mismatch"])
        assert sum("subscriber" in record.message for record in caplog.records) >= 4

    # life

    async def test_statistics_count_what_is_held_and_say_since_when_an_event_waits(
        self, here: Store, there: Store, time: Time
    ) -> None:
        assert (await here.statistics()).oldest_ready_at is None
        await here.register_handlers([wants()])
        received = time.wall
        await here.accept(event("1"))
        await time.advance(5)
        await here.accept(event("2", of=ref("asked")))
        await here.accept(event("3", problem="unreadable"))
        await here.record_outcome(outcome(ref("1"), "failed"))
        await here.add_pending([ref("pending")], poll_in=60)
        counted = await there.statistics()
        assert (counted.events, counted.ready, counted.dead) == (3, 2, 1)
        assert (counted.outcomes, counted.conflicts, counted.pending, counted.lookups) == (1, 0, 2, 1)
        assert counted.oldest_ready_at == pytest.approx(received, abs=1)
        assert len(await jobs(there)) == 2

    async def test_an_open_store_answers_a_ping(self, here: Store, there: Store) -> None:
        await here.ping()
        await there.ping()

    @pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
    async def test_a_closed_store_object_says_so(self, here: Store, call: Callable[[Store], Awaitable[object]]) -> None:
        await here.accept(event())
        await here.aclose()
        await here.aclose()
        with raises(StoreClosed, "a store that was closed"):
            await call(here)

    def test_every_method_of_a_store_is_tried_after_its_end(self) -> None:
        methods = {name for name in dir(Store) if name[0] != "_"}
        assert methods - CALLS.keys() == {"unsubscribe", "refused", "woken", "unwatch", "aclose"}
