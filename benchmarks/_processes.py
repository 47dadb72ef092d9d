"""Processes beside a benchmark, and fair ways to measure CPU and stalls."""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO

CONCURRENCY = 64


@contextmanager
def running(*arguments: str, core: int | None = None, stdin: bytes = b"") -> Iterator[tuple[IO[bytes], int]]:
    """Run `python ARGUMENTS`, pinned to a core if one is given, and kill it at the end; give its output and process id."""
    process = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if core is not None:
            pin(process.pid, core)
        process.stdin.write(stdin)
        process.stdin.close()
        yield process.stdout, process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def answering_peer(body: bytes, status: str = "200 OK") -> Iterator[str]:
    """Run a process that gives every request the same answer; give its address."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with running("-m", "benchmarks._vendor", "peer", stdin=head + body) as (output, _):
        yield f"http://127.0.0.1:{int(output.readline())}"


def pin(process: int, core: int) -> str:
    """Pin a process to a core if the machine has several; return in words what was done."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        return "not pinned"
    os.sched_setaffinity(process, {cores[core % len(cores)]})
    return f"pinned to core {cores[core % len(cores)]}"


@contextmanager
def pinned() -> Iterator[str]:
    """Pin this process to the first core for a while; give in words what was done."""
    try:
        yield pin(os.getpid(), 0)
    finally:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, range(os.cpu_count() or 1))


def cpu_of(process: int) -> float:
    """Return the CPU seconds of a process and its living children, 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text("ascii").rsplit(")", 1)[1].split()
        children = Path(f"/proc/{process}/task/{process}/children").read_text("ascii").split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + sum(cpu_of(int(child)) for child in children)


def cpu_of_server(process: int) -> float:
    """Return the CPU seconds of a process and all its children, those that have ended too; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text("ascii").rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return cpu_of(process) + (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


Caller = Callable[[int], Awaitable[None]]
"""Makes one call, given the call's number."""


async def cpu_per_call(call: Caller, calls: int) -> float:
    """Return this process's CPU per call in microseconds, with `CONCURRENCY` calls at a time."""
    numbers = iter(range(calls))

    async def work() -> None:
        for number in numbers:
            await call(number)

    gc.collect()
    started = time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(CONCURRENCY):
            group.create_task(work())
    return (time.process_time() - started) / calls * 1e6


async def interleaved(callers: Mapping[str, Caller], *, rounds: int, calls: int) -> dict[str, float]:
    """Return each caller's median CPU per call over interleaved rounds, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in callers}
    for round_number in range(rounds + 1):
        for name, call in callers.items():
            spent = await cpu_per_call(call, calls if round_number else calls // 4)
            if round_number:
                times[name].append(spent)
    return {name: statistics.median(spent) for name, spent in times.items()}


@asynccontextmanager
async def watched() -> AsyncIterator[list[float]]:
    """Measure the seconds between two turns of the event loop; give the list that they are added to."""
    gaps: list[float] = []
    over = False

    async def watch() -> None:
        last = time.perf_counter()
        while not over:
            await asyncio.sleep(0)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    gc.collect()
    watching = asyncio.create_task(watch())
    await asyncio.sleep(0)
    try:
        yield gaps
    finally:
        over = True
        await watching
