"""Who gives way where no place is left: in what order, and that a signed delivery finds a place."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_address

import attrs
import pytest

from tests.webhooks.fakes import FakeSource
from tests.webhooks.test_armour_server import (
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
from webhooks.ingress.limits import ArmourLimits
from webhooks.ingress.peers import Address, Networks, peer_keys
from webhooks.ingress.places import Phase, Places
from webhooks.receiver import Receiver
from webhooks.refusals import Refusals
from webhooks.store.memory import MemoryStore

TRICKLE = request("Content-Length: 200000\r\n") + b"1"
CLOSING = HEALTHY.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)


@attrs.define(eq=False)
class Seat:
    """A connection that only waits."""

    phase: Phase = Phase.IDLE
    since: float = 0.0
    stopped: float | None = None
    received: int = 0
    peer: Address | None = None
    client: Address | None = None
    unsigned: bool = False
    writing_paused: bool = False
    gone: bool = False

    def give_way(self) -> int | None:
        self.gone = True
        return None

    def stop_reading(self) -> None:
        self.stopped = asyncio.get_running_loop().time()

    def go_on_reading(self) -> None:
        self.stopped = None


class Hall:
    """Places at a time that a test sets, and who took them."""

    def __init__(self, **limits: int) -> None:
        self.now = 0.0
        self.refusals = Refusals(logging.getLogger("places-test"), clock=lambda: 0.0)
        self.places = Places(ArmourLimits(**limits), self.refusals, lambda: self.now)

    def enter(self, seat: Seat, address: str = "192.0.2.1") -> str | None:
        return self.places.enter(seat, peer_keys(ip_address(address)))


async def test_who_has_least_to_lose_goes_first() -> None:
    hall = Hall(connections=6)
    in_order = [
        Seat(Phase.CLOSING, since=9.0),
        Seat(Phase.ANSWER, since=8.0, writing_paused=True),
        Seat(Phase.IDLE, since=7.0),
        Seat(Phase.HEADERS, since=0.0, received=30_000),
        Seat(Phase.BODY, since=0.0, received=1),
        Seat(Phase.BODY, since=0.0, received=100_000),
    ]
    for number, seat in enumerate(reversed(in_order)):
        assert hall.enter(seat, f"192.0.2.{number}") is None
    hall.now = 10.0
    for seat in (in_order[1], in_order[0], *in_order[2:]):  # of the two that have their answers, the one that has it longer
        assert not seat.gone
        assert hall.enter(Seat(Phase.ANSWER, since=10.0), "192.0.2.9") is None
        assert seat.gone
    assert hall.enter(Seat(), "192.0.2.9") == "connections"
    assert hall.refusals.total == {"evicted": 6}


async def test_who_asks_again_and_again_without_a_signature_goes_before_the_idle() -> None:
    hall = Hall(connections=3)
    signed, stranger, idle = Seat(Phase.ANSWER), Seat(Phase.ANSWER, since=9.9, unsigned=True), Seat(Phase.IDLE)
    for number, seat in enumerate((signed, stranger, idle)):
        hall.enter(seat, f"192.0.2.{number}")
    hall.now = 10.0
    assert hall.enter(Seat(since=10.0), "192.0.2.9") is None
    assert (signed.gone, stranger.gone, idle.gone) == (False, True, False)


async def test_who_has_just_come_outlives_a_body_that_trickles() -> None:
    hall = Hall(connections=2)
    newcomer, trickling = Seat(Phase.IDLE, since=9.5), Seat(Phase.BODY, since=0.0, received=10)
    for seat in (newcomer, trickling):
        hall.enter(seat)
    hall.now = 10.0
    assert hall.enter(Seat(Phase.IDLE, since=10.0)) is None
    assert (newcomer.gone, trickling.gone) == (False, True)


async def test_who_has_just_come_outlives_fast_bodies_of_a_peer_with_many() -> None:
    hall = Hall(connections=3)
    newcomer, fast = Seat(Phase.IDLE, since=9.9), [Seat(Phase.BODY, since=9.5, received=200_000) for _ in range(2)]
    hall.enter(newcomer, "198.51.100.1")
    for seat in fast:
        hall.enter(seat)
    hall.now = 10.0
    assert hall.enter(Seat(since=10.0), "203.0.113.1") is None
    assert (newcomer.gone, [seat.gone for seat in fast].count(True)) == (False, 1)


async def test_a_body_that_has_just_begun_outlives_one_that_came_fast_and_then_stopped() -> None:
    hall = Hall(connections=2)
    fresh, stalled = Seat(Phase.BODY, since=9.9, received=100), Seat(Phase.BODY, since=0.0, received=100_000)
    for seat in (fresh, stalled):
        hall.enter(seat)
    hall.now = 10.0
    hall.enter(Seat(Phase.IDLE, since=10.0))
    assert (fresh.gone, stalled.gone) == (False, True)


async def test_a_peer_that_was_slow_for_a_moment_to_read_its_answer_is_left_alone() -> None:
    hall = Hall(connections=1)
    hall.enter(Seat(Phase.ANSWER, since=9.5, writing_paused=True))
    hall.now = 10.0
    assert hall.enter(Seat(since=10.0)) == "connections"


@pytest.mark.parametrize(
    ("first", "second", "third"),
    [("192.0.2.1", "192.0.2.1", "198.51.100.1"), ("2001:db8::1", "2001:db8::2", "2001:db9::1")],
)
async def test_within_a_share_only_its_own_give_way(first: str, second: str, third: str) -> None:
    hall = Hall(connections=100, connections_per_peer=1)
    own, other = Seat(Phase.BODY, received=9), Seat(Phase.CLOSING)
    assert hall.enter(own, first) is None
    assert hall.enter(other, third) is None
    assert hall.enter(Seat(Phase.ANSWER), second) is None
    assert (own.gone, other.gone) == (True, False)
    assert hall.enter(Seat(), first) == "connections_per_peer"


async def test_networks_of_one_site_give_way_to_each_other() -> None:
    hall = Hall(connections=100, connections_per_peer=1)
    seats = [Seat(since=float(number)) for number in range(5)]
    hall.now = 10.0
    for number, seat in enumerate(seats):
        assert hall.enter(seat, f"2001:db8:0:{number}::1") is None
    assert [seat.gone for seat in seats] == [True, False, False, False, False]


async def test_who_was_found_to_be_slow_but_has_caught_up_stays() -> None:
    hall = Hall(connections=64)
    slow = [Seat(Phase.BODY, since=0.0, received=number) for number in range(64)]
    for number, seat in enumerate(slow):
        hall.enter(seat, f"192.0.2.{number}")
    hall.now = 10.0
    hall.enter(Seat(Phase.ANSWER, since=10.0))
    slow[1].received = 200_000
    hall.enter(Seat(Phase.ANSWER, since=10.0))
    hall.places.leave(slow[3])
    for _ in range(2):
        hall.enter(Seat(Phase.ANSWER, since=10.0))
    assert [seat.gone for seat in slow[:5]] == [True, False, True, False, True]


async def test_a_place_is_taken_back_once() -> None:
    hall = Hall(connections=1, connections_per_peer=1)
    seat = Seat(Phase.ANSWER)
    hall.enter(seat)
    assert hall.enter(Seat()) is not None
    hall.places.leave(seat)
    hall.places.leave(seat)
    assert hall.enter(Seat()) is None


async def trickling(running: Running, count: int, source: str = "127.0.0.1", data: bytes = TRICKLE) -> list[asyncio.Task[bytes]]:
    """Let so many send one byte of a body, and return what each will be answered."""
    before = running.server._in_flight
    answers = [asyncio.create_task(running.until_closed(data, source)) for _ in range(count)]
    await until(lambda: running.server._in_flight == before + count)
    return answers


async def settled(answers: list[asyncio.Task[bytes]]) -> list[int]:
    """Return the statuses of those that are answered, sorted; the others are cut off."""
    for answer in answers:
        answer.cancel()
    return sorted(status_of(each) for each in await asyncio.gather(*answers, return_exceptions=True) if isinstance(each, bytes))


async def test_a_delivery_finds_a_place_among_bodies_that_trickle() -> None:
    async with serving(attrs.evolve(SLOWEST, connections=5)) as running:
        answers = await trickling(running, 5, "127.0.0.9")
        for _ in range(3):
            assert await running.healthy() == 200
        await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        evicted = [await answer for answer in answers if answer.done()]
        assert b"HTTP/1.1 429 " in evicted[0]
        assert b"\r\nRetry-After: 1\r\n" in evicted[0]
        assert await settled(answers) == [429] * running.refused["evicted"]


async def test_a_delivery_finds_a_place_among_strangers_who_ask_faster_than_they_are_answered() -> None:
    async with serving(attrs.evolve(SLOWEST, connections=3)) as running:
        running.server._routes["/hook"] = receiver = Receiver(FakeSource(), MemoryStore())
        pairs = [await running.connect("127.0.0.9") for _ in range(3)]
        for _, writer in pairs:
            writer.write(HEALTHY * 3_000)
        await until(lambda: receiver.statistics.rejected.get("missing", 0) > 30)
        signature = "".join(f"{name}: {value}\r\n" for name, value in FakeSource().sign(b"{}").items())
        answer = await running.until_closed(request(f"{signature}Connection: close\r\n", b"{}"))
        assert status_of(answer) == 200
        for _, writer in pairs:
            writer.transport.abort()


async def test_a_caller_at_the_address_of_strangers_finds_a_place_and_only_they_give_way() -> None:
    async with serving(attrs.evolve(SLOWEST, connections_per_peer=3)) as running:
        others = await trickling(running, 2, "127.0.0.8")
        answers = await trickling(running, 3, "127.0.0.9")
        assert await running.healthy("127.0.0.9") == 200
        await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        assert await settled(answers) == [429]
        assert await settled(others) == []


async def test_a_peer_whose_deliveries_all_wait_for_their_answers_gets_no_further_place() -> None:
    async with serving(attrs.evolve(SLOWEST, connections_per_peer=2)) as running:
        running.inbox.go_on.clear()
        busy = [asyncio.ensure_future(running.healthy("127.0.0.9")) for _ in range(2)]
        await until(lambda: running.server._in_flight == 2)
        refused = await running.until_closed(HEALTHY, "127.0.0.9")
        assert (status_of(refused), b"\r\nRetry-After: 1\r\n" in refused) == (429, True)
        running.inbox.go_on.set()
        assert await asyncio.gather(*busy) == [200, 200]
        assert running.refused == {"connections_per_peer": 1}


async def test_a_client_behind_a_proxy_gives_way_only_to_its_own() -> None:
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


async def test_who_is_evicted_while_its_refusal_lingers_loses_nothing_of_it() -> None:
    async with serving(attrs.evolve(SLOWEST, connections=1, linger_seconds=9)) as running:
        reader, writer = await running.connect()
        writer.write(request("Content-Length: 262145\r\n") + b"x")
        assert await read_answer(reader) == 413
        assert await running.healthy() == 200
        assert await read_all(reader) == b""
        await close(writer)
