"""Refusals: what is kept of them, for how long, and what is logged."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import webhooks
from original_async import OriginalWebhooks
from tests.texts import said
from tests.virtual_time import virtual_time
from webhooks import MemoryStore, Receiver
from webhooks.refusals import ADVICE, MAX_KEPT, Refusal, RefusalRing, Refusals, merged

LOGGER = logging.getLogger("refusals-test")
KEY_ID, OTHER_ID = "4o3vfxtcmo7b", "9zzzzzzzzzzz"
HEADER = "x-webhook-signature"


def times() -> Iterator[float]:
    moment = 1_000.0
    while True:
        yield moment
        moment += 1


def a_book() -> Refusals:
    moments = times()
    return Refusals(LOGGER, clock=lambda: next(moments))


async def test_those_alike_count_as_one_with_the_time_of_the_first_and_the_last() -> None:
    book = a_book()
    for length in (5, 6, 7):
        book.note("size", "203.0.113.7", status=413, method="POST", path="/a", length=length, key_ids=["k"])
    book.note("size", "203.0.113.8", status=413, method="POST", path="/a", length=8, key_ids=["k"])
    newest, before = book.newest_first()
    assert (newest.peer, newest.count, before.peer, before.count) == ("203.0.113.8", 1, "203.0.113.7", 3)
    assert (before.first_at, before.last_at, before.length) == (1000.0, 1002.0, 7)
    assert before.advice == ADVICE["size"]
    assert book.total == {"size": 4}


@pytest.mark.parametrize("other", [{"peer": "203.0.113.8"}, {"path": "/b"}, {"key_ids": ["l"]}, {"reason": "slow"}])
async def test_what_differs_is_kept_apart(other: dict[str, Any]) -> None:
    book = a_book()
    facts: dict[str, Any] = {"reason": "size", "peer": "203.0.113.7", "path": "/a", "key_ids": ["k"]}
    book.note(**facts)
    book.note(**facts | other)
    assert len(book.newest_first()) == 2


async def test_a_flood_for_one_reason_washes_out_nothing_of_another() -> None:
    book = a_book()
    book.note("unknown_key", "203.0.113.7", key_ids=["k"])
    for number in range(2_000):
        book.note("path", f"198.51.{number // 250}.{number % 250}", path=f"/{number}")
    kept = book.newest_first()
    assert (len(kept), sum(book.total.values())) == (MAX_KEPT, 2_001)
    assert [each.peer for each in kept if each.reason == "unknown_key"] == ["203.0.113.7"]
    assert kept[0].path == "/1999"


async def test_a_flood_for_the_same_reason_does_not_wash_out_a_sender_that_tries_again() -> None:
    book = a_book()
    for _ in range(2):
        book.note("unknown_key", "203.0.113.7", key_ids=["k"])
    for number in range(2_000):
        book.note("unknown_key", f"198.51.{number // 250}.{number % 250}", key_ids=[str(number)])
    assert [each.count for each in book.newest_first() if each.peer == "203.0.113.7"] == [2]


def test_what_came_again_gives_way_too_once_it_fills_more_than_half() -> None:
    ring = RefusalRing(4)
    for number in range(6):
        ring.add(Refusal(reason="path", advice="", first_at=0, last_at=number, count=2, peer=str(number)))
    assert [each.peer for each in ring.newest_first()] == ["5", "4", "3", "2"]


async def test_a_strangers_text_is_short_printable_and_on_one_line() -> None:
    book = a_book()
    strange = "\x1b[31m\n\u202e\u200bk" * 500
    book.note("path", strange, method=strange, path=f"/a{strange}?token=SECRET-WORD#SECRET-WORD", key_ids=[strange] * 100)
    (kept,) = book.newest_first()
    texts = [kept.peer, kept.method, kept.path, *kept.key_ids]
    assert all(text is not None and text.isprintable() for text in texts)
    assert [len(text or "") for text in texts] == [64, 64, 200, *[64] * 8]
    assert "SECRET-WORD" not in repr(kept)


@virtual_time
async def test_a_line_a_minute_tells_of_each_reason(caplog: pytest.LogCaptureFixture) -> None:
    book = a_book()
    for reason, moment in (("path", 0), ("path", 59), ("handshake", 59), ("path", 60)):
        await asyncio.sleep(moment - asyncio.get_running_loop().time())
        if reason == "path":
            book.note(reason, "203.0.113.7", status=404, method="GET", path="/x?a=b", advice="Look at the path.")
        else:
            book.note(reason, advice="Look at it.")
    book.note("unknown_key", "203.0.113.7", status=401, key_ids=["k", "l"], advice="Look.")
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    said("refusals: a line a minute for each reason", "\n".join(caplog.messages))


def test_lists_of_several_become_one_that_is_as_fair() -> None:
    flood = [Refusal(reason="path", advice="", first_at=at, last_at=at, peer=str(at)) for at in range(10, 410)]
    rare = Refusal(reason="unknown_key", advice="", first_at=3, last_at=5, count=2, peer="a")
    kept = merged([*flood, rare, attrs.evolve(rare, first_at=1, last_at=2), attrs.evolve(rare, first_at=6, last_at=6, count=1)])
    assert len(kept) == MAX_KEPT
    assert [at.last_at for at in kept] == sorted((at.last_at for at in kept), reverse=True)
    assert [(each.count, each.first_at, each.last_at) for each in kept if each.peer == "a"] == [(5, 1, 6)]


def test_there_is_advice_for_every_reason_in_the_code() -> None:
    pattern = re.compile(r'(?:note|cut|refuse|_Refused|refuse_body|refuse_headers)\((?:\d+, )?"(\w+)"|return "(\w+)", [A-Z]')
    found = {
        first or second
        for file in Path(webhooks.__path__[0]).rglob("*.py")
        for first, second in pattern.findall(file.read_text("utf-8"))
    }
    assert {"path", "slow", "size", "method", "handshake", "header_timeout", "address"} <= found
    assert found - set(ADVICE) == set()


# a receiver


@pytest.fixture
def receiver() -> Receiver:
    return Receiver(OriginalWebhooks({KEY_ID: "s" * 40}), MemoryStore())


def signed_by(key_id: str) -> dict[str, str]:
    return {HEADER: OriginalWebhooks({key_id: "t" * 40}).sign(b"{}")}


async def test_a_receiver_keeps_what_it_refused_and_says_what_to_do(receiver: Receiver) -> None:
    await receiver.receive(signed_by(OTHER_ID), b"{}", "203.0.113.7")
    assert receiver.refusal("POST", signed_by(OTHER_ID), 12, "203.0.113.7") is not None
    (kept,) = receiver.refused
    assert (kept.reason, kept.status, kept.peer, kept.key_ids, kept.length) == (
        "unknown_key",
        401,
        "203.0.113.7",
        (OTHER_ID,),
        12,
    )
    assert kept.count == 2
    said("refusals: an unknown key", kept.advice)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [({}, "missing"), ({HEADER: "what?"}, "malformed"), (signed_by(OTHER_ID), "unknown_key"), (signed_by(KEY_ID), "mismatch")],
)
async def test_advice_about_a_signature_is_the_sources(receiver: Receiver, headers: dict[str, str], reason: str) -> None:
    await receiver.receive(headers, b"SECRET-WORD")
    (kept,) = receiver.refused
    assert (kept.reason, "signature" in kept.advice or "signed" in kept.advice) == (reason, True)
    assert "SECRET-WORD" not in repr(kept)


async def test_whatever_a_receiver_refuses_it_keeps_the_key_ids_that_are_claimed(receiver: Receiver) -> None:
    headers = {**signed_by(OTHER_ID), "content-length": "7"}
    receiver.refuse("slow", "203.0.113.7", headers)
    receiver.refuse("broken")
    receiver.refusal("PUT", headers, 9)
    receiver.refusal("POST", {**headers, "content-encoding": "gzip"}, 10)
    receiver.refusal("POST", headers, 300_000)
    await receiver.receive(headers, b"x" * 300_001)
    kept = {each.reason: each for each in receiver.refused}
    assert {reason: (each.status, each.length) for reason, each in kept.items()} == {
        "slow": (408, 7),
        "broken": (400, None),
        "method": (405, 9),
        "encoding": (415, 10),
        "size": (413, 300_001),
    }
    assert {reason for reason, each in kept.items() if each.key_ids == (OTHER_ID,)} == set(kept) - {"broken"}
    assert kept["method"].method == "PUT"


async def test_of_several_sources_the_one_that_came_nearest_says_why() -> None:
    first, second = OriginalWebhooks({KEY_ID: "s" * 40}, scope="a"), OriginalWebhooks({OTHER_ID: "s" * 40}, scope="b")
    receiver = Receiver([first, second], MemoryStore())
    await receiver.receive(signed_by(OTHER_ID), b"{}")
    assert receiver.statistics.rejected == {"mismatch": 1}


async def test_a_source_that_fails_has_no_key_ids_and_is_told_of_as_at_fault() -> None:
    class Clumsy(OriginalWebhooks):
        def verify(self, headers: Any, body: bytes) -> str:
            raise UnicodeDecodeError("utf-8", b"", 0, 1, "SECRET-WORD")

    receiver = Receiver(Clumsy({KEY_ID: "s" * 40}), MemoryStore())
    await receiver.receive(signed_by(OTHER_ID), b"{}")
    receiver.refuse("slow", None, signed_by(OTHER_ID))
    slow, fault = receiver.refused
    assert (slow.reason, slow.key_ids) == ("slow", ())
    assert (fault.reason, fault.advice) == ("error", ADVICE["error"])
