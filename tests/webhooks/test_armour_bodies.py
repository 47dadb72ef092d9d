"""Bodies under way share one budget of memory: they wait for it, and are read all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import attrs
import pytest

from tests.stepped_time import SteppedTime
from tests.virtual_time import virtual_time
from tests.webhooks.test_armour_places import Seat
from tests.webhooks.test_armour_server import HEALTHY, SLOWEST, Running, close, read_answer, request, serving, until
from webhooks.ingress.body import Bodies
from webhooks.ingress.places import FRESH_SECONDS, Phase

LONG = 200_000


class Stream:
    """A body whose blocks a test sends."""

    def __init__(self, *blocks: bytes) -> None:
        self._blocks: asyncio.Queue[bytes] = asyncio.Queue()
        for block in blocks:
            self._blocks.put_nowait(block)

    @property
    def empty(self) -> bool:
        return self._blocks.empty()

    def send(self, block: bytes) -> None:
        self._blocks.put_nowait(block)

    async def readany(self) -> bytes:
        return await self._blocks.get()


class Reading:
    """A body that is being read."""

    def __init__(self, bodies: Bodies, *blocks: bytes, longest: int = LONG, client: str = "192.0.2.1") -> None:
        self.seat = Seat(Phase.BODY, since=asyncio.get_running_loop().time(), client=ip_address(client))
        self.stream = Stream(*blocks)
        self._bodies = bodies
        self.task = asyncio.create_task(bodies.read(self.seat, self.stream, longest))

    async def whole(self) -> bytes | None:
        """Send the end, take the body, and have it answered."""
        self.stream.send(b"")
        try:
            return await self.task
        finally:
            self._bodies.release(self.seat)


async def turns() -> None:
    """Let everybody go on as far as possible."""
    for _ in range(20):
        await asyncio.sleep(0)


@virtual_time
async def test_a_body_waits_while_others_hold_all_memory_and_goes_on_when_one_is_answered() -> None:
    bodies = Bodies(100)
    first, second, third = (Reading(bodies, each * 50) for each in (b"1", b"2", b"3"))
    await turns()
    assert bodies.used == 100
    assert await first.whole() == b"1" * 50
    await turns()
    assert bodies.used == 100
    assert await second.whole() == b"2" * 50
    assert await third.whole() == b"3" * 50
    assert bodies.used == 0


@virtual_time
async def test_a_body_counts_until_it_is_answered() -> None:
    bodies = Bodies(100)
    first = Reading(bodies, b"1" * 100, b"")
    assert await first.task == b"1" * 100
    second = Reading(bodies, b"2" * 50, b"")
    await turns()
    assert not second.task.done()
    bodies.release(first.seat)
    assert await second.task == b"2" * 50


@virtual_time
async def test_a_small_body_waits_for_nobody() -> None:
    bodies = Bodies(100_000)
    first, second = Reading(bodies, b"1" * 100_000), Reading(bodies, b"2" * 20, b"2" * 20)
    third = Reading(bodies, b"3" * 48, b"3")
    await turns()
    assert await second.whole() == b"2" * 40
    assert not third.stream.empty
    assert await first.whole() == b"1" * 100_000
    assert await third.whole() == b"3" * 49
    assert bodies.used == 0


@virtual_time
async def test_the_body_under_way_longest_is_read_to_its_end_whatever_it_takes() -> None:
    bodies = Bodies(100)
    first, second = (Reading(bodies, each * 60) for each in (b"1", b"2"))
    await turns()
    for reading in (first, second):
        reading.stream.send(b"." * 500)
    await turns()
    assert bodies.used == 620
    assert len(await first.whole() or b"") == 560
    assert len(await second.whole() or b"") == 560


@virtual_time
async def test_a_body_that_is_too_long_is_not_read_on() -> None:
    bodies = Bodies(1_000)
    reading = Reading(bodies, b"." * 60, b"." * 60, longest=100)
    assert await reading.task is None
    bodies.release(reading.seat)
    assert bodies.used == 0


@virtual_time
async def test_who_is_gone_holds_nothing_and_is_read_no_further() -> None:
    bodies = Bodies(100)
    reading, waiting = (Reading(bodies, b"." * 100, b".") for _ in range(2))
    third = Reading(bodies, b"3" * 10)
    await turns()
    bodies.release(waiting.seat)
    bodies.release(reading.seat)
    reading.stream.send(b".")
    for each in (reading, waiting):
        with pytest.raises(ConnectionResetError):
            await each.task
    assert await third.whole() == b"3" * 10
    assert bodies.used == 0


@virtual_time
async def test_who_leaves_as_it_is_let_go_on_makes_nobody_wait() -> None:
    bodies = Bodies(100)
    first, second, third = (Reading(bodies, b"." * 100) for _ in range(3))
    await turns()
    bodies.release(first.seat)  # the second may go on
    bodies.release(second.seat)
    assert await third.whole() == b"." * 100
    for each in (first, second):
        each.task.cancel()
    await asyncio.gather(first.task, second.task, return_exceptions=True)


@virtual_time
async def test_only_a_body_that_others_wait_for_and_that_does_not_come_is_in_the_way() -> None:
    loop = asyncio.get_running_loop()
    bodies = Bodies(100)
    stalled = Reading(bodies, b"." * 99)
    await asyncio.sleep(FRESH_SECONDS)
    assert bodies.in_the_way(loop.time()) == []
    fresh, waiting = (Reading(bodies, b"." * 10, b".") for _ in range(2))
    await turns()
    assert bodies.in_the_way(loop.time()) == [stalled.seat]
    stalled.seat.phase = Phase.ANSWER
    assert bodies.in_the_way(loop.time()) == []
    for each in (stalled, fresh, waiting):
        bodies.release(each.seat)
        each.task.cancel()
    await asyncio.gather(*(each.task for each in (stalled, fresh, waiting)), return_exceptions=True)


async def let_go(bodies: Bodies, *readings: Reading) -> None:
    """End readings whose bodies nobody wants."""
    for each in readings:
        bodies.release(each.seat)
        each.task.cancel()
    await asyncio.gather(*(each.task for each in readings), return_exceptions=True)


@virtual_time
async def test_memory_that_is_given_back_goes_first_to_the_client_that_holds_least() -> None:
    bodies = Bodies(100)
    answered, crowd = Reading(bodies, b"1" * 10, b""), [Reading(bodies, b"2" * 10, b"2" * 10) for _ in range(9)]
    await turns()
    lone = Reading(bodies, b"3" * 10, client="192.0.2.2")
    await turns()
    assert [reader in bodies.waiting for reader in (crowd[-1].seat, lone.seat)] == [True, True]
    bodies.release(answered.seat)
    await turns()
    assert lone.stream.empty
    await let_go(bodies, lone, *crowd)


@virtual_time
async def test_the_body_under_way_longest_goes_on_though_another_took_the_memory_that_was_given_back() -> None:
    bodies = Bodies(100)
    answered = Reading(bodies, b"1" * 90, b"", client="192.0.2.1")
    longest = Reading(bodies, b"2" * 10, b"2" * 10, client="192.0.2.2")
    await turns()
    others = [Reading(bodies, b"3" * 95, client=f"192.0.2.{number}") for number in (3, 4)]
    await turns()
    bodies.release(answered.seat)
    await turns()
    assert longest.stream.empty
    await let_go(bodies, longest, *others)


@virtual_time
async def test_of_the_client_that_holds_most_the_longest_goes_first_even_if_it_waits_itself() -> None:
    loop = asyncio.get_running_loop()
    bodies = Bodies(100)
    first = Reading(bodies, b"1" * 20, client="192.0.2.1")
    stalled = Reading(bodies, b"2" * 30, client="192.0.2.2")
    await turns()
    crowd = [Reading(bodies, b"3" * 17, b"3", client="192.0.2.3") for _ in range(3)]
    await turns()
    assert bodies.used == 101
    await asyncio.sleep(FRESH_SECONDS)
    assert bodies.in_the_way(loop.time()) == [stalled.seat], "those who wait are in the way of nobody who holds as much"
    lone = Reading(bodies, b"4", b"4", client="192.0.2.4")
    await turns()
    assert bodies.in_the_way(loop.time()) == [crowd[0].seat, crowd[1].seat]
    await let_go(bodies, first, stalled, lone, *crowd)
    assert (bodies.used, bodies.waiting) == (0, [])


@asynccontextmanager
async def waiting_for_memory(running: Running) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Have one delivery wait for its answer, which holds all memory, and another for memory; give the second's."""
    running.inbox.go_on.clear()
    reader, writer = await running.connect()
    writer.write(request("Content-Length: 2000\r\n"))
    await until(lambda: running.server._in_flight)
    writer.write(b"x" * 2_000)
    await running.inbox.entered.wait()
    waiting, sender = await running.connect()
    sender.write(request("Content-Length: 4000\r\n") + b"y" * 2_000)
    await until(lambda: running.server._bodies.waiting)
    yield waiting, sender
    assert await read_answer(reader) == 200
    for each in (writer, sender):
        await close(each)


SCARCE = attrs.evolve(SLOWEST, buffered_bytes=1_000)


async def test_a_pipelined_body_that_waits_for_memory_is_not_read_meanwhile() -> None:
    async with serving(SCARCE) as running:
        holding, holder = await running.connect()
        holder.write(request("Content-Length: 3000\r\n") + b"x" * 2_000)
        await until(lambda: running.server._bodies.used)
        running.inbox.go_on.clear()
        reader, writer = await running.connect()
        writer.write(HEALTHY)
        await running.inbox.entered.wait()
        writer.write(request(body=b"y" * 20_000))
        writer.write_eof()
        await until(lambda: any(connection.ahead for connection in running.connections))
        running.inbox.go_on.set()
        await until(lambda: running.server._bodies.waiting)
        await turns()
        assert all(connection.received < 20_000 for connection in running.connections)
        holder.write(b"x" * 1_000)
        assert await read_answer(holding) == 200
        assert [await read_answer(reader) for _ in range(2)] == [200, 200]
        for each in (holder, writer):
            await close(each)


async def test_the_time_of_a_body_does_not_run_while_it_waits_for_memory(stepped_time: SteppedTime) -> None:
    async with serving(SCARCE, body_timeout=4) as running, waiting_for_memory(running) as (reader, writer):
        stepped_time.at += 5
        running.server._watch._sweep()
        running.inbox.go_on.set()
        await until(lambda: not running.server._bodies.waiting)
        stepped_time.at += 2
        running.server._watch._sweep()
        writer.write(b"y" * 2_000)
        assert await read_answer(reader) == 200
        assert running.refused == {}


async def test_a_body_that_waits_for_memory_too_long_is_told_to_come_again(stepped_time: SteppedTime) -> None:
    async with serving(SCARCE, body_timeout=4) as running, waiting_for_memory(running) as (reader, _):
        stepped_time.at += 8
        running.server._watch._sweep()
        assert await read_answer(reader) == 429
        assert running.refused == {"evicted": 1}
        running.inbox.go_on.set()


async def test_who_waits_for_memory_does_not_hold_up_the_end(stepped_time: SteppedTime) -> None:
    async with serving(SCARCE, body_timeout=4) as running, waiting_for_memory(running) as (reader, _):
        end = asyncio.create_task(running.server.drain(5))
        await asyncio.sleep(0)
        running.server._watch._sweep()
        assert await read_answer(reader) == 429
        running.inbox.go_on.set()
        assert await end


@virtual_time
async def test_a_body_in_many_pieces_that_are_all_there_lets_others_have_their_turns() -> None:
    reading = Reading(Bodies(10_000), *[b"."] * 1_000, b"")
    count = 0
    while not reading.task.done():
        await asyncio.sleep(0)
        count += 1
    assert count >= 1_000


async def stalled(running: Running, count: int, size: int) -> list[asyncio.StreamWriter]:
    """Let so many send this much of a long body, and wait until the server holds what it can."""
    writers: list[asyncio.StreamWriter] = []
    for _ in range(count):
        _, writer = await running.connect("127.0.0.9")
        writer.write(request(f"Content-Length: {LONG}\r\n") + b"x" * size)
        writers.append(writer)
    await until(lambda: running.server._in_flight == count)
    return writers


async def test_a_long_delivery_is_kept_though_others_hold_all_memory_for_bodies() -> None:
    async with serving(attrs.evolve(SLOWEST, buffered_bytes=400_000, drain_grace_seconds=0.05), body_timeout=9) as running:
        held = await stalled(running, 5, 150_000)
        reader, writer = await running.connect()
        writer.write(request(f"Content-Length: {LONG}\r\n") + b"y" * LONG)
        assert await read_answer(reader) == 200
        assert running.inbox.bodies == [b"y" * LONG]
        assert running.refused["evicted"] >= 1
        for each in (writer, *held):
            await close(each)
