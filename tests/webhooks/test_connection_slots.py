"""Connection slots: the order of evictions, and that a signed delivery always gets a slot."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_address

import attrs
import pytest

from tests.webhooks.fakes import FakeSource
from tests.webhooks.ingress_kit import (
    HEALTHY,
    SLOWEST,
    Running,
    close,
    read_all,
    read_answer,
    request,
    serving,
    status_of,
    until,
)
from webhooks.ingress.limits import ServerLimits
from webhooks.ingress.peers import Address, Networks, quota_keys
from webhooks.ingress.slots import ConnectionSlots, Phase
from webhooks.receiver import Receiver
from webhooks.refusals import Refusals
from webhooks.store.memory import MemoryStore

pytestmark = pytest.mark.timeout(20)

TRICKLE = request("Content-Length: 200000\r\n") + b"1"
CLOSING = HEALTHY.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)


@attrs.define(eq=False)
class FakeConnection:
    """A connection that only waits."""

    phase: Phase = Phase.IDLE
    since: float = 0.0
    paused_since: float | None = None
    received: int = 0
    peer: Address | None = None
    client: Address | None = None
    unsigned: bool = False
    writing_paused: bool = False
    gone: bool = False

    def evict(self) -> int | None:
        self.gone = True
        return None

    def pause_body(self) -> None:
        self.paused_since = asyncio.get_running_loop().time()

    def resume_body(self) -> None:
        self.paused_since = None


class SteppedSlots:
    """Connection slots, at a time that the test sets."""

    def __init__(self, **limits: int) -> None:
        self.now = 0.0
        self.refusals = Refusals(logging.getLogger("slots-test"), clock=lambda: 0.0)
        self.slots = ConnectionSlots(ServerLimits(**limits), self.refusals, lambda: self.now)

    def enter(self, connection: FakeConnection, address: str = "192.0.2.1") -> str | None:
        return self.slots.acquire(connection, quota_keys(ip_address(address)))


async def test_connections_are_evicted_in_order() -> None:
    slots = SteppedSlots(connections=6)
    in_order = [
        FakeConnection(Phase.CLOSING, since=9.0),
        FakeConnection(Phase.ANSWER, since=8.0, writing_paused=True),
        FakeConnection(Phase.IDLE, since=7.0),
        FakeConnection(Phase.HEADERS, since=0.0, received=30_000),
        FakeConnection(Phase.BODY, since=0.0, received=1),
        FakeConnection(Phase.BODY, since=0.0, received=100_000),
    ]
    for number, connection in enumerate(reversed(in_order)):
        assert slots.enter(connection, f"192.0.2.{number}") is None
    slots.now = 10.0
    for connection in (in_order[1], in_order[0], *in_order[2:]):  # of the two that have their answers, the one that has it longer
        assert not connection.gone
        assert slots.enter(FakeConnection(Phase.ANSWER, since=10.0), "192.0.2.9") is None
        assert connection.gone
    assert slots.enter(FakeConnection(), "192.0.2.9") == "connections"
    assert slots.refusals.total == {"evicted": 6}


async def test_a_connection_that_repeats_unsigned_requests_is_evicted_before_an_idle_one() -> None:
    slots = SteppedSlots(connections=3)
    signed, stranger, idle = (
        FakeConnection(Phase.ANSWER),
        FakeConnection(Phase.ANSWER, since=9.9, unsigned=True),
        FakeConnection(Phase.IDLE),
    )
    for number, connection in enumerate((signed, stranger, idle)):
        slots.enter(connection, f"192.0.2.{number}")
    slots.now = 10.0
    assert slots.enter(FakeConnection(since=10.0), "192.0.2.9") is None
    assert (signed.gone, stranger.gone, idle.gone) == (False, True, False)


async def test_a_new_connection_outlives_a_slow_body() -> None:
    slots = SteppedSlots(connections=2)
    newcomer, trickling = FakeConnection(Phase.IDLE, since=9.5), FakeConnection(Phase.BODY, since=0.0, received=10)
    for connection in (newcomer, trickling):
        slots.enter(connection)
    slots.now = 10.0
    assert slots.enter(FakeConnection(Phase.IDLE, since=10.0)) is None
    assert (newcomer.gone, trickling.gone) == (False, True)


async def test_a_new_connection_outlives_fast_bodies_of_a_peer_with_many() -> None:
    slots = SteppedSlots(connections=3)
    newcomer, fast = (
        FakeConnection(Phase.IDLE, since=9.9),
        [FakeConnection(Phase.BODY, since=9.5, received=200_000) for _ in range(2)],
    )
    slots.enter(newcomer, "198.51.100.1")
    for connection in fast:
        slots.enter(connection)
    slots.now = 10.0
    assert slots.enter(FakeConnection(since=10.0), "203.0.113.1") is None
    assert (newcomer.gone, [connection.gone for connection in fast].count(True)) == (False, 1)


async def test_a_new_body_outlives_one_that_was_fast_and_then_stalled() -> None:
    slots = SteppedSlots(connections=2)
    fresh, stalled = FakeConnection(Phase.BODY, since=9.9, received=100), FakeConnection(Phase.BODY, since=0.0, received=100_000)
    for connection in (fresh, stalled):
        slots.enter(connection)
    slots.now = 10.0
    slots.enter(FakeConnection(Phase.IDLE, since=10.0))
    assert (fresh.gone, stalled.gone) == (False, True)


async def test_a_peer_that_is_briefly_slow_to_read_its_answer_is_not_evicted() -> None:
    slots = SteppedSlots(connections=1)
    slots.enter(FakeConnection(Phase.ANSWER, since=9.5, writing_paused=True))
    slots.now = 10.0
    assert slots.enter(FakeConnection(since=10.0)) == "connections"


@pytest.mark.parametrize(
    ("first", "second", "third"),
    [("192.0.2.1", "192.0.2.1", "198.51.100.1"), ("2001:db8::1", "2001:db8::2", "2001:db9::1")],
)
async def test_within_a_quota_only_its_own_connections_are_evicted(first: str, second: str, third: str) -> None:
    slots = SteppedSlots(connections=100, connections_per_peer=1)
    own, other = FakeConnection(Phase.BODY, received=9), FakeConnection(Phase.CLOSING)
    assert slots.enter(own, first) is None
    assert slots.enter(other, third) is None
    assert slots.enter(FakeConnection(Phase.ANSWER), second) is None
    assert (own.gone, other.gone) == (True, False)
    assert slots.enter(FakeConnection(), first) == "connections_per_peer"


async def test_networks_of_one_site_share_a_quota() -> None:
    slots = SteppedSlots(connections=100, connections_per_peer=1)
    connections = [FakeConnection(since=float(number)) for number in range(5)]
    slots.now = 10.0
    for number, connection in enumerate(connections):
        assert slots.enter(connection, f"2001:db8:0:{number}::1") is None
    assert [connection.gone for connection in connections] == [True, False, False, False, False]


async def test_a_candidate_that_has_caught_up_is_not_evicted() -> None:
    slots = SteppedSlots(connections=64)
    slow = [FakeConnection(Phase.BODY, since=0.0, received=number) for number in range(64)]
    for number, connection in enumerate(slow):
        slots.enter(connection, f"192.0.2.{number}")
    slots.now = 10.0
    slots.enter(FakeConnection(Phase.ANSWER, since=10.0))
    slow[1].received = 200_000
    slots.enter(FakeConnection(Phase.ANSWER, since=10.0))
    slots.slots.release(slow[3])
    for _ in range(2):
        slots.enter(FakeConnection(Phase.ANSWER, since=10.0))
    assert [connection.gone for connection in slow[:5]] == [True, False, True, False, True]


async def test_a_slot_is_released_once() -> None:
    slots = SteppedSlots(connections=1, connections_per_peer=1)
    connection = FakeConnection(Phase.ANSWER)
    slots.enter(connection)
    assert slots.enter(FakeConnection()) is not None
    slots.slots.release(connection)
    slots.slots.release(connection)
    assert slots.enter(FakeConnection()) is None


async def trickling(running: Running, count: int, source: str = "127.0.0.1", data: bytes = TRICKLE) -> list[asyncio.Task[bytes]]:
    """Send one byte of a body over each of several connections, and return their future responses."""
    before = running.inbox.begun
    answers = [asyncio.create_task(running.until_closed(data, source)) for _ in range(count)]
    await until(lambda: running.inbox.begun == before + count)
    return answers


async def settled(answers: list[asyncio.Task[bytes]]) -> list[int]:
    """Return the sorted statuses of answered requests; the others are cancelled."""
    for answer in answers:
        answer.cancel()
    return sorted(status_of(each) for each in await asyncio.gather(*answers, return_exceptions=True) if isinstance(each, bytes))


async def test_a_delivery_gets_a_slot_among_slow_bodies() -> None:
    async with serving(attrs.evolve(SLOWEST, connections=5)) as running:
        answers = await trickling(running, 5, "127.0.0.9")
        for _ in range(3):
            assert await running.healthy() == 200
        await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        evicted = [await answer for answer in answers if answer.done()]
        assert b"HTTP/1.1 429 " in evicted[0]
        assert b"\r\nRetry-After: 1\r\n" in evicted[0]
        assert await settled(answers) == [429] * running.refused["evicted"]


async def test_a_delivery_gets_a_slot_among_strangers_that_send_faster_than_they_are_answered() -> None:
    receiver = Receiver(FakeSource(), MemoryStore())
    async with serving(attrs.evolve(SLOWEST, connections=3), others={"/signed": receiver}) as running:
        pairs = [await running.connect("127.0.0.9") for _ in range(3)]
        for _, writer in pairs:
            writer.write(HEALTHY.replace(b"/hook", b"/signed") * 3_000)
        await until(lambda: receiver.statistics.rejected.get("missing", 0) > 30)
        signature = "".join(f"{name}: {value}\r\n" for name, value in FakeSource().sign(b"{}").items())
        answer = await running.until_closed(request(f"{signature}Connection: close\r\n", b"{}", path="/signed"))
        assert status_of(answer) == 200
        for _, writer in pairs:
            writer.transport.abort()


async def test_a_delivery_from_the_address_of_strangers_evicts_only_them() -> None:
    async with serving(attrs.evolve(SLOWEST, connections_per_peer=3)) as running:
        others = await trickling(running, 2, "127.0.0.8")
        answers = await trickling(running, 3, "127.0.0.9")
        assert await running.healthy("127.0.0.9") == 200
        await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        assert await settled(answers) == [429]
        assert await settled(others) == []


async def test_a_peer_whose_deliveries_all_wait_for_answers_gets_no_further_slot() -> None:
    async with serving(attrs.evolve(SLOWEST, connections_per_peer=2)) as running:
        running.inbox.go_on.clear()
        busy = [asyncio.ensure_future(running.healthy("127.0.0.9")) for _ in range(2)]
        await until(lambda: running.inbox.begun == 2)
        refused = await running.until_closed(HEALTHY, "127.0.0.9")
        assert (status_of(refused), b"\r\nRetry-After: 1\r\n" in refused) == (429, True)
        running.inbox.go_on.set()
        assert await asyncio.gather(*busy) == [200, 200]
        assert running.refused == {"connections_per_peer": 1}


async def test_a_client_behind_a_proxy_evicts_only_its_own_requests() -> None:
    async with serving(attrs.evolve(SLOWEST, connections_per_peer=2), trusted=Networks(["127.0.0.2"])) as running:

        def by(address: str, data: bytes) -> bytes:
            return data.replace(b"\r\n", f"\r\nX-Forwarded-For: {address}\r\n".encode(), 1)

        others = await trickling(running, 2, "127.0.0.2", by("203.0.113.8", TRICKLE))
        answers = await trickling(running, 2, "127.0.0.2", by("203.0.113.7", TRICKLE))
        for _ in range(2):
            assert status_of(await running.until_closed(by("203.0.113.7", CLOSING), "127.0.0.2")) == 200
        await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        assert await settled(answers) == [429]
        assert await settled(others) == []


async def test_a_connection_evicted_while_its_refusal_lingers_loses_nothing_of_it() -> None:
    async with serving(attrs.evolve(SLOWEST, connections=1, linger_seconds=9)) as running:
        reader, writer = await running.connect()
        writer.write(request("Content-Length: 262145\r\n") + b"x")
        assert await read_answer(reader) == 413
        assert await running.healthy() == 200
        assert await read_all(reader) == b""
        await close(writer)
