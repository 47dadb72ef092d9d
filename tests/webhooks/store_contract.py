"""What every store must do. Subclass `StoreContract` in a test module and provide the fixtures `make_store` and `clock`."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any

import pytest

from rewards_core.errors import StoreClosed
from rewards_core.operations import Event, OperationRef, OperationStatus
from webhooks.store.base import NO_SUCH_HANDLER, Acceptance, EventState, Job, Outcome, Store, Subscriber, Verdict
from webhooks.store.outcomes import CONFLICT_EVENT, unpack

A_DAY = 86_400.0
PAY = "app.pay"
COUNT = "app.count"


class Clock:
    """Unix time that moves only when told."""

    def __init__(self, now: float = 1_760_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Ear(Subscriber):
    """Writes down what it hears."""

    def __init__(self) -> None:
        self.settlements: list[Outcome] = []
        self.questions: list[OperationRef] = []
        self.readies = 0
        self.refusals: list[str] = []

    def settled(self, outcome: Outcome) -> None:
        self.settlements.append(outcome)

    def asked(self, ref: OperationRef) -> None:
        self.questions.append(ref)

    def ready(self) -> None:
        self.readies += 1

    def refused(self, reason: str) -> None:
        self.refusals.append(reason)


MakeStore = Callable[[], Awaitable[Store]]


def ref(uid: str = "1", kind: str = "allocation", scope: str = "default") -> OperationRef:
    return OperationRef(scope, kind, uid)


def resource(uid: str = "1", status: str = "done", amount: Any = "1.5") -> dict[str, Any]:
    return {"uid": uid, "status": status, "amount": amount, "created_at": "2023-08-10T14:07:14.494142Z"}


def outcome(
    of: OperationRef, status: str = "done", via: Any = "poll", at: float = 1_760_000_000.0, key: str | None = None, **more: Any
) -> Outcome:
    words = resource(of.uid, status, **more)
    return Outcome(ref=of, status=OperationStatus(status), resource=words, via=via, settled_at=at, key=key)


def event(
    word: str = "first",
    *,
    name: str = "reward.allocated",
    of: OperationRef | None = None,
    scope: str = "default",
    complete: dict[str, Any] | None = None,
    problem: str | None = None,
    **more: Any,
) -> Event:
    body = json.dumps({"event": name, "word": word}).encode()
    return Event(
        scope=of.scope if of else scope,
        name=name,
        identity=hashlib.sha256(body).digest()[:16],
        body=body,
        ref=of,
        resource=complete,
        problem=problem,
        **more,
    )


JOB = Job(event_id=1, handler=PAY, state=EventState.READY, due_at=0.0)


async def made_with(store: Store, key: str, kind: str = "allocation", scope: str = "default") -> list[str]:
    return sorted(one.ref.uid for one in await store.outcomes_by_key(scope, kind, key))


async def collect(store: Store, scope: str = "default") -> set[OperationRef]:
    return {ref async for ref in store.pending(scope)}


class StoreContract:
    """Every test takes the fixture `store`; those that restart it take `make_store` too."""

    # events and their identity

    async def test_a_new_event_is_kept_as_it_was(self, store: Store, clock: Clock) -> None:
        sent = event(of=ref("7"), occurred_at="2024-08-01T11:24:36Z", correlation_id="c-1", attempt="2", signature="k,abc")
        assert await store.accept(sent) is Acceptance.NEW
        (kept,) = await store.list_events()
        assert (kept.state, kept.received_at, kept.jobs) == (EventState.DONE, clock.now, ())
        for field in (
            "scope",
            "name",
            "identity",
            "body",
            "ref",
            "occurred_at",
            "correlation_id",
            "attempt",
            "problem",
            "signature",
        ):
            assert getattr(kept.event, field) == getattr(sent, field)
        assert await store.get_event(kept.id) == kept

    async def test_the_same_identity_is_a_duplicate_whatever_else_differs(self, store: Store) -> None:
        first = event("same", correlation_id="c-1")
        assert await store.accept(first) is Acceptance.NEW
        assert await store.accept(event("same", correlation_id="c-2", attempt="9")) is Acceptance.DUPLICATE
        (kept,) = await store.list_events()
        assert kept.event.correlation_id == "c-1"

    async def test_another_identity_under_a_known_correlation_id_is_new(self, store: Store) -> None:
        await store.accept(event("one", correlation_id="c-1"))
        assert await store.accept(event("two", correlation_id="c-1")) is Acceptance.NEW
        assert [kept.event.body for kept in await store.list_events()] == [event("two").body, event("one").body]

    async def test_of_many_equal_deliveries_at_once_one_is_new(self, store: Store) -> None:
        answers = await asyncio.gather(*(store.accept(event("same", of=ref())) for _ in range(20)))
        assert sorted(answers) == sorted([Acceptance.NEW, *[Acceptance.DUPLICATE] * 19])

    async def test_several_events_are_kept_as_each_would_be_alone(self, store: Store, ear: Ear) -> None:
        await store.accept(event("known"))
        arrivals = [
            (event("1", of=ref("1"), complete=resource("1")), [PAY]),
            (event("known"), [PAY]),
            (event("2", of=ref("2")), []),
            (event("1", of=ref("1"), complete=resource("1")), [PAY]),
            (event("3", problem="unreadable"), [PAY]),
        ]
        assert list(await store.accept_all(arrivals)) == ["new", "duplicate", "new", "duplicate", "new"]
        assert [one.ref for one in ear.settlements] == [ref("1")]
        assert (ear.questions, ear.readies) == ([ref("2")], 1)
        assert len(await store.claim_jobs(PAY, limit=5, lease=60)) == 1
        assert list(await store.accept_all([])) == []

    async def test_an_event_that_cannot_be_kept_takes_none_of_its_neighbours_along(self, store: Store) -> None:
        poison = event("poison", of=ref("2"), complete={**resource("2"), "note": object()})
        answers = await store.accept_all([(event("1"), []), (poison, []), (event("3"), [])])
        assert (answers[0], answers[2]) == (Acceptance.NEW, Acceptance.NEW)
        assert isinstance(answers[1], TypeError)

    async def test_a_duplicate_neither_settles_nor_asks_nor_wakes(self, store: Store, ear: Ear) -> None:
        await store.accept(event("same"))
        await store.accept(event("same", of=ref(), complete=resource()), handlers=[PAY])
        assert await store.outcome(ref()) is None
        assert (ear.settlements, ear.questions, ear.readies) == ([], [], 0)

    async def test_an_identity_outlives_the_purge_of_its_body(self, store: Store, clock: Clock) -> None:
        await store.accept(event("old"))
        clock.now += 300 * A_DAY
        assert await store.purge(clock.now) == 1
        assert await store.list_events() == []
        assert await store.accept(event("old"), handlers=[PAY]) is Acceptance.DUPLICATE
        assert await store.claim_jobs(PAY, limit=10, lease=60) == []

    async def test_a_dead_letter_is_kept_with_its_reason_and_settles_nothing(self, store: Store, ear: Ear) -> None:
        await store.accept(event(of=ref(), complete=resource(), problem="names another app"), handlers=[PAY])
        (kept,) = await store.list_events(state=EventState.DEAD)
        assert (kept.event.problem, kept.jobs) == ("names another app", ())
        assert await store.outcome(ref()) is None
        assert await store.claim_questions("default", limit=10, lease=60) == []
        assert await store.claim_jobs(PAY, limit=10, lease=60) == []
        assert (ear.settlements, ear.questions, ear.readies) == ([], [], 0)

    async def test_events_are_listed_newest_first_by_page_and_by_condition(self, store: Store) -> None:
        await store.accept(event("1", name="a", of=ref("1")))
        await store.accept(event("2", name="b", scope="other"))
        await store.accept(event("3", name="a", problem="unreadable"))
        await store.accept(event("4", name="a"), handlers=[PAY])

        async def words(**conditions: Any) -> list[str]:
            return [json.loads(kept.event.body)["word"] for kept in await store.list_events(**conditions)]

        assert await words() == ["4", "3", "2", "1"]
        assert await words(name="a") == ["4", "3", "1"]
        assert await words(scope="other") == ["2"]
        assert await words(state=EventState.DEAD) == ["3"]
        assert await words(state=EventState.READY) == ["4"]
        assert await words(ref=ref("1")) == ["1"]
        assert await words(scope="default", name="a", state=EventState.DONE) == ["1"]
        page = await store.list_events(limit=2)
        assert await words(before_id=page[-1].id, limit=1) == ["2"]
        assert await store.list_events(limit=0) == []

    async def test_an_unknown_event_is_none(self, store: Store) -> None:
        assert await store.get_event(12_345) is None

    # outcomes

    async def test_a_complete_resource_settles_with_its_event(self, store: Store, ear: Ear, clock: Clock) -> None:
        await store.accept(event(of=ref("7"), complete=resource("7")))
        settled = await store.outcome(ref("7"))
        assert settled == Outcome(
            ref=ref("7"), status=OperationStatus.DONE, resource=resource("7"), via="webhook", settled_at=clock.now
        )
        assert ear.settlements == [settled]
        assert ear.questions == []

    async def test_the_outcome_is_what_the_resource_says_not_the_name_of_the_event(self, store: Store) -> None:
        await store.accept(event(name="reward.allocated", of=ref(), complete=resource(status="failed")))
        settled = await store.outcome(ref())
        assert settled is not None
        assert settled.status is OperationStatus.FAILED

    @pytest.mark.parametrize("status", ["Done", "DONE"])
    async def test_the_case_of_a_status_does_not_matter(self, store: Store, status: str) -> None:
        await store.accept(event(of=ref(), complete=resource(status=status)))
        settled = await store.outcome(ref())
        assert settled is not None
        assert settled.status is OperationStatus.DONE

    @pytest.mark.parametrize("words", [{"status": "pending"}, {"status": "dancing"}, {"status": None}, {}])
    async def test_a_resource_without_a_terminal_status_asks_instead(self, store: Store, words: dict[str, Any]) -> None:
        await store.accept(event(of=ref(), complete={"uid": "1", **words}))
        assert await store.outcome(ref()) is None
        assert await store.claim_questions("default", limit=10, lease=60) == [ref()]

    async def test_operations_of_other_kind_or_scope_are_others(self, store: Store) -> None:
        await store.record_outcome(outcome(ref("1", kind="allocation")))
        assert await store.outcome(ref("1", kind="claim")) is None
        assert await store.outcome(ref("1", scope="other")) is None
        found = await store.outcomes([ref("1"), ref("2"), ref("1", kind="claim")])
        assert [one.ref for one in found] == [ref("1")]

    async def test_outcomes_of_no_refs_are_none(self, store: Store) -> None:
        assert list(await store.outcomes([])) == []

    async def test_the_first_outcome_wins(self, store: Store, ear: Ear) -> None:
        first = outcome(ref(), "failed", via="poll")
        recorded = await store.record_outcome(first)
        assert (recorded.verdict, recorded.outcome) == (Verdict.FIRST, first)
        recorded = await store.record_outcome(outcome(ref(), "done", via="webhook"))
        assert (recorded.verdict, recorded.outcome) == (Verdict.CONFLICT, first)
        assert await store.outcome(ref()) == first
        assert ear.settlements == [first]

    async def test_of_many_outcomes_at_once_one_is_first(self, store: Store) -> None:
        recorded = await asyncio.gather(*(store.record_outcome(outcome(ref(), at=float(n))) for n in range(20)))
        assert sum(one.verdict is Verdict.FIRST for one in recorded) == 1
        assert len({one.outcome.settled_at for one in recorded}) == 1

    @pytest.mark.parametrize(
        ("first", "then"),
        [("1.5", "1.50"), ("1.5", 1.5), (Decimal("0.123456789012345678901"), "0.1234567890123456789010"), ("x", "y")],
    )
    async def test_the_same_outcome_in_other_words_is_no_conflict(self, store: Store, first: Any, then: Any) -> None:
        await store.record_outcome(outcome(ref(), amount=first))
        assert (await store.record_outcome(outcome(ref(), via="webhook", amount=then))).verdict is Verdict.SAME
        assert list(await store.conflicts(ref())) == []

    @pytest.mark.parametrize(
        ("first", "then"), [("1.5", "1.6"), ("1.5", 15), (Decimal("0.1234567890123456789"), "0.1234567890123456788")]
    )
    async def test_another_amount_is_a_conflict(self, store: Store, first: Any, then: Any) -> None:
        await store.record_outcome(outcome(ref(), amount=first))
        assert (await store.record_outcome(outcome(ref(), amount=then))).verdict is Verdict.CONFLICT

    async def test_numbers_come_back_exactly(self, store: Store) -> None:
        exact = outcome(ref(), amount=Decimal("123456789.123456789012345678"))
        exact = Outcome(
            ref=exact.ref,
            status=exact.status,
            resource={**exact.resource, "chain_id": 2**80, "note": "ü\u2028\ud800", "nested": {"list": [1, None, True, 1.25]}},
            via="poll",
            settled_at=exact.settled_at,
        )
        await store.record_outcome(exact)
        assert await store.outcome(ref()) == exact

    async def test_a_conflict_is_kept_counted_and_told_to_handlers_once(self, store: Store, ear: Ear) -> None:
        store.route_conflicts({"default": [PAY], "other": [COUNT]})
        await store.record_outcome(outcome(ref(), "failed"))
        for _ in range(2):
            await store.accept(event("late", of=ref(), complete=resource(status="done")))
            await store.record_outcome(outcome(ref(), "done", via="webhook"))
        (kept,) = await store.conflicts(ref())
        assert kept.status is OperationStatus.DONE
        assert (await store.statistics()).conflicts == 1
        (told,) = await store.claim_jobs(PAY, limit=10, lease=60)
        assert (told.event.name, told.event.ref) == (CONFLICT_EVENT, ref())
        words = unpack(told.event.body)
        assert (words["first"]["status"], words["then"]["status"]) == ("failed", "done")
        assert words["operation"] == {"scope": "default", "kind": "allocation", "uid": "1"}
        assert await store.claim_jobs(COUNT, limit=10, lease=60) == []
        assert ear.readies == 1

    async def test_a_conflict_that_no_handler_wants_is_kept_all_the_same(self, store: Store, ear: Ear) -> None:
        await store.record_outcome(outcome(ref(), "failed"))
        await store.record_outcome(outcome(ref(), "done"))
        (kept,) = await store.list_events(name=CONFLICT_EVENT)
        assert (kept.state, kept.event.ref) == (EventState.DONE, ref())
        assert ear.readies == 0

    async def test_outcomes_and_old_pending_operations_can_be_purged(self, store: Store, clock: Clock) -> None:
        await store.add_pending([ref("old")])
        await store.record_outcome(outcome(ref("1"), "failed", at=clock.now))
        await store.record_outcome(outcome(ref("1"), "done", at=clock.now))
        clock.now += 10
        await store.add_pending([ref("young")])
        await store.record_outcome(outcome(ref("2"), at=clock.now))
        assert await store.purge_outcomes(clock.now) == 1
        assert await store.outcome(ref("1")) is None
        assert list(await store.conflicts(ref("1"))) == []
        assert await store.outcome(ref("2")) is not None
        assert await collect(store) == {ref("young")}

    # outcomes by the key of their operation

    async def test_an_outcome_is_found_by_the_key_its_event_or_its_reader_names(self, store: Store, ear: Ear) -> None:
        await store.accept(event(of=ref("1"), complete=resource("1"), key="k"))
        await store.record_outcome(outcome(ref("2"), key="l"))
        await store.record_outcome(outcome(ref("3")))
        assert (await made_with(store, "k"), await made_with(store, "l"), await made_with(store, "m")) == (["1"], ["2"], [])
        (found,) = await store.outcomes_by_key("default", "allocation", "k")
        assert found == await store.outcome(ref("1")) == ear.settlements[0]
        assert [one.key for one in ear.settlements] == ["k", "l", None]

    async def test_one_key_may_belong_to_several_operations_but_not_across_kinds_or_scopes(self, store: Store) -> None:
        for one in (ref("1"), ref("2"), ref("3", kind="claim"), ref("4", scope="other")):
            await store.record_outcome(outcome(one, key="k"))
        assert await made_with(store, "k") == ["1", "2"]
        assert await made_with(store, "k", kind="claim") == ["3"]
        assert await made_with(store, "k", scope="other") == ["4"]

    async def test_a_later_record_that_says_the_same_adds_the_key_that_the_first_lacked(self, store: Store, ear: Ear) -> None:
        await store.record_outcome(outcome(ref("1")))
        assert (await store.record_outcome(outcome(ref("1"), key="k"))).outcome.key == "k"
        assert (await store.record_outcome(outcome(ref("1"), key="another"))).outcome.key == "k"
        assert (await made_with(store, "k"), await made_with(store, "another")) == (["1"], [])
        assert await store.outcome(ref("1")) == outcome(ref("1"), key="k")
        assert len(ear.settlements) == 1

    async def test_records_of_one_moment_leave_the_key_that_any_of_them_names(self, store: Store) -> None:
        recorded = await asyncio.gather(*(store.record_outcome(outcome(ref("1"), key=key)) for key in (None, "k", None)))
        assert [one.verdict for one in recorded] == [Verdict.FIRST, Verdict.SAME, Verdict.SAME]
        assert await made_with(store, "k") == ["1"]

    async def test_an_outcome_that_differs_keeps_its_key_for_itself(self, store: Store) -> None:
        await store.record_outcome(outcome(ref("1"), "failed"))
        await store.record_outcome(outcome(ref("1"), "done", key="k"))
        assert await made_with(store, "k") == []
        assert [one.key for one in await store.conflicts(ref("1"))] == ["k"]

    async def test_what_is_purged_is_not_found_by_its_key_any_more(self, store: Store, clock: Clock) -> None:
        for uid in "123":
            await store.record_outcome(outcome(ref(uid), at=clock.now + float(uid), key="k"))
        assert await store.purge_outcomes(clock.now + 3) == 2
        assert await made_with(store, "k") == ["3"]
        assert await store.purge_outcomes(clock.now + 4) == 1
        assert await made_with(store, "k") == []
        await store.record_outcome(outcome(ref("1"), at=clock.now, key="k"))
        assert await made_with(store, "k") == ["1"]

    async def test_an_outcome_recorded_again_after_a_caller_gave_up_is_the_same(self, store: Store) -> None:
        first = asyncio.ensure_future(store.record_outcome(outcome(ref("1"), key="k")))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert (await store.record_outcome(outcome(ref("1"), key="k"))).verdict is Verdict.SAME
        assert await made_with(store, "k") == ["1"]

    # pending

    async def test_pending_operations_are_listed_by_scope_until_they_settle_or_are_removed(self, store: Store) -> None:
        refs = [ref("1"), ref("1", kind="claim"), ref("2"), ref("3")]
        await store.add_pending([*refs, ref("9", scope="other"), ref("1")])
        assert await collect(store) == set(refs)
        await store.record_outcome(outcome(ref("1")))
        await store.accept(event(of=ref("2"), complete=resource("2")))
        await store.remove_pending([ref("3"), ref("never seen")])
        assert await collect(store) == {ref("1", kind="claim")}
        assert await collect(store, "other") == {ref("9", scope="other")}
        assert await collect(store, "nobody") == set()
        assert (await store.statistics()).pending == 2

    async def test_a_settled_operation_does_not_become_pending(self, store: Store) -> None:
        await store.record_outcome(outcome(ref("1")))
        await store.add_pending([ref("1"), ref("2")])
        assert await collect(store) == {ref("2")}

    async def test_pending_operations_may_change_while_they_are_listed(self, store: Store) -> None:
        many = [ref(str(n)) for n in range(2_500)]
        await store.add_pending(many)
        seen = set()
        async for one in store.pending("default"):
            seen.add(one)
            if len(seen) == 3:
                await store.remove_pending(many[5:2_400])
                await store.add_pending([ref("late")])
        assert {*many[:3], *many[2_400:]} <= seen <= {*many, ref("late")}

    # questions

    async def test_an_event_with_only_a_ref_asks_once(self, store: Store, ear: Ear) -> None:
        await store.accept(event("1", of=ref()))
        await store.accept(event("2", of=ref()))
        assert ear.questions == [ref()]
        assert await store.claim_questions("default", limit=10, lease=60) == [ref()]
        assert (await store.statistics()).questions == 1

    async def test_every_further_operation_of_an_event_is_asked_about_like_the_first(self, store: Store, ear: Ear) -> None:
        await store.record_outcome(outcome(ref("3"), "done"))
        await store.accept(event("1", of=ref("2")))
        await store.accept(event("2", of=ref("1"), also=(ref("2"), ref("3"), ref("4"))))
        await store.accept(event("3", of=ref("5"), complete=resource("5"), also=(ref("6"),)))
        await store.accept(event("4", also=(ref("7"),)))
        await store.accept(event("5", also=(ref("8"),), problem="unreadable"))
        asked = [ref(uid) for uid in "21467"]
        assert ear.questions == asked
        assert sorted(await store.claim_questions("default", limit=10, lease=60), key=str) == sorted(asked, key=str)

    async def test_an_amended_event_asks_about_every_operation_it_speaks_of(self, store: Store, ear: Ear) -> None:
        await store.accept(event("1", problem="unreadable"))
        (dead,) = await store.list_events()
        await store.amend(dead.id, event("1", of=ref("1"), complete=resource("1"), also=(ref("2"),)))
        await store.amend(dead.id, event("1", also=(ref("3"),)))
        assert ear.questions == [ref("2"), ref("3")]

    async def test_an_event_without_a_ref_asks_nothing(self, store: Store, ear: Ear) -> None:
        await store.accept(event())
        assert await store.claim_questions("default", limit=10, lease=60) == []
        assert ear.questions == []

    async def test_an_event_for_an_operation_known_as_done_asks_nothing_but_one_known_as_failed_is_asked_again(
        self, store: Store
    ) -> None:
        await store.record_outcome(outcome(ref("1"), "done"))
        await store.record_outcome(outcome(ref("2"), "failed"))
        await store.accept(event("1", of=ref("1")))
        await store.accept(event("2", of=ref("2")))
        assert await store.claim_questions("default", limit=10, lease=60) == [ref("2")]

    async def test_questions_are_leased_and_come_back_when_the_lease_is_over(self, store: Store, clock: Clock) -> None:
        await store.accept(event("1", of=ref("1")))
        clock.now += 1
        await store.accept(event("2", of=ref("2")))
        await store.accept(event("3", of=ref("3", scope="other")))
        assert await store.claim_questions("default", limit=1, lease=60) == [ref("1")]
        assert await store.claim_questions("default", limit=5, lease=60) == [ref("2")]
        assert await store.claim_questions("default", limit=5, lease=60) == []
        clock.now += 60
        assert list(await store.claim_questions("default", limit=5, lease=60)) == [ref("1"), ref("2")]

    async def test_a_question_is_closed_by_the_outcome_or_by_hand(self, store: Store, clock: Clock) -> None:
        for uid in "123":
            await store.accept(event(uid, of=ref(uid)))
        await store.record_outcome(outcome(ref("1")))
        await store.close_questions([ref("2"), ref("never asked"), ref("1", scope="nobody")])
        assert await store.claim_questions("default", limit=5, lease=60) == [ref("3")]
        clock.now += 60
        assert await store.claim_questions("default", limit=5, lease=60) == [ref("3")]

    # handlers

    async def test_every_handler_of_an_event_has_a_job_of_its_own(self, store: Store, clock: Clock, ear: Ear) -> None:
        await store.accept(event("1", of=ref()), handlers=[PAY, COUNT])
        await store.accept(event("2"))
        await store.accept(event("3"), handlers=[COUNT])
        (claimed,) = await store.claim_jobs(PAY, limit=10, lease=60)
        assert (claimed.event.body, claimed.event.ref) == (event("1").body, ref())
        assert (claimed.job.handler, claimed.job.attempts, claimed.job.due_at) == (PAY, 1, clock.now + 60)
        assert await store.claim_jobs(PAY, limit=10, lease=60) == []
        assert len(await store.claim_jobs(COUNT, limit=10, lease=60)) == 2
        assert await store.claim_jobs("app.unknown", limit=10, lease=60) == []
        assert ear.readies == 2
        kept = await store.get_event(claimed.job.event_id)
        assert kept is not None
        assert [job.handler for job in kept.jobs] == [COUNT, PAY]
        assert claimed.job in kept.jobs

    async def test_jobs_come_longest_due_first_up_to_the_limit(self, store: Store, clock: Clock) -> None:
        for word in "123":
            await store.accept(event(word), handlers=[PAY])
            clock.now += 1
        assert [one.event.body for one in await store.claim_jobs(PAY, limit=2, lease=60)] == [event("1").body, event("2").body]
        assert [one.event.body for one in await store.claim_jobs(PAY, limit=2, lease=60)] == [event("3").body]

    async def test_an_event_is_done_when_its_last_job_is(self, store: Store) -> None:
        await store.accept(event(), handlers=[PAY, COUNT])
        for handler, state in ((PAY, EventState.READY), (COUNT, EventState.DONE)):
            (claimed,) = await store.claim_jobs(handler, limit=1, lease=60)
            assert await store.finish_job(claimed.job) is True
            assert await store.finish_job(claimed.job) is False
            (kept,) = await store.list_events()
            assert kept.state is state
        assert kept.jobs == ()

    async def test_what_a_crashed_claimer_left_is_claimed_again_when_its_lease_is_over(self, store: Store, clock: Clock) -> None:
        await store.accept(event(), handlers=[PAY])
        (crashed,) = await store.claim_jobs(PAY, limit=10, lease=60)
        clock.now += 59
        assert await store.claim_jobs(PAY, limit=10, lease=60) == []
        clock.now += 1
        (second,) = await store.claim_jobs(PAY, limit=10, lease=60)
        assert (second.job.event_id, second.job.attempts) == (crashed.job.event_id, 2)
        assert await store.finish_job(crashed.job) is False
        assert await store.fail_job(crashed.job, reason="late", retry_at=None) is False
        assert await store.finish_job(second.job) is True
        clock.now += 600
        assert await store.claim_jobs(PAY, limit=10, lease=60) == []

    async def test_a_failed_job_comes_back_when_told_and_harms_no_other(self, store: Store, clock: Clock) -> None:
        await store.accept(event(), handlers=[PAY, COUNT])
        (claimed,) = await store.claim_jobs(PAY, limit=10, lease=60)
        assert await store.fail_job(claimed.job, reason="ValueError", retry_at=clock.now + 5) is True
        assert await store.fail_job(claimed.job, reason="again", retry_at=clock.now) is False
        assert len(await store.claim_jobs(COUNT, limit=10, lease=60)) == 1
        clock.now += 4
        assert await store.claim_jobs(PAY, limit=10, lease=60) == []
        clock.now += 1
        (again,) = await store.claim_jobs(PAY, limit=10, lease=60)
        assert (again.job.reason, again.job.attempts) == ("ValueError", 2)

    async def test_a_job_failed_for_good_makes_its_event_a_dead_letter_until_it_is_requeued(
        self, store: Store, clock: Clock, ear: Ear
    ) -> None:
        await store.accept(event(), handlers=[PAY, COUNT])
        (claimed,) = await store.claim_jobs(PAY, limit=10, lease=60)
        await store.fail_job(claimed.job, reason="gave up", retry_at=None)
        assert await store.list_events(state=EventState.DEAD) == []
        (other,) = await store.claim_jobs(COUNT, limit=10, lease=60)
        await store.finish_job(other.job)
        (dead,) = await store.list_events(state=EventState.DEAD)
        assert [(job.handler, job.state, job.reason) for job in dead.jobs] == [(PAY, EventState.DEAD, "gave up")]
        assert (await store.statistics()).dead == 1
        clock.now += 600
        assert await store.claim_jobs(PAY, limit=10, lease=60) == []
        assert await store.requeue([dead.id, 12_345]) == 1
        assert ear.readies == 2
        (again,) = await store.claim_jobs(PAY, limit=10, lease=60)
        assert (again.job.attempts, again.job.reason) == (1, None)
        assert await store.claim_jobs(COUNT, limit=10, lease=60) == []

    async def test_an_event_can_be_given_to_handlers_anew_whatever_became_of_it(self, store: Store, clock: Clock) -> None:
        await store.accept(event(), handlers=[PAY])
        (old,) = await store.claim_jobs(PAY, limit=10, lease=60)
        clock.now += 1
        assert await store.requeue([old.job.event_id], [PAY, COUNT]) == 1
        assert await store.finish_job(old.job) is False
        for handler in (PAY, COUNT):
            (claimed,) = await store.claim_jobs(handler, limit=10, lease=60)
            assert claimed.job.attempts == 1
            assert await store.finish_job(claimed.job) is True
        assert await store.requeue([old.job.event_id]) == 0
        assert await store.requeue([old.job.event_id], [COUNT]) == 1
        assert await store.requeue([old.job.event_id], []) == 0
        assert await store.claim_jobs(COUNT, limit=10, lease=60) == []
        (kept,) = await store.list_events()
        assert kept.state is EventState.DONE

    async def test_requeueing_nothing_wakes_nobody(self, store: Store, ear: Ear) -> None:
        assert await store.requeue([12_345], [PAY]) == 0
        assert ear.readies == 0

    async def test_jobs_of_a_handler_that_is_no_more_become_dead_letters(self, store: Store) -> None:
        await store.accept(event("1"), handlers=[PAY, COUNT])
        await store.accept(event("2"), handlers=[COUNT])
        await store.accept(event("3", scope="other"), handlers=[COUNT])
        assert await store.retire_jobs([], [PAY]) == 0
        assert await store.retire_jobs(["default", "nobody"], [PAY]) == 2
        assert await store.retire_jobs(["default"], [PAY]) == 0
        (dead,) = await store.list_events(state=EventState.DEAD)
        assert [(job.handler, job.reason) for job in dead.jobs] == [(COUNT, NO_SUCH_HANDLER)]
        assert len(await store.claim_jobs(PAY, limit=10, lease=60)) == 1
        (left,) = await store.claim_jobs(COUNT, limit=10, lease=60)
        assert left.event.scope == "other"

    async def test_an_amended_dead_letter_settles_as_if_it_had_been_read_at_once(self, store: Store, ear: Ear) -> None:
        await store.accept(event("1", problem="names another app"))
        (dead,) = await store.list_events()
        await store.amend(dead.id, event("1", of=ref("7"), complete=resource("7")))
        assert [one.ref for one in ear.settlements] == [ref("7")]
        amended = await store.get_event(dead.id)
        assert amended is not None
        assert (amended.state, amended.event.problem, amended.event.ref) == (EventState.DONE, None, ref("7"))
        await store.amend(dead.id, event("1", of=ref("8")))
        assert await store.claim_questions("default", limit=5, lease=60) == [ref("8")]
        await store.amend(dead.id, event("1", of=ref("9"), complete=resource("9"), problem="still unreadable"))
        assert await store.outcome(ref("9")) is None
        await store.amend(12_345, event("2", of=ref("9"), complete=resource("9")))
        assert await store.outcome(ref("9")) is None

    async def test_purge_takes_only_old_events_in_the_given_state(self, store: Store, clock: Clock) -> None:
        await store.accept(event("done"))
        await store.accept(event("dead", problem="unreadable"))
        await store.accept(event("ready"), handlers=[PAY])
        clock.now += 10
        await store.accept(event("young"))
        assert await store.purge(clock.now) == 1
        assert await store.purge(clock.now, state=EventState.DEAD) == 1
        with pytest.raises(ValueError, match="state: give "):
            await store.purge(clock.now, state=EventState.READY)
        assert [kept.event.body for kept in await store.list_events()] == [event("young").body, event("ready").body]
        assert (await store.statistics()).events == 2

    # hints

    async def test_subscribers_hear_of_deliveries_refused_for_their_signature(self, store: Store, ear: Ear) -> None:
        store.refused("mismatch")
        assert ear.refusals == ["mismatch"]
        store.unsubscribe(ear)
        store.refused("missing")
        assert ear.refusals == ["mismatch"]
        assert (await store.statistics()).events == 0

    async def test_hints_come_before_the_call_returns_and_end_with_unsubscribe(self, store: Store) -> None:
        ear, other = Ear(), Ear()
        store.subscribe(ear)
        store.subscribe(other)
        await store.record_outcome(outcome(ref("1")))
        assert [one.ref for one in ear.settlements] == [ref("1")]
        store.unsubscribe(ear)
        store.unsubscribe(ear)
        await store.record_outcome(outcome(ref("2")))
        assert [one.ref for one in ear.settlements] == [ref("1")]
        assert [one.ref for one in other.settlements] == [ref("1"), ref("2")]

    async def test_when_an_outcome_is_heard_it_can_be_looked_up(self, store: Store) -> None:
        seen: list[asyncio.Task[Outcome | None]] = []

        class Looker(Subscriber):
            def settled(self, outcome: Outcome) -> None:
                seen.append(asyncio.get_running_loop().create_task(store.outcome(outcome.ref)))

        store.subscribe(Looker())
        await store.accept(event(of=ref("1"), complete=resource("1")))
        assert [one is not None for one in await asyncio.gather(*seen)] == [True]

    async def test_a_subscriber_that_raises_harms_nobody(self, store: Store, ear: Ear, caplog: pytest.LogCaptureFixture) -> None:
        class Broken(Subscriber):
            def settled(self, outcome: Outcome) -> None:
                raise RuntimeError("broken")

            def asked(self, ref: OperationRef) -> None:
                raise RuntimeError("broken")

            def ready(self) -> None:
                raise RuntimeError("broken")

            def refused(self, reason: str) -> None:
                raise RuntimeError("broken")

        late = Ear()
        store.subscribe(Broken())
        store.subscribe(late)
        await store.accept(event("1", of=ref("1"), complete=resource("1")), handlers=[PAY])
        await store.accept(event("2", of=ref("2")))
        assert len(late.settlements) == len(ear.settlements) == 1
        assert late.questions == ear.questions == [ref("2")]
        assert late.readies == ear.readies == 1
        store.refused("mismatch")
        assert late.refusals == ear.refusals == ["mismatch"]
        assert sum("subscriber" in record.message for record in caplog.records) == 4

    # life

    async def test_statistics_say_since_when_an_event_waits(self, store: Store, clock: Clock) -> None:
        assert (await store.statistics()).oldest_ready_at is None
        received = clock.now
        await store.accept(event("1"), handlers=[PAY])
        clock.now += 5
        await store.accept(event("2"), handlers=[PAY])
        counted = await store.statistics()
        assert (counted.events, counted.ready, counted.dead, counted.outcomes) == (2, 2, 0, 0)
        assert counted.oldest_ready_at == received

    async def test_an_open_store_answers_a_ping(self, store: Store) -> None:
        await store.ping()
        assert store.read_only is False

    async def test_a_closed_store_says_so(self, store: Store) -> None:
        await store.accept(event())
        await store.aclose()
        await store.aclose()
        for call in (
            store.accept(event("2")),
            store.accept_all([(event("2"), [])]),
            store.amend(1, event("2")),
            store.outcome(ref()),
            store.outcomes([ref()]),
            store.conflicts(ref()),
            store.record_outcome(outcome(ref())),
            store.add_pending([ref()]),
            store.remove_pending([ref()]),
            collect(store),
            store.claim_jobs(PAY, limit=1, lease=1),
            store.finish_job(JOB),
            store.fail_job(JOB, reason="", retry_at=None),
            store.retire_jobs([], []),
            store.claim_questions("default", limit=1, lease=1),
            store.close_questions([ref()]),
            store.list_events(),
            store.get_event(1),
            store.requeue([1]),
            store.purge(0),
            store.purge_outcomes(0),
            store.statistics(),
            store.ping(),
        ):
            with pytest.raises(StoreClosed, match="aclose"):
                await call
        with pytest.raises(StoreClosed):
            store.subscribe(Ear())
        with pytest.raises(StoreClosed):
            store.route_conflicts({})


class DurableStoreContract(StoreContract):
    """What a store that outlives its process must do as well: `make_store` opens the same one again."""

    async def test_everything_is_there_after_a_restart(self, store: Store, make_store: MakeStore, clock: Clock) -> None:
        store.route_conflicts({"default": [PAY]})
        await store.accept(event("handled", of=ref("1"), complete=resource("1")), handlers=[PAY, COUNT])
        await store.accept(event("asked", of=ref("2")))
        await store.accept(event("dead", problem="unreadable"))
        await store.accept(event("purged"))
        await store.add_pending([ref("3")])
        await store.record_outcome(outcome(ref("4"), "failed", at=clock.now))
        await store.record_outcome(outcome(ref("4"), "done", at=clock.now, key="k"))
        await store.record_outcome(outcome(ref("5")))
        await store.record_outcome(outcome(ref("5"), key="k"))
        before = (await store.list_events(), await store.outcome(ref("1")), await store.conflicts(ref("4")))
        await store.aclose()
        again = await make_store()
        try:
            assert (await again.list_events(), await again.outcome(ref("1")), await again.conflicts(ref("4"))) == before
            assert await again.accept(event("purged")) is Acceptance.DUPLICATE
            assert await again.claim_questions("default", limit=5, lease=60) == [ref("2")]
            assert await made_with(again, "k") == ["5"]
            assert await collect(again) == {ref("3")}
            claimed = await again.claim_jobs(PAY, limit=5, lease=60)
            assert {one.event.name for one in claimed} == {"reward.allocated", CONFLICT_EVENT}
            assert (await again.statistics()).conflicts == 1
        finally:
            await again.aclose()

    async def test_leases_outlive_a_restart_and_run_out_by_themselves(
        self, store: Store, make_store: MakeStore, clock: Clock
    ) -> None:
        await store.accept(event("1", of=ref("1")), handlers=[PAY])
        (claimed,) = await store.claim_jobs(PAY, limit=5, lease=60)
        await store.claim_questions("default", limit=5, lease=60)
        await store.aclose()
        again = await make_store()
        try:
            assert await again.claim_jobs(PAY, limit=5, lease=60) == []
            assert await again.claim_questions("default", limit=5, lease=60) == []
            clock.now += 60
            (second,) = await again.claim_jobs(PAY, limit=5, lease=60)
            assert (second.job.event_id, second.job.attempts) == (claimed.job.event_id, 2)
            assert await again.claim_questions("default", limit=5, lease=60) == [ref("1")]
        finally:
            await again.aclose()
