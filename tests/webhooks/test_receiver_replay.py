"""Replay: events are read again, settle what they say by now, and run every handler again."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve

from rewards_core.operations import Event
from tests.webhooks.fakes import FakeSource, a_ref, body_of, words_of
from tests.webhooks.receiver_kit import Inbox
from tests.webhooks.store_contract import claim, wants
from webhooks import EventState, MemoryStore, Receiver


async def test_replay_reads_dead_letters_again_and_runs_every_handler_again() -> None:
    store = MemoryStore()
    wrong, right = FakeSource(app="wrong"), FakeSource(app="mine")
    before = Receiver(wrong, store)
    for body in (body_of(app="mine", resource=words_of("1", "done")), b"garbage"):
        await before.receive(wrong.sign(body), body)
    await store.register_handlers([wants("app.note", "thing.done")])
    after = Receiver(right, store)
    ids = [kept.id for kept in await store.list_events()]
    assert await after.replay([*ids, 12_345]) == 1
    assert await store.outcome(a_ref("1")) is not None
    (claimed,) = await claim(store, "app.note")
    assert claimed.event.problem is None
    assert await after.replay(ids) == 1
    assert len(await claim(store, "app.note")) == 1
    assert len(await store.list_events(state=EventState.DEAD)) == 1


async def test_replay_settles_what_a_source_reads_by_now() -> None:
    class Short(FakeSource):
        def parse(self, body: bytes, headers: Mapping[str, str] | None = None) -> Event:
            return evolve(super().parse(body, headers), ref=None, resource=None)

    inbox = Inbox(Short())
    await inbox.send(body_of(resource=words_of("1", "done")))
    assert await inbox.store.outcome(a_ref("1")) is None
    (kept,) = await inbox.store.list_events()
    assert await Receiver(FakeSource(), inbox.store).replay([kept.id]) == 1
    assert await inbox.store.outcome(a_ref("1")) is not None


async def test_what_was_erased_cannot_be_replayed() -> None:
    inbox = Inbox()
    await inbox.send(body_of(resource=words_of("1", "done")))
    assert await inbox.store.erase_bodies(0) == 1
    await inbox.store.register_handlers([wants("app.note")])
    (kept,) = await inbox.store.list_events()
    for receiver in (inbox.receiver, Receiver(FakeSource("other"), inbox.store)):
        assert await receiver.replay([kept.id]) == 0
    (kept,) = await inbox.store.list_events()
    assert (kept.state, kept.event.problem, kept.event.ref) == (EventState.DONE, None, a_ref("1"))


async def test_an_event_of_a_source_that_is_no_more_is_replayed_as_it_was_kept() -> None:
    inbox = Inbox()
    await inbox.send(body_of(uid="1"))
    other = Receiver(FakeSource("other"), inbox.store)
    (kept,) = await inbox.store.list_events()
    assert await other.replay([kept.id]) == 1
