"""Outcomes: the first one stands, a later one that differs is a conflict."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from attrs import evolve

from rewards_core.operations import OperationStatus
from tests.webhooks.store_contract.kit import COUNT, EPOCH, PAY, Ear, Time, claim, event, made_with, outcome, ref, resource, wants
from webhooks.store.base import Store
from webhooks.store.outcomes import CONFLICT_EVENT, unpack_object
from webhooks.store.records import Acceptance, EventState, Outcome, Verdict


class OutcomesContract:
    async def test_a_complete_resource_settles_with_its_event(self, here: Store, there: Store, time: Time) -> None:
        ear, waiting = Ear(), Ear(ref("7"))
        await here.subscribe(ear)
        await there.subscribe(waiting)
        await here.accept(event(of=ref("7"), complete=resource("7")))
        settled = await there.outcome(ref("7"))
        assert settled is not None
        assert settled == Outcome(
            ref=ref("7"), status=OperationStatus.DONE, resource=resource("7"), via="webhook", settled_at=settled.settled_at
        )
        assert settled.settled_at == pytest.approx(time.wall, abs=60)
        assert (ear.settlements, ear.polls) == ([settled], 0)
        await waiting.until(lambda ear: ear.settlements)
        assert waiting.settlements == [settled]

    async def test_the_outcome_is_what_the_resource_says_not_the_name_of_the_event(self, here: Store, there: Store) -> None:
        await here.accept(event(name="reward.allocated", of=ref(), complete=resource(status="failed")))
        settled = await there.outcome(ref())
        assert settled is not None
        assert settled.status is OperationStatus.FAILED

    @pytest.mark.parametrize("status", ["Done", "DONE"])
    async def test_the_case_of_a_status_does_not_matter(self, here: Store, there: Store, status: str) -> None:
        await here.accept(event(of=ref(), complete=resource(status=status)))
        settled = await there.outcome(ref())
        assert settled is not None
        assert settled.status is OperationStatus.DONE

    async def test_operations_of_other_kind_or_scope_are_others(self, here: Store, there: Store) -> None:
        await here.record_outcome(outcome(ref("1", kind="allocation")))
        assert await there.outcome(ref("1", kind="claim")) is None
        assert await there.outcome(ref("1", scope="other")) is None
        found = await there.outcomes([ref("1"), ref("2"), ref("1", kind="claim")])
        assert [one.ref for one in found] == [ref("1")]

    async def test_outcomes_of_no_refs_are_none(self, here: Store) -> None:
        assert list(await here.outcomes([])) == []

    async def test_outcomes_are_listed_newest_first_by_page_and_by_condition(self, here: Store, there: Store) -> None:
        for one, status in (
            (ref("1"), "done"),
            (ref("2"), "failed"),
            (ref("1", kind="claim"), "done"),
            (ref("1", scope="other"), "failed"),
        ):
            await here.record_outcome(outcome(one, status))

        async def found(**conditions: Any) -> list[str]:
            return [str(one.outcome.ref) for one in await there.list_outcomes(**conditions)]

        first, second, third, fourth = "default/allocation/1", "default/allocation/2", "default/claim/1", "other/allocation/1"
        assert await found() == [fourth, third, second, first]
        assert await found(scope="default") == [third, second, first]
        assert await found(kind="claim") == [third]
        assert await found(uid="1") == [fourth, third, first]
        assert await found(uid="1", kind="allocation", scope="other") == [fourth]
        assert await found(uid="none") == []
        assert await found(status=OperationStatus.FAILED) == [fourth, second]
        assert await found(status=OperationStatus.DONE, uid="1") == [third, first]
        page = await there.list_outcomes(limit=2)
        assert await found(before_id=page[-1].id, limit=1) == [second]
        assert await found(limit=0) == []
        both = await here.outcomes([ref("1", kind="claim"), ref("1", scope="other")])
        assert [one.outcome for one in page] == sorted(both, key=lambda one: str(one.ref), reverse=True)

    async def test_an_outcome_is_listed_with_those_that_differ_from_it(self, here: Store, there: Store) -> None:
        await here.record_outcome(outcome(ref("1"), "failed", via="webhook"))
        await here.record_outcome(outcome(ref("2")))
        await there.record_outcome(outcome(ref("1"), "done", amount="7"))
        await there.record_outcome(outcome(ref("1"), "done", amount="8"))
        plain, contradicted = await here.list_outcomes()
        assert (plain.outcome.ref, plain.conflicts) == (ref("2"), ())
        assert (contradicted.outcome.status, contradicted.outcome.via) == (OperationStatus.FAILED, "webhook")
        assert [(one.status, one.via, one.resource["amount"]) for one in contradicted.conflicts] == [
            ("done", "poll", "7"),
            ("done", "poll", "8"),
        ]
        assert await there.list_outcomes(conflicting=True) == [contradicted]
        assert await there.list_outcomes(conflicting=True, uid="2") == []

    @pytest.mark.parametrize(
        ("conditions", "kind"),
        [({"limit": -1}, ValueError), ({"before_id": 0.5}, TypeError), ({"status": "done"}, TypeError), ({"uid": 7}, TypeError)],
    )
    async def test_a_condition_on_outcomes_that_cannot_be_is_refused(
        self, here: Store, conditions: dict[str, Any], kind: type[Exception]
    ) -> None:
        with pytest.raises(kind, match=next(iter(conditions))):
            await here.list_outcomes(**conditions)

    async def test_the_first_outcome_wins(self, here: Store, there: Store) -> None:
        ear = Ear()
        await here.subscribe(ear)
        first = outcome(ref(), "failed", via="poll")
        recorded = await here.record_outcome(first)
        assert (recorded.verdict, recorded.outcome) == (Verdict.FIRST, first)
        recorded = await there.record_outcome(outcome(ref(), "done", via="webhook"))
        assert (recorded.verdict, recorded.outcome) == (Verdict.CONFLICT, first)
        assert await here.outcome(ref()) == first
        assert ear.settlements == [first]

    async def test_an_outcome_recorded_through_another_store_object_is_heard_by_those_who_wait_for_it(
        self, here: Store, there: Store
    ) -> None:
        ear = Ear(ref("1"))
        await there.subscribe(ear)
        await here.record_outcome(outcome(ref("1")))
        await ear.until(lambda ear: ear.settlements)
        assert {settled.ref for settled in ear.settlements} == {ref("1")}  # a hint may come again after a gap

    async def test_of_many_outcomes_at_once_one_is_first(self, here: Store, there: Store) -> None:
        stores = [here, there] * 10
        recorded = await asyncio.gather(
            *(store.record_outcome(outcome(ref(), at=EPOCH + number)) for number, store in enumerate(stores))
        )
        assert sum(one.verdict is Verdict.FIRST for one in recorded) == 1
        assert len({one.outcome.settled_at for one in recorded}) == 1

    @pytest.mark.parametrize(
        ("first", "then"),
        [("1.5", "1.50"), ("1.5", 1.5), (Decimal("0.123456789012345678901"), "0.1234567890123456789010"), ("x", "y")],
    )
    async def test_the_same_outcome_in_other_words_is_no_conflict(self, here: Store, there: Store, first: Any, then: Any) -> None:
        await here.record_outcome(outcome(ref(), amount=first))
        assert (await there.record_outcome(outcome(ref(), via="webhook", amount=then))).verdict is Verdict.SAME
        assert list(await here.conflicts(ref())) == []

    @pytest.mark.parametrize(
        ("first", "then"), [("1.5", "1.6"), ("1.5", 15), (Decimal("0.1234567890123456789"), "0.1234567890123456788")]
    )
    async def test_another_amount_is_a_conflict(self, here: Store, there: Store, first: Any, then: Any) -> None:
        await here.record_outcome(outcome(ref(), amount=first))
        assert (await there.record_outcome(outcome(ref(), amount=then))).verdict is Verdict.CONFLICT

    async def test_numbers_come_back_exactly(self, here: Store, there: Store) -> None:
        exact = outcome(
            ref(),
            amount=Decimal("123456789.123456789012345678"),
            chain_id=2**80,
            note="ü\u2028\ud800",
            nested={"list": [1, None, True, 1.25]},
        )
        await here.record_outcome(exact)
        assert await there.outcome(ref()) == exact

    async def test_a_conflict_is_kept_counted_and_told_to_handlers_once(self, here: Store, there: Store) -> None:
        await here.register_handlers([wants(PAY, CONFLICT_EVENT), wants(COUNT, CONFLICT_EVENT, scope="other")])
        ear = Ear()
        await here.subscribe(ear)
        await there.record_outcome(outcome(ref(), "failed"))
        for store in (here, there):
            await store.accept(event("late", of=ref(), complete=resource(status="done")))
            await store.record_outcome(outcome(ref(), "done", via="webhook"))
        await ear.until(lambda ear: ear.jobs)
        (kept,) = await here.conflicts(ref())
        assert kept.status is OperationStatus.DONE
        assert (await there.statistics()).conflicts == 1
        (told,) = await claim(there)
        assert (told.event.name, told.event.ref) == (CONFLICT_EVENT, ref())
        words = unpack_object(told.event.body)
        assert (words["first"]["status"], words["then"]["status"]) == ("failed", "done")
        assert words["operation"] == {"scope": "default", "kind": "allocation", "uid": "1"}
        assert await claim(here, COUNT, scopes=["default", "other"]) == []

    async def test_a_conflict_that_no_handler_wants_is_kept_all_the_same(self, here: Store, there: Store) -> None:
        ear = Ear()
        await here.subscribe(ear)
        await here.record_outcome(outcome(ref(), "failed"))
        await here.record_outcome(outcome(ref(), "done"))
        (kept,) = await there.list_events(name=CONFLICT_EVENT)
        assert (kept.state, kept.event.ref) == (EventState.DONE, ref())
        assert ear.jobs == 0

    async def test_the_api_confirms_what_only_an_event_had_told(self, here: Store, there: Store) -> None:
        ear, waiting = Ear(), Ear(ref("1"))
        await here.subscribe(ear)
        await there.subscribe(waiting)
        await here.accept(event(of=ref("1"), complete=resource("1")))
        told = await here.outcome(ref("1"))
        assert told is not None
        assert not told.confirmed
        for store in (here, there):
            recorded = await store.record_outcome(outcome(ref("1"), confirmed=True))
            assert (recorded.verdict, recorded.outcome) == (Verdict.SAME, evolve(told, confirmed=True))
        assert await there.outcome(ref("1")) == evolve(told, confirmed=True)
        assert ear.confirmations == [evolve(told, confirmed=True)]
        await waiting.until(lambda ear: ear.confirmations)

    async def test_what_differs_confirms_nothing(self, here: Store, there: Store) -> None:
        await here.record_outcome(outcome(ref("1"), "failed"))
        recorded = await there.record_outcome(outcome(ref("1"), "done", confirmed=True))
        assert (recorded.verdict, recorded.outcome.confirmed) == (Verdict.CONFLICT, False)

    @pytest.mark.parametrize("said_before", [False, True])
    async def test_the_api_contradicts_what_only_an_event_had_told(self, here: Store, there: Store, said_before: bool) -> None:
        ear, waiting = Ear(), Ear(ref("1"))
        await here.subscribe(ear)
        await there.subscribe(waiting)
        await here.accept(event(of=ref("1"), complete=resource("1")))
        if said_before:
            await here.record_outcome(outcome(ref("1"), "failed", via="webhook"))
        await waiting.until(lambda ear: ear.settlements)
        await there.watch([ref("1")], poll_in=60, confirmed=True)
        against = outcome(ref("1"), "failed", confirmed=True)
        assert (await here.record_outcome(against)).verdict is Verdict.CONFLICT
        assert ear.confirmations == [against]
        async with asyncio.timeout(120):
            await waiting.until(lambda ear: against in ear.confirmations)
        assert ear.confirmations == [against]
        assert against not in [*ear.settlements, *waiting.settlements]
        for _ in range(2):
            await there.record_outcome(against)
        assert [one for one in await there.conflicts(ref("1")) if one.confirmed] == [against]
        assert len(await here.conflicts(ref("1"))) == 1 + said_before

    async def test_the_first_of_several_answers_of_the_api_counts_against_an_event(self, here: Store, there: Store) -> None:
        await here.accept(event(of=ref("1"), complete=resource("1")))
        first, second = outcome(ref("1"), "failed", confirmed=True), outcome(ref("1"), amount="9", confirmed=True)
        await here.record_outcome(first)
        ear = Ear(ref("1"))
        await there.subscribe(ear)
        await here.record_outcome(second)
        async with asyncio.timeout(120):
            await ear.until(lambda ear: first in ear.confirmations)
        assert second not in ear.confirmations
        assert list(await there.conflicts(ref("1"))) == [first, second]

    async def test_a_uid_with_half_a_surrogate_pair_settles_once(self, here: Store, there: Store) -> None:
        odd = ref("\ud800x")
        assert (await here.record_outcome(outcome(odd))).verdict is Verdict.FIRST
        assert (await there.record_outcome(outcome(odd))).verdict is Verdict.SAME
        assert await there.accept(event(of=odd, complete=resource(odd.uid))) is Acceptance.NEW
        assert (await there.record_outcome(outcome(odd, "failed"))).verdict is Verdict.CONFLICT
        assert [later.status for later in await here.conflicts(odd)] == ["failed"]

    # by the key of their operation

    async def test_an_outcome_is_found_by_the_key_its_event_or_its_reader_names(self, here: Store, there: Store) -> None:
        ear = Ear()
        await here.subscribe(ear)
        await here.accept(event(of=ref("1"), complete=resource("1"), key="k"))
        await here.record_outcome(outcome(ref("2"), key="l"))
        await here.record_outcome(outcome(ref("3")))
        assert (await made_with(there, "k"), await made_with(there, "l"), await made_with(there, "m")) == (["1"], ["2"], [])
        (found,) = await there.outcomes_by_key("default", "allocation", "k")
        assert found == await here.outcome(ref("1")) == ear.settlements[0]
        assert [one.key for one in ear.settlements] == ["k", "l", None]

    async def test_one_key_may_belong_to_several_operations_but_not_across_kinds_or_scopes(
        self, here: Store, there: Store
    ) -> None:
        for one in (ref("1"), ref("2"), ref("3", kind="claim"), ref("4", scope="other")):
            await here.record_outcome(outcome(one, key="k"))
        assert await made_with(there, "k") == ["1", "2"]
        assert await made_with(there, "k", kind="claim") == ["3"]
        assert await made_with(there, "k", scope="other") == ["4"]

    async def test_a_later_record_that_says_the_same_adds_the_key_that_the_first_lacked(self, here: Store, there: Store) -> None:
        await here.record_outcome(outcome(ref("1")))
        assert (await there.record_outcome(outcome(ref("1"), key="k"))).outcome.key == "k"
        assert (await here.record_outcome(outcome(ref("1"), key="another"))).outcome.key == "k"
        assert (await made_with(there, "k"), await made_with(there, "another")) == (["1"], [])
        assert await here.outcome(ref("1")) == outcome(ref("1"), key="k")

    async def test_records_of_one_moment_leave_the_key_that_any_of_them_names(self, here: Store, there: Store) -> None:
        recorded = await asyncio.gather(*(here.record_outcome(outcome(ref("1"), key=key)) for key in (None, "k", None)))
        assert sorted(one.verdict for one in recorded) == [Verdict.FIRST, Verdict.SAME, Verdict.SAME]
        assert await made_with(there, "k") == ["1"]

    async def test_an_outcome_that_differs_keeps_its_key_for_itself(self, here: Store, there: Store) -> None:
        await here.record_outcome(outcome(ref("1"), "failed"))
        await here.record_outcome(outcome(ref("1"), "done", key="k"))
        assert await made_with(there, "k") == []
        assert [one.key for one in await there.conflicts(ref("1"))] == ["k"]

    async def test_an_outcome_recorded_again_after_a_caller_gave_up_is_the_same(self, here: Store, there: Store) -> None:
        first = asyncio.ensure_future(here.record_outcome(outcome(ref("1"), key="k")))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await there.record_outcome(outcome(ref("1"), key="k"))
        assert (await here.record_outcome(outcome(ref("1"), key="k"))).verdict is Verdict.SAME
        assert await made_with(there, "k") == ["1"]
