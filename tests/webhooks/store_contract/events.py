"""Events: stored once, listed, parsed again."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from attrs import evolve

from tests.webhooks.store_contract.kit import PAY, Ear, Time, claim, event, ref, resource, wants
from webhooks.store.base import Store
from webhooks.store.records import Acceptance, EventState


async def words(store: Store, **conditions: Any) -> list[str]:
    return [json.loads(kept.event.body)["word"] for kept in await store.list_events(**conditions)]


class EventsContract:
    async def test_a_new_event_is_kept_as_it_was(self, here: Store, there: Store, time: Time) -> None:
        sent = event(of=ref("7"), occurred_at="2024-08-01T11:24:36Z", correlation_id="c-1", attempt="2", signature="k,abc")
        assert await here.accept(sent) is Acceptance.NEW
        (kept,) = await there.list_events()
        assert (kept.state, kept.jobs) == (EventState.DONE, ())
        assert kept.received_at == pytest.approx(time.wall, abs=60)
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
        assert await here.get_event(kept.id) == kept

    async def test_the_same_identity_is_a_duplicate_whatever_else_differs(self, here: Store, there: Store) -> None:
        assert await here.accept(event("same", correlation_id="c-1")) is Acceptance.NEW
        assert await there.accept(event("same", correlation_id="c-2", attempt="9")) is Acceptance.DUPLICATE
        (kept,) = await here.list_events()
        assert kept.event.correlation_id == "c-1"

    async def test_another_identity_under_a_known_correlation_id_is_new(self, here: Store, there: Store) -> None:
        await here.accept(event("one", correlation_id="c-1"))
        assert await there.accept(event("two", correlation_id="c-1")) is Acceptance.NEW
        assert sorted(await words(here)) == ["one", "two"]

    async def test_of_many_equal_deliveries_at_once_one_is_new(self, here: Store, there: Store) -> None:
        answers = await asyncio.gather(*(store.accept(event("same", of=ref())) for _ in range(10) for store in (here, there)))
        assert sorted(answers) == sorted([Acceptance.NEW, *[Acceptance.DUPLICATE] * 19])
        assert await words(there) == ["same"]

    async def test_a_delivery_whose_sender_gave_up_is_kept_once(self, here: Store, there: Store) -> None:
        given_up = asyncio.ensure_future(here.accept(event("again", of=ref(), complete=resource())))
        await asyncio.sleep(0)
        given_up.cancel()
        await asyncio.gather(given_up, return_exceptions=True)
        await there.accept(event("again", of=ref(), complete=resource()))
        assert await there.accept(event("again")) is Acceptance.DUPLICATE
        assert await words(here) == ["again"]
        assert await here.outcome(ref()) is not None

    async def test_an_event_that_cannot_be_kept_takes_none_of_its_neighbors_along_and_can_come_again(
        self, here: Store, there: Store
    ) -> None:
        good = event("2", of=ref("2"), complete=resource("2"))
        poison = evolve(good, resource={**resource("2"), "note": object()})
        answers = await asyncio.gather(
            here.accept(event("1")), here.accept(poison), here.accept(event("3")), return_exceptions=True
        )
        assert (answers[0], answers[2]) == (Acceptance.NEW, Acceptance.NEW)
        assert isinstance(answers[1], TypeError)
        assert sorted(await words(there)) == ["1", "3"]
        assert await there.outcome(ref("2")) is None
        assert await here.accept(good) is Acceptance.NEW
        assert await there.outcome(ref("2")) is not None

    async def test_a_duplicate_neither_settles_nor_asks_nor_makes_jobs(self, here: Store, there: Store) -> None:
        await here.accept(event("same"))
        await here.register_handlers([wants()])
        ear = Ear()
        await there.subscribe(ear)
        assert await there.accept(event("same", of=ref(), complete=resource(), also=(ref("2"),))) is Acceptance.DUPLICATE
        assert await there.outcome(ref()) is None
        assert await claim(there) == []
        assert (ear.settlements, ear.polls, ear.jobs) == ([], 0, 0)
        assert (await here.statistics()).pending == 0

    async def test_a_dead_letter_is_kept_with_its_reason_and_settles_nothing(self, here: Store, there: Store) -> None:
        await here.register_handlers([wants()])
        ear = Ear()
        await here.subscribe(ear)
        await here.accept(event(of=ref(), complete=resource(), also=(ref("2"),), problem="names another app"))
        (kept,) = await there.list_events(state=EventState.DEAD)
        assert (kept.event.problem, kept.jobs) == ("names another app", ())
        assert await there.outcome(ref()) is None
        assert await claim(there) == []
        assert (ear.settlements, ear.polls, ear.jobs) == ([], 0, 0)
        assert (await there.statistics()).pending == 0

    async def test_events_are_listed_newest_first_by_page_and_by_condition(self, here: Store, there: Store) -> None:
        await here.accept(event("1", name="a", of=ref("1")))
        await here.accept(event("2", name="b", scope="other"))
        await here.accept(event("3", name="a", problem="unreadable"))
        await here.register_handlers([wants()])
        await here.accept(event("4", name="a"))
        assert await words(there) == ["4", "3", "2", "1"]
        assert await words(there, name="a") == ["4", "3", "1"]
        assert await words(there, scope="other") == ["2"]
        assert await words(there, state=EventState.DEAD) == ["3"]
        assert await words(there, state=EventState.READY) == ["4"]
        assert await words(there, ref=ref("1")) == ["1"]
        assert await words(there, scope="default", name="a", state=EventState.DONE) == ["1"]
        page = await there.list_events(limit=2)
        assert await words(here, before_id=page[-1].id, limit=1) == ["2"]
        assert await there.list_events(limit=0) == []

    async def test_a_wrong_id_finds_no_silence(self, here: Store) -> None:
        for wrong in ("x", -1, True):
            with pytest.raises((TypeError, ValueError), match=r"^event_id: give "):
                await here.get_event(wrong)  # type: ignore[arg-type]

    async def test_every_operation_that_an_event_speaks_of_leads_to_it(self, here: Store, there: Store) -> None:
        await here.accept(event("1", of=ref("7"), also=(ref("8"), ref("7", kind="claim"))))
        await here.accept(event("2", of=ref("8")))
        await here.accept(event("3", of=ref("8", scope="other")))
        await here.accept(event("4", of=ref("9", kind="claim"), problem="names another app", also=(ref("8", kind="claim"),)))
        await here.accept(event("5"))
        assert (await there.list_events(uid="7"))[0].event.also == (ref("8"), ref("7", kind="claim"))
        assert await words(there, uid="8") == ["4", "3", "2", "1"]
        assert await words(there, uid="8", scope="default", limit=2) == ["4", "2"]
        assert await words(there, uid="8", state=EventState.DEAD) == ["4"]
        assert await words(there, uid="none") == []
        assert await words(there, ref=ref("8")) == ["2", "1"]
        assert await words(there, ref=ref("7", kind="claim")) == ["1"]
        page = await there.list_events(uid="8", limit=2)
        assert await words(there, uid="8", before_id=page[-1].id) == ["2", "1"]

    async def test_a_handler_is_given_every_operation_that_its_event_speaks_of(self, here: Store, there: Store) -> None:
        await here.register_handlers([wants()])
        await there.accept(event("1", of=ref("7"), also=(ref("8"),)))
        (claimed,) = await claim(here)
        assert claimed.event.also == (ref("8"),)

    async def test_what_a_later_reading_finds_replaces_the_operations_that_lead_to_an_event(
        self, here: Store, there: Store
    ) -> None:
        await here.accept(event("1", of=ref("7"), also=(ref("8"), ref("9"))))
        (kept,) = await there.list_events()
        await there.amend(kept.id, event("1", of=ref("7"), also=(ref("9"), ref("10"))))
        assert [await words(here, uid=uid) for uid in ("8", "9", "10")] == [[], ["1"], ["1"]]

    async def test_a_purged_event_is_found_by_none_of_its_operations(self, here: Store, there: Store, time: Time) -> None:
        await here.accept(event("1", of=ref("7"), also=(ref("8"),)))
        await here.accept(event("2", of=ref("7"), also=(ref("8"),), problem="unreadable"))
        await time.advance(60)
        for state in (EventState.DONE, EventState.DEAD):
            assert await words(there, uid="8", state=state) != []
            await here.purge(0, state=state)
            assert await words(there, uid="8", state=state) == []

    async def test_an_event_that_came_clearly_later_has_the_greater_id(self, here: Store, there: Store, time: Time) -> None:
        for number in range(4):
            await (here, there)[number % 2].accept(event(str(number)))
            await time.advance(60)
        assert await words(here) == ["3", "2", "1", "0"]
        ids = [kept.id for kept in await there.list_events()]
        assert ids == sorted(set(ids), reverse=True)

    async def test_an_unknown_event_is_none(self, here: Store) -> None:
        assert await here.get_event(12_345) is None

    async def test_an_amended_dead_letter_settles_as_if_it_had_been_read_at_once(self, here: Store, there: Store) -> None:
        await here.accept(event("1", problem="names another app"))
        (dead,) = await there.list_events()
        ear = Ear()
        await there.subscribe(ear)
        await there.amend(dead.id, event("1", of=ref("7"), complete=resource("7"), also=(ref("8"),)))
        assert [one.ref for one in ear.settlements] == [ref("7")]
        assert ear.polls == 1
        amended = await here.get_event(dead.id)
        assert amended is not None
        assert (amended.state, amended.event.problem, amended.event.ref) == (EventState.DONE, None, ref("7"))
        assert [pending.ref for pending in await here.list_pending()] == [ref("8")]
        await there.amend(dead.id, event("1", of=ref("9"), complete=resource("9"), problem="still unreadable"))
        assert await here.outcome(ref("9")) is None
        await there.amend(12_345, event("2", of=ref("9"), complete=resource("9")))
        assert await here.outcome(ref("9")) is None

    async def test_amending_leaves_the_jobs_of_an_event(self, here: Store, there: Store) -> None:
        await here.register_handlers([wants()])
        await here.accept(event("1"))
        (kept,) = await there.list_events()
        await there.amend(kept.id, event("1", of=ref("1")))
        (claimed,) = await claim(here)
        assert (claimed.job.handler, claimed.event.ref) == (PAY, ref("1"))
