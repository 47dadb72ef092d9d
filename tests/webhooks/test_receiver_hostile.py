"""More than a hundred thousand hostile deliveries: each gets a reply, and only signed ones are stored."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from original_async import OriginalWebhooks
from tests.webhooks.fakes import body_of, words_of
from tests.webhooks.ingress_kit import a_value
from webhooks import MemoryStore, Receiver, Reply

CALLS, CALLS_IN_A_SOAK = 21_000, 105_000
BATCHES = 7
KEYS = {"4o3vfxtcmo7b": "the-first-secret-of-these-tests", "ws7orr8kbho6": "the-second-secret-of-these-tests"}
HEADER = "x-webhook-signature"

PIECES = ["4o3vfxtcmo7b", "ws7orr8kbho6", ",", " ", ",,", "\t", "\x00", "\ud800", "ü", "٣", "=", "'", "\\", "%s", "{}", "\u2028"]
JSON_PIECES = [
    "{",
    "}",
    "[",
    "]",
    '"',
    ":",
    ",",
    "null",
    "true",
    "1e999",
    "-0",
    "1" * 40,
    '"event"',
    '"data"',
    '"uid"',
    "\\ud800",
    "\xa0",
]


def a_signature(dice: random.Random, source: OriginalWebhooks, body: bytes) -> str:
    roll = dice.random()
    if roll < 0.25:
        return source.sign(body)
    if roll < 0.4:
        return source.sign(body + b" ")
    if roll < 0.6:
        honest = list(source.sign(body))
        for _ in range(dice.randint(1, 4)):
            honest[dice.randrange(len(honest))] = dice.choice(PIECES)
        return "".join(honest)
    if roll < 0.7:
        return source.sign(body).upper()
    return "".join(dice.choice([*PIECES, f"{dice.getrandbits(256):x}"]) for _ in range(dice.randint(0, 12)))


def a_body(dice: random.Random, number: int) -> bytes:
    roll = dice.random()
    name = dice.choice(["reward.allocated", "reward.claimed", "asset.minted", "", "*", "outcome.conflict"])
    if roll < 0.3:
        return body_of(name, data=a_value(dice), sent_at=number)
    if roll < 0.5:
        resource = {**words_of(str(number), dice.choice(["done", "failed", "odd"])), "reward_uid": "1", "to_user_uid": "2"}
        return body_of(name, data={dice.choice(["allocation", "claim", "x"]): {**resource, "nonce": "n"}, "app": a_value(dice)})
    if roll < 0.7:
        return "".join(dice.choice(JSON_PIECES) for _ in range(dice.randint(0, 30))).encode("utf-8", "surrogatepass")
    if roll < 0.8:
        depth = dice.choice([10, 1_000, 20_000])
        return dice.choice([b"[", b'{"data":']) * depth + b"1" + b"]" * depth
    if roll < 0.82:
        return bytes(dice.choice([262_143, 262_144, 262_145, 300_000]))
    honest = bytearray(body_of(name, data={"allocation": words_of(str(number), "done")}))
    for _ in range(dice.randint(0, 3)):
        honest[dice.randrange(len(honest))] = dice.randrange(256)
    return bytes(honest)


def the_headers(dice: random.Random, source: OriginalWebhooks, body: bytes) -> Mapping[str, str]:
    pairs: list[tuple[str, str]] = [(dice.choice([HEADER, HEADER.title()]), a_signature(dice, source, body))]
    if dice.random() < 0.2:
        pairs.append((HEADER, a_signature(dice, source, body)))
    if dice.random() < 0.1:
        pairs.clear()
    for name in ("x-webhook-correlation-id", "x-webhook-attempt", "x-app-uid"):
        if dice.random() < 0.3:
            pairs.append((name, dice.choice(["1", "", "\x00", "ü" * 300, "-1"])))
    if dice.random() < 0.5:
        return CIMultiDictProxy(CIMultiDict(pairs))
    return dict(pairs)


def deliveries(seed: int, count: int, source: OriginalWebhooks) -> Iterator[tuple[Mapping[str, str], bytes]]:
    dice = random.Random(seed)
    for number in range(count):
        body = a_body(dice, seed * count + number)
        yield the_headers(dice, source, body), body


@pytest.mark.slow
@pytest.mark.repeats_itself
@pytest.mark.parametrize("batch", range(BATCHES))
async def test_every_delivery_gets_a_reply(batch: int, caplog: pytest.LogCaptureFixture, soak: bool) -> None:
    calls = (CALLS_IN_A_SOAK if soak else CALLS) // BATCHES
    caplog.set_level(logging.CRITICAL)
    source = OriginalWebhooks(KEYS, app_uid="UB2DG8MW5KBQ")
    store = MemoryStore()
    receiver = Receiver(source, store)
    statuses: dict[int, int] = {}
    for headers, body in deliveries(batch, calls, source):
        reply = await receiver.receive(headers, body)
        assert isinstance(reply, Reply)
        statuses[reply.status] = statuses.get(reply.status, 0) + 1
    assert set(statuses) == {200, 401, 413}
    assert sum(statuses.values()) == calls
    counted = receiver.statistics
    assert counted.accepted + counted.duplicates == statuses[200]
    assert counted.dead_letters > 100
    assert (await store.statistics()).events == counted.accepted
    assert counted.store_failures == 0
    assert {"missing", "malformed", "unknown_key", "mismatch", "size"} <= set(counted.rejected)


@given(body=st.binary(max_size=2_000), header=st.text(max_size=300))
async def test_whatever_hypothesis_thinks_of_gets_a_reply(body: bytes, header: str) -> None:
    receiver = Receiver(OriginalWebhooks(KEYS), MemoryStore())
    assert (await receiver.receive({HEADER: header}, body)).status == 401
    assert (await receiver.receive({HEADER: OriginalWebhooks(KEYS).sign(body)}, body)).status == 200
