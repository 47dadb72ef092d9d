"""Bodies in progress share one budget of memory: they wait for it, and are read all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address

import attrs
import pytest

from tests.stepped_time import SteppedTime
from tests.virtual_time import virtual_time
from tests.webhooks.ingress_kit import HEALTHY, SLOWEST, Running, close, read_answer, request, serving, turns, until
from tests.webhooks.test_connection_slots import FakeConnection
from webhooks.ingress.body_memory import BodyMemory
from webhooks.ingress.slots import FRESH_SECONDS, Phase

LONG = 200_000


class Stream:
    """A body whose blocks the test sends."""

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

    def __init__(self, memory: BodyMemory, *blocks: bytes, max_size: int = LONG, client: str = "192.0.2.1") -> None:
        self.connection = FakeConnection(Phase.BODY, since=asyncio.get_running_loop().time(), client=ip_address(client))
        self.stream = Stream(*blocks)
        self._body_memory = memory
        self.task = asyncio.create_task(memory.read(self.connection, self.stream, max_size))

    async def whole(self) -> bytes | None:
        """Send the end, and return the body and its memory."""
        self.stream.send(b"")
        try:
            return await self.task
        finally:
            self._body_memory.release(self.connection)


@virtual_time
async def test_a_body_waits_while_all_memory_is_used_and_resumes_when_another_is_answered() -> None:
    memory = BodyMemory(100)
    first, second, third = (Reading(memory, each * 50) for each in (b"1", b"2", b"3"))
    await turns()
    assert memory.used == 100
    assert await first.whole() == b"1" * 50
    await turns()
    assert memory.used == 100
    assert await second.whole() == b"2" * 50
    assert await third.whole() == b"3" * 50
    assert memory.used == 0


@virtual_time
async def test_a_body_counts_until_it_is_answered() -> None:
    memory = BodyMemory(100)
    first = Reading(memory, b"1" * 100, b"")
    assert await first.task == b"1" * 100
    second = Reading(memory, b"2" * 50, b"")
    await turns()
    assert not second.task.done()
    memory.release(first.connection)
    assert await second.task == b"2" * 50


@virtual_time
async def test_a_small_body_never_waits() -> None:
    memory = BodyMemory(100_000)
    first, second = Reading(memory, b"1" * 100_000), Reading(memory, b"2" * 20, b"2" * 20)
    third = Reading(memory, b"3" * 48, b"3")
    await turns()
    assert await second.whole() == b"2" * 40
    assert not third.stream.empty
    assert await first.whole() == b"1" * 100_000
    assert await third.whole() == b"3" * 49
    assert memory.used == 0


@virtual_time
async def test_the_oldest_body_is_read_to_its_end_whatever_its_size() -> None:
    memory = BodyMemory(100)
    first, second = (Reading(memory, each * 60) for each in (b"1", b"2"))
    await turns()
    for reading in (first, second):
        reading.stream.send(b"." * 500)
    await turns()
    assert memory.used == 620
    assert len(await first.whole() or b"") == 560
    assert len(await second.whole() or b"") == 560


@virtual_time
async def test_a_body_that_is_too_long_is_not_read_further() -> None:
    memory = BodyMemory(1_000)
    reading = Reading(memory, b"." * 60, b"." * 60, max_size=100)
    assert await reading.task is None
    memory.release(reading.connection)
    assert memory.used == 0


@virtual_time
async def test_a_released_body_holds_nothing_and_is_not_read_further() -> None:
    memory = BodyMemory(100)
    reading, waiting = (Reading(memory, b"." * 100, b".") for _ in range(2))
    third = Reading(memory, b"3" * 10)
    await turns()
    memory.release(waiting.connection)
    memory.release(reading.connection)
    reading.stream.send(b".")
    for each in (reading, waiting):
        with pytest.raises(ConnectionResetError):
            await each.task
    assert await third.whole() == b"3" * 10
    assert memory.used == 0


@virtual_time
async def test_a_body_released_as_it_resumes_blocks_no_other() -> None:
    memory = BodyMemory(100)
    first, second, third = (Reading(memory, b"." * 100) for _ in range(3))
    await turns()
    memory.release(first.connection)  # the second may go on
    memory.release(second.connection)
    assert await third.whole() == b"." * 100
    for each in (first, second):
        each.task.cancel()
    await asyncio.gather(first.task, second.task, return_exceptions=True)


@virtual_time
async def test_only_a_stalled_body_that_others_wait_for_is_blocking() -> None:
    loop = asyncio.get_running_loop()
    memory = BodyMemory(100)
    stalled = Reading(memory, b"." * 99)
    await asyncio.sleep(FRESH_SECONDS)
    assert memory.blocking(loop.time()) == []
    fresh, waiting = (Reading(memory, b"." * 10, b".") for _ in range(2))
    await turns()
    assert memory.blocking(loop.time()) == [stalled.connection]
    stalled.connection.phase = Phase.ANSWER
    assert memory.blocking(loop.time()) == []
    for each in (stalled, fresh, waiting):
        memory.release(each.connection)
        each.task.cancel()
    await asyncio.gather(*(each.task for each in (stalled, fresh, waiting)), return_exceptions=True)


async def let_go(memory: BodyMemory, *readings: Reading) -> None:
    """Cancel readings and release their memory."""
    for each in readings:
        memory.release(each.connection)
        each.task.cancel()
    await asyncio.gather(*(each.task for each in readings), return_exceptions=True)


@virtual_time
async def test_freed_memory_goes_first_to_the_client_that_holds_least() -> None:
    memory = BodyMemory(100)
    answered, crowd = Reading(memory, b"1" * 10, b""), [Reading(memory, b"2" * 10, b"2" * 10) for _ in range(9)]
    await turns()
    lone = Reading(memory, b"3" * 10, client="192.0.2.2")
    await turns()
    assert [reader in memory.waiting for reader in (crowd[-1].connection, lone.connection)] == [True, True]
    memory.release(answered.connection)
    await turns()
    assert lone.stream.empty
    await let_go(memory, lone, *crowd)


@virtual_time
async def test_the_oldest_body_resumes_even_if_another_took_the_freed_memory() -> None:
    memory = BodyMemory(100)
    answered = Reading(memory, b"1" * 90, b"", client="192.0.2.1")
    longest = Reading(memory, b"2" * 10, b"2" * 10, client="192.0.2.2")
    await turns()
    others = [Reading(memory, b"3" * 95, client=f"192.0.2.{number}") for number in (3, 4)]
    await turns()
    memory.release(answered.connection)
    await turns()
    assert longest.stream.empty
    await let_go(memory, longest, *others)


@virtual_time
async def test_the_oldest_body_of_the_client_that_holds_most_is_evicted_first_even_if_it_waits() -> None:
    loop = asyncio.get_running_loop()
    memory = BodyMemory(100)
    first = Reading(memory, b"1" * 20, client="192.0.2.1")
    stalled = Reading(memory, b"2" * 30, client="192.0.2.2")
    await turns()
    crowd = [Reading(memory, b"3" * 17, b"3", client="192.0.2.3") for _ in range(3)]
    await turns()
    assert memory.used == 101
    await asyncio.sleep(FRESH_SECONDS)
    assert memory.blocking(loop.time()) == [stalled.connection], "those who wait are in the way of nobody who holds as much"
    lone = Reading(memory, b"4", b"4", client="192.0.2.4")
    await turns()
    assert memory.blocking(loop.time()) == [crowd[0].connection, crowd[1].connection]
    await let_go(memory, first, stalled, lone, *crowd)
    assert (memory.used, memory.waiting) == (0, [])


def paused(running: Running) -> bool:
    """Return whether a body waits for memory."""
    return any(connection.paused_since is not None for connection in running.connections)


@asynccontextmanager
async def waiting_for_memory(running: Running) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Let one delivery hold all memory, and another wait for memory; yield the streams of the second."""
    running.inbox.go_on.clear()
    reader, writer = await running.connect()
    writer.write(request("Content-Length: 2000\r\n"))
    await until(lambda: running.inbox.begun)
    writer.write(b"x" * 2_000)
    await running.inbox.entered.wait()
    waiting, sender = await running.connect()
    sender.write(request("Content-Length: 4000\r\n") + b"y" * 2_000)
    await until(lambda: paused(running))
    yield waiting, sender
    assert await read_answer(reader) == 200
    for each in (writer, sender):
        await close(each)


SCARCE = attrs.evolve(SLOWEST, buffered_bytes=1_000)


async def test_a_pipelined_body_that_waits_for_memory_is_not_read_meanwhile() -> None:
    async with serving(SCARCE) as running:
        holding, holder = await running.connect()
        holder.write(request("Content-Length: 3000\r\n") + b"x" * 2_000)
        await until(lambda: running.inbox.begun)
        await turns()
        running.inbox.go_on.clear()
        reader, writer = await running.connect()
        writer.write(HEALTHY)
        await running.inbox.entered.wait()
        writer.write(request(body=b"y" * 20_000))
        writer.write_eof()
        await until(lambda: any(connection.pipelined for connection in running.connections))
        running.inbox.go_on.set()
        await until(lambda: paused(running))
        await turns()
        assert all(connection.received < 20_000 for connection in running.connections)
        holder.write(b"x" * 1_000)
        assert await read_answer(holding) == 200
        assert [await read_answer(reader) for _ in range(2)] == [200, 200]
        for each in (holder, writer):
            await close(each)


async def test_the_timeout_of_a_body_is_suspended_while_it_waits_for_memory(stepped_time: SteppedTime) -> None:
    async with serving(SCARCE, body_timeout=4) as running, waiting_for_memory(running) as (reader, writer):
        stepped_time.at += 5
        await turns()
        running.inbox.go_on.set()
        await until(lambda: not paused(running))
        stepped_time.at += 2
        await turns()
        writer.write(b"y" * 2_000)
        assert await read_answer(reader) == 200
        assert running.refused == {}


async def test_a_body_that_waits_for_memory_too_long_gets_429(stepped_time: SteppedTime) -> None:
    async with serving(SCARCE, body_timeout=4) as running, waiting_for_memory(running) as (reader, _):
        stepped_time.at += 8
        assert await read_answer(reader) == 429
        assert running.refused == {"evicted": 1}
        running.inbox.go_on.set()


async def test_a_body_that_waits_for_memory_does_not_delay_the_shutdown(stepped_time: SteppedTime) -> None:
    async with serving(SCARCE, body_timeout=4) as running, waiting_for_memory(running) as (reader, _):
        end = asyncio.create_task(running.server.drain(5))
        await until(lambda: running.server.draining)
        stepped_time.at += 0.1
        assert await read_answer(reader) == 429
        running.inbox.go_on.set()
        assert await end


@virtual_time
async def test_a_buffered_body_in_many_pieces_does_not_block_the_loop() -> None:
    reading = Reading(BodyMemory(10_000), *[b"."] * 1_000, b"")
    count = 0
    while not reading.task.done():
        await asyncio.sleep(0)
        count += 1
    assert count >= 1_000


async def stalled(running: Running, count: int, size: int) -> list[asyncio.StreamWriter]:
    """Send parts of several long bodies, and wait until the server has begun to read them."""
    writers: list[asyncio.StreamWriter] = []
    for _ in range(count):
        _, writer = await running.connect("127.0.0.9")
        writer.write(request(f"Content-Length: {LONG}\r\n") + b"x" * size)
        writers.append(writer)
    await until(lambda: running.inbox.begun == count)
    return writers


@pytest.mark.slow
async def test_a_long_delivery_is_stored_although_stalled_bodies_hold_all_memory() -> None:
    async with serving(attrs.evolve(SLOWEST, buffered_bytes=400_000, drain_grace_seconds=0.05), body_timeout=3_600) as running:
        held = await stalled(running, 5, 150_000)
        reader, writer = await running.connect()
        writer.write(request(f"Content-Length: {LONG}\r\n") + b"y" * LONG)
        assert await read_answer(reader) == 200
        assert running.inbox.bodies == [b"y" * LONG]
        assert running.refused["evicted"] >= 1
        for each in (writer, *held):
            await close(each)
