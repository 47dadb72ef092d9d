"""What the benchmarks of clients share: a peer that answers at once from another process, and a fair way to measure CPU."""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager

AT_ONCE = 64

PEER = """
import asyncio, sys

ANSWER = sys.stdin.buffer.read()


class Peer(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.held = transport, b""

    def data_received(self, data):
        self.held += data
        while (end := self.held.find(b"\\r\\n\\r\\n")) >= 0:
            head = self.held[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\\r\\n", 1)[0]) if at >= 0 else 0
            if len(self.held) < end + 4 + length:
                return
            self.held = self.held[end + 4 + length :]
            self.transport.write(ANSWER)


async def main():
    server = await asyncio.get_running_loop().create_server(Peer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
"""


@contextmanager
def beside(command: list[str]) -> Iterator[None]:
    """Run a process on the first core, from the first line that it writes to the end."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        pin(process.pid, 0)
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def answering_peer(body: bytes, status: str = "200 OK") -> Iterator[str]:
    """Run a process that answers every request with these bytes; give its address."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    process = subprocess.Popen([sys.executable, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(head + body)
        process.stdin.close()
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def pin(process: int, core: int) -> str:
    """Pin a process to a core where the machine has several; return what was done, in words."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        return "not pinned"
    os.sched_setaffinity(process, {cores[core % len(cores)]})
    return f"pinned to core {cores[core % len(cores)]}"


Caller = Callable[[int], Awaitable[None]]
"""Makes one call; is given the call's number."""


async def cpu_per_call(call: Caller, calls: int, *, at_once: int = AT_ONCE) -> float:
    """Return this process's CPU per call in microseconds, with so many under way at a time."""
    numbers = iter(range(calls))

    async def work() -> None:
        for number in numbers:
            await call(number)

    gc.collect()
    started = time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
    return (time.process_time() - started) / calls * 1e6


async def interleaved(callers: Mapping[str, Caller], *, rounds: int, calls: int) -> dict[str, float]:
    """Return each caller's median CPU per call over rounds in which all take their turn, after a round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in callers}
    for round_number in range(rounds + 1):
        for name, call in callers.items():
            spent = await cpu_per_call(call, calls if round_number else calls // 4)
            if round_number:
                times[name].append(spent)
    return {name: statistics.median(spent) for name, spent in times.items()}
