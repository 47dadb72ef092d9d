"""Which deliveries a receiver refuses: by their signature, their size, their source."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Mapping

import pytest

from tests.webhooks.fakes import SIGNATURE, FakeSource
from tests.webhooks.receiver_kit import Inbox
from tests.webhooks.store_contract import Ear
from webhooks import Acceptance


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
