"""The receiver: which deliveries are stored, and what it does in trouble, with several sources and with its store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from rewards_core.errors import StoreClosed, StoreError
from rewards_core.operations import Event
from tests.texts import said
from tests.virtual_time import EPOCH, virtual_time
from tests.webhooks.fakes import FakeSource, a_ref, body_of, words_of
from tests.webhooks.receiver_kit import Inbox
from tests.webhooks.store_contract import A_DAY
from webhooks import Acceptance, EventState, MemoryStore, Receiver


async def test_a_signed_delivery_is_kept_and_acknowledged() -> None:
    inbox = Inbox()
    body = body_of(resource=words_of("1", "done"))
    reply = await inbox.send(body, attempt="1")
    assert (reply.status, reply.body) == (200, b"")
    (kept,) = await inbox.store.list_events()
    assert (kept.event.body, kept.event.ref, kept.event.attempt) == (body, a_ref("1"), "1")
    settled = await inbox.store.outcome(a_ref("1"))
    assert settled is not None
    assert (settled.status, settled.via) == ("done", "webhook")
    statistics = inbox.receiver.statistics
    assert (statistics.accepted, statistics.last_delivery_at) == (1, EPOCH)


# identity


async def test_the_same_body_under_another_correlation_id_is_a_duplicate() -> None:
    inbox = Inbox()
    for correlation in ("c-1", "c-2"):
        assert (await inbox.send(body_of(uid="1"), **{"correlation-id": correlation})).status == 200
    assert len(await inbox.words()) == 1
    assert inbox.receiver.statistics.duplicates == 1


async def test_another_body_under_a_known_correlation_id_is_new() -> None:
    inbox = Inbox()
    for uid in ("1", "2"):
        await inbox.send(body_of(uid=uid), **{"correlation-id": "c-1"})
    assert [words["uid"] for words in await inbox.words()] == ["1", "2"]


async def test_the_same_event_sent_again_with_another_sent_at_and_signature_is_a_duplicate() -> None:
    inbox = Inbox()
    for sent_at in ("10:00", "10:05"):
        assert (await inbox.send(body_of(uid="1", sent_at=sent_at))).status == 200
    assert [words["sent_at"] for words in await inbox.words()] == ["10:00"]


@virtual_time
async def test_a_body_replayed_after_the_purge_is_not_handed_on_again() -> None:
    inbox = Inbox()
    seen = []

    @inbox.receiver.on("*")
    async def count(event: Event) -> None:
        seen.append(event)

    async with inbox.receiver:
        await inbox.send(body_of(uid="1", sent_at="10:00"))
        await asyncio.sleep(1)
        assert len(seen) == 1
    await asyncio.sleep(100 * A_DAY)
    assert await inbox.store.purge(A_DAY) == 1
    async with inbox.receiver:
        assert (await inbox.send(body_of(uid="1", sent_at="11:00"))).status == 200
        await asyncio.sleep(1)
        assert len(seen) == 1
    assert await inbox.words() == []
    assert inbox.receiver.statistics.duplicates == 1


async def test_a_body_that_names_another_app_settles_nothing() -> None:
    inbox = Inbox(FakeSource(app="mine"))
    reply = await inbox.send(body_of(app="theirs", resource=words_of("1", "done")))
    assert reply.status == 200
    assert await inbox.store.outcome(a_ref("1")) is None
    (kept,) = await inbox.store.list_events(state=EventState.DEAD)
    assert kept.event.problem == "names the app theirs"
    assert inbox.receiver.statistics.dead_letters == 1


# trouble


async def test_what_cannot_be_kept_is_not_acknowledged(caplog: pytest.LogCaptureFixture) -> None:
    class Full(MemoryStore):
        async def accept(self, event: Event, **options: Any) -> Acceptance:
            raise StoreError("the disk is full")

    inbox = Inbox(store=Full())
    for _ in range(3):
        reply = await inbox.send(body_of(uid="1"))
        assert (reply.status, reply.headers["Retry-After"]) == (503, "5")
    assert inbox.receiver.statistics.store_failures == 3
    assert inbox.receiver.statistics.last_delivery_at is None
    said("what cannot be kept is not acknowledged", "\n".join(caplog.messages))


async def test_who_gives_up_while_deliveries_of_one_moment_are_looked_at_holds_up_no_other() -> None:
    inbox = Inbox()
    given_up, other = (asyncio.create_task(inbox.send(body_of(uid=uid))) for uid in ("1", "2"))
    await asyncio.sleep(0)
    given_up.cancel()
    assert (await other).status == 200
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert inbox.receiver.statistics.accepted == 1


async def test_a_store_that_fails_in_a_way_of_its_own_is_answered_like_one_that_fails_properly() -> None:
    class Odd(MemoryStore):
        async def accept(self, event: Event, **options: Any) -> Acceptance:
            raise ZeroDivisionError

    assert (await Inbox(store=Odd()).send(body_of(uid="1"))).status == 503


async def test_a_signed_body_that_cannot_be_read_is_a_dead_letter_and_acknowledged() -> None:
    inbox = Inbox()
    assert (await inbox.send(b"\xff not JSON")).status == 200
    assert (await inbox.send(b"\xff not JSON")).status == 200
    (kept,) = await inbox.store.list_events()
    assert (kept.state, kept.event.problem) == (EventState.DEAD, "unreadable")


async def test_a_source_that_fails_to_read_a_verified_body_makes_a_dead_letter() -> None:
    class Clumsy(FakeSource):
        def parse(self, body: bytes, headers: Mapping[str, str] | None = None) -> Event:
            raise KeyError("data")

    inbox = Inbox(Clumsy())
    assert (await inbox.send(body_of(uid="1"))).status == 200
    assert (await inbox.send(body_of(uid="1"))).status == 200
    (kept,) = await inbox.store.list_events()
    assert "KeyError" in (kept.event.problem or "")


async def test_a_source_that_fails_to_verify_lets_nothing_in() -> None:
    class Clumsy(FakeSource):
        def verify(self, headers: Mapping[str, str], body: bytes) -> str:
            raise UnicodeDecodeError("utf-8", b"", 0, 1, "SECRET-WORD")

    inbox = Inbox(Clumsy())
    for _ in range(2):
        assert (await inbox.send(body_of(uid="1"))).status == 401
    assert inbox.receiver.statistics.rejected == {"error": 2}


# several sources


async def test_of_several_sources_the_one_whose_key_signed_is_believed() -> None:
    first, second = FakeSource("first", b"one"), FakeSource("second", b"two")
    inbox = Inbox(first, second)
    assert (await inbox.send(body_of(uid="1"), source=second)).status == 200
    assert (await inbox.send(body_of(uid="1"), source=FakeSource(key=b"three"))).status == 401
    (kept,) = await inbox.store.list_events()
    assert kept.event.ref == a_ref("1", scope="second")


def test_sources_of_one_scope_or_none_at_all_are_refused() -> None:
    with pytest.raises(ValueError) as caught:
        Inbox(FakeSource(), FakeSource())
    said("sources of one scope or none at all are refused", caught.value)
    with pytest.raises(ValueError) as caught:
        Receiver([], MemoryStore())
    said("sources of one scope or none at all are refused (2)", caught.value)


# the store


async def test_a_store_that_was_given_stays_its_owners() -> None:
    store = MemoryStore()
    async with Receiver(FakeSource(), store) as receiver:
        assert receiver.store is store
    await store.ping()


async def test_a_store_that_was_opened_by_its_url_is_closed_with_the_receiver() -> None:
    async with Receiver(FakeSource(), "memory:") as receiver:
        body = body_of(uid="1")
        assert (await receiver.receive(FakeSource().sign(body), body)).status == 200
    with pytest.raises(StoreClosed):
        await receiver.store.ping()
    await receiver.aclose()


async def test_what_is_no_store_is_refused() -> None:
    with pytest.raises(ValueError) as caught:
        Receiver(FakeSource(), "redis://localhost")
    said("what is no store is refused", caught.value)
    with pytest.raises(TypeError, match=r"^store: give a MemoryStore"):
        Receiver(FakeSource(), 7)  # type: ignore[arg-type]
