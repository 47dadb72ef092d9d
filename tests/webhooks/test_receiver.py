"""The receiver: which deliveries are stored, refused and logged."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import re
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from attrs import evolve

from rewards_core.errors import StoreClosed, StoreError
from rewards_core.operations import Event
from tests.texts import said
from tests.virtual_time import EPOCH, virtual_time
from tests.webhooks.fakes import SIGNATURE, FakeSource, a_ref, body_of, words_of
from tests.webhooks.store_contract import A_DAY, Ear, claim, wants
from webhooks import Acceptance, EventState, MemoryStore, Receiver, Reply


class Inbox:
    """A receiver on a memory store, and a signer."""

    def __init__(self, *sources: Any, **options: Any) -> None:
        self.source = sources[0] if sources else FakeSource()
        self.store = options.pop("store", None) or MemoryStore(clock=lambda: EPOCH)
        self.receiver = Receiver(sources or self.source, self.store, clock=lambda: EPOCH, **options)

    async def send(self, body: bytes, *, source: Any = None, **headers: str) -> Reply:
        signed = (source or self.source).sign(body)
        return await self.receiver.receive({**signed, **{f"x-{name}": value for name, value in headers.items()}}, body)

    async def words(self) -> list[Any]:
        return [json.loads(kept.event.body) for kept in reversed(await self.store.list_events())]


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


# refusals


@pytest.mark.parametrize(
    ("headers", "reason"),
    [({}, "missing"), ({SIGNATURE: "0" * 64}, "mismatch"), ({SIGNATURE: "ü"}, "mismatch"), ({SIGNATURE: ""}, "mismatch")],
)
async def test_without_a_good_signature_nothing_is_kept_and_nothing_of_the_body_is_told(
    headers: Mapping[str, str], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    inbox = Inbox()
    reply = await inbox.receiver.receive(headers, b'{"event": "SECRET-WORD"}')
    assert reply.status == 401
    assert inbox.receiver.statistics.rejected == {reason: 1}
    counted = await inbox.store.statistics()
    assert (counted.events, counted.outcomes, counted.pending) == (0, 0, 0)
    assert "SECRET-WORD" not in caplog.text + repr(reply)
    assert await inbox.store.accept(inbox.source.parse(b'{"event": "SECRET-WORD"}')) is Acceptance.NEW


async def test_subscribers_of_the_store_hear_of_refused_signatures() -> None:
    inbox, ear = Inbox(), Ear()
    await inbox.store.subscribe(ear)
    await inbox.receiver.receive({}, b"{}")
    await inbox.receiver.receive({SIGNATURE: "0" * 64}, b"{}")
    assert ear.refusals == ["missing", "mismatch"]


async def test_a_refused_body_is_let_go_without_the_garbage_collector() -> None:
    inbox = Inbox()
    gc.collect()
    gc.disable()
    try:
        body = bytes(bytearray(b"{}"))
        holders = sys.getrefcount(body)
        assert (await inbox.receiver.receive({SIGNATURE: "0" * 64}, body)).status == 401
        assert sys.getrefcount(body) == holders
    finally:
        gc.enable()


async def test_a_signature_over_another_body_is_refused() -> None:
    inbox = Inbox()
    reply = await inbox.receiver.receive(inbox.source.sign(b"{}"), b"{ }")
    assert reply.status == 401


@virtual_time
async def test_strangers_cannot_fill_the_log_however_the_clock_is_set(caplog: pytest.LogCaptureFixture) -> None:
    clock = iter(range(0, -200, -1))
    receiver = Receiver(FakeSource(), MemoryStore(), clock=lambda: next(clock) * A_DAY)
    for _ in range(100):
        await receiver.receive({}, b"{}")
    assert len(caplog.messages) == 1
    await asyncio.sleep(59)
    await receiver.receive({}, b"{}")
    assert len(caplog.messages) == 1
    await asyncio.sleep(1)
    await receiver.receive({}, b"{}")
    said("strangers cannot fill the log however the clock is set", "\n".join(caplog.messages))


async def test_a_body_over_the_limit_is_refused_before_anything_is_computed() -> None:
    class Untouched(FakeSource):
        def verify(self, headers: Mapping[str, str], body: bytes) -> str:
            raise AssertionError

    inbox = Inbox(Untouched(), max_body=10)
    reply = await inbox.receiver.receive({}, b"x" * 11)
    assert (reply.status, reply.close) == (413, True)


@pytest.mark.parametrize(
    ("method", "length", "encoding", "status"),
    [
        ("POST", None, None, None),
        ("POST", 262_144, "", None),
        ("POST", 10, "identity", None),
        ("POST", 10, " Identity ", None),
        ("GET", None, None, 405),
        ("PUT", 10, None, 405),
        ("POST", 262_145, None, 413),
        ("POST", 10, "gzip", 415),
        ("POST", 10, "identity, br", 415),
    ],
)
async def test_limits_are_looked_at_before_the_body(
    method: str, length: int | None, encoding: str | None, status: int | None
) -> None:
    inbox = Inbox()
    headers = {**inbox.source.sign(b""), **({} if encoding is None else {"content-encoding": encoding})}
    refusal = inbox.receiver.refusal(method, headers, length)
    assert (refusal and refusal.status) == status
    if status == 405:
        assert refusal is not None
        assert refusal.headers["Allow"] == "POST"


@pytest.mark.parametrize("fault", [None, RuntimeError("a source's own fault")])
async def test_a_delivery_that_no_source_admits_is_refused_before_its_body(fault: Exception | None) -> None:
    class Choosy(FakeSource):
        def admits(self, headers: Mapping[str, str]) -> bool:
            if fault is not None:
                raise fault
            return SIGNATURE in headers

    inbox, ear = Inbox(Choosy()), Ear()
    await inbox.store.subscribe(ear)
    assert inbox.receiver.refusal("POST", {SIGNATURE: "0"}, 2) is None
    assert inbox.receiver.refusal("POST", {}, 2, unread=False) is None
    refusal = inbox.receiver.refusal("POST", {}, 2, "192.0.2.1")
    if fault is None:
        assert refusal is not None
        assert (refusal.status, refusal.close) == (401, True)
        assert (inbox.receiver.statistics.rejected, ear.refusals) == ({"missing": 1}, ["missing"])
    else:
        assert refusal is None


async def test_a_source_decides_by_the_headers_alone_only_where_it_can() -> None:
    class Careless(FakeSource):
        def admits(self, headers: Mapping[str, str]) -> bool:
            return False

        def verify(self, headers: Mapping[str, str], body: bytes) -> str:
            return "key"

    assert Inbox(Careless()).receiver.refusal("POST", {}, 2) is None
    assert Inbox(FakeSource()).receiver.refusal("POST", {}, 2) is None


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


# replay


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


# handlers that nobody started


async def test_handlers_that_nobody_started_are_warned_about_at_the_first_delivery_and_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    inbox = Inbox()

    @inbox.receiver.on("*", name="app.note")
    async def note(event: Event) -> None:
        raise AssertionError

    await inbox.receiver.receive({}, b"unsigned")
    caplog.clear()
    for uid in "123":
        assert (await inbox.send(body_of(uid=uid))).status == 200
    said("handlers that nobody started are warned about at the first delivery and once", "\n".join(caplog.messages))


async def test_nothing_is_warned_about_where_there_are_no_handlers_or_they_were_started(caplog: pytest.LogCaptureFixture) -> None:
    without, started = Inbox(), Inbox()

    @started.receiver.on("*", name="app.note")
    async def note(event: Event) -> None:
        return

    async with started.receiver:
        for inbox in (without, started):
            assert (await inbox.send(body_of(uid="1"))).status == 200
    assert caplog.text == ""


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


# the log of deliveries


async def test_each_delivery_is_logged_where_that_is_asked_for_and_only_there(caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox()
    body = body_of(uid="1", resource=words_of("1", "done"))
    caplog.set_level(logging.WARNING, "webhooks.deliveries")
    await inbox.send(body)
    caplog.set_level(logging.INFO, "webhooks.deliveries")
    await inbox.receiver.receive(inbox.source.sign(body), body, "203.0.113.7")
    await inbox.receiver.receive({}, body, "203.0.113.7")
    inbox.receiver.refusal("GET", {}, None)
    duplicate, refused, method = [each for each in caplog.records if each.name == "webhooks.deliveries"]
    assert re.fullmatch(r"\S+ 1 duplicate [\d.]+ ms", duplicate.getMessage())
    assert vars(duplicate).items() >= {"uid": "1", "verdict": "duplicate", "peer": "203.0.113.7", "scope": "default"}.items()
    assert re.fullmatch(r"- - refused \(missing\) from 203\.0\.113\.7 [\d.]+ ms", refused.getMessage())
    assert 0 <= vars(refused)["ms"] < 60_000
    assert method.getMessage() == "- - refused (method) from -"
    assert "ms" not in vars(method)


@virtual_time
async def test_strangers_fill_no_log_where_each_delivery_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox()
    caplog.set_level(logging.INFO, "webhooks.deliveries")

    async def refuse(count: int) -> int:
        """Return how many refusals are logged with a line of their own."""
        before = len(caplog.records)
        for _ in range(count):
            await inbox.receiver.receive({}, b"{}", "203.0.113.7")
        return len([each for each in caplog.records[before:] if each.name == "webhooks.deliveries"])

    assert await refuse(9) == 9
    await asyncio.sleep(0.9)
    assert await refuse(50) == 1
    await asyncio.sleep(0.1)
    assert await refuse(50) == 9
    await asyncio.sleep(60)
    body = body_of(uid="1", resource=words_of("1", "done"))
    assert await refuse(50) == 10
    await inbox.send(body)
    assert caplog.records[-1].__dict__["verdict"] == "new"
    warned = [each.getMessage() for each in caplog.records if each.name == "webhooks.receiver"]
    assert [re.search(r"(\d+) so far", line)[1] for line in warned if "so far" in line] == ["1", "110"]  # type: ignore[index]


async def test_a_delivery_that_could_not_be_kept_is_logged_as_such(caplog: pytest.LogCaptureFixture) -> None:
    class Full(MemoryStore):
        async def accept(self, event: Event, **options: Any) -> Acceptance:
            raise StoreError("the disk is full")

    caplog.set_level(logging.INFO, "webhooks.deliveries")
    source, body = FakeSource(), body_of(uid="1")
    await Receiver(source, Full()).receive(source.sign(body), body)
    assert [each.getMessage().rsplit(" ", 2)[0] for each in caplog.records if each.name == "webhooks.deliveries"] == [
        f"{source.parse(body).name} 1 not kept"
    ]
