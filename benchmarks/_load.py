"""Signed deliveries, and a client that sends them over many connections as fast as they are answered."""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import orjson
import uvloop
from attrs import frozen

from benchmarks._servers import KEY_ID, PATH, SECRET
from benchmarks._wire import pin
from original_async.signature import sign

CONNECTIONS = 64
_PATIENCE = 60.0


def body_of(number: int) -> bytes:
    """Return the body of one event whose resource is complete."""
    return orjson.dumps(
        {
            "data": {
                "app": {"uid": "UB2DG8MW5KBQ", "name": "App name567", "region": "EU", "environment": "Development"},
                "allocation": {
                    "uid": str(300_000_000_000 + number),
                    "status": "done",
                    "reward_uid": "112144981245",
                    "to_user_uid": "223144788242",
                    "amount": "1.23",
                    "nonce": f"nonce_{number}",
                    "created_at": "2023-08-10T14:07:14.494142Z",
                },
            },
            "event": "reward.allocated",
            "event_time": "2024-08-01T11:24:36.531141+00:00",
            "sent_at": "2024-08-01T11:24:36.531141+00:00",
        }
    )


def headers_of(body: bytes, number: int) -> dict[str, str]:
    """Return the headers of its delivery."""
    return {
        "x-app-uid": "UB2DG8MW5KBQ",
        "x-webhook-correlation-id": f"0b1f7c1e-0000-4000-8000-{number:012d}",
        "x-webhook-attempt": "1",
        "x-webhook-signature": sign(body, {KEY_ID: SECRET}),
    }


def request_of(number: int, path: str = PATH) -> bytes:
    """Return the whole delivery as it goes over the wire."""
    body = body_of(number)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers_of(body, number).items())
    return (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: python-requests/2.32.3\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n{head}\r\n"
    ).encode() + body


class _Connection(asyncio.Protocol):
    """Sends one request after the other, the next when the last is answered."""

    def __init__(self, requests: Iterator[bytes], finished: asyncio.Future[None], times: list[float] | None) -> None:
        self._requests = requests
        self._finished = finished
        self._times = times
        self._sent_at = 0.0
        self._transport: asyncio.Transport | None = None
        self.answers: dict[bytes, int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._next()

    def data_received(self, data: bytes) -> None:
        if self._times is not None:
            self._times.append(time.perf_counter() - self._sent_at)
        status = data[9:12]
        self.answers[status] = self.answers.get(status, 0) + 1
        self._next()

    def connection_lost(self, _: Exception | None) -> None:
        if not self._finished.done():
            self._finished.set_exception(ConnectionError("the server closed the connection"))

    def _next(self) -> None:
        assert self._transport is not None
        request = next(self._requests, None)
        if request is None:
            self._finished.set_result(None)
            self._transport.close()
            return
        self._sent_at = time.perf_counter()
        self._transport.write(request)


async def send(
    port: int, requests: Sequence[bytes], *, connections: int = CONNECTIONS, times: list[float] | None = None
) -> float:
    """Send all requests and return the seconds it took; every answer must be a 2xx."""
    loop = asyncio.get_running_loop()
    waiting = iter(requests)
    finished: list[asyncio.Future[None]] = [loop.create_future() for _ in range(connections)]
    made: list[_Connection] = []
    started = time.perf_counter()
    for future in finished:
        _, connection = await loop.create_connection(partial(_Connection, waiting, future, times), "127.0.0.1", port)
        made.append(connection)
    async with asyncio.timeout(_PATIENCE):
        await asyncio.gather(*finished)
    elapsed = time.perf_counter() - started
    answers = {status for connection in made for status in connection.answers}
    assert all(status.startswith(b"2") for status in answers), f"expected 2xx only, got {answers}"
    assert sum(sum(connection.answers.values()) for connection in made) == len(requests)
    return elapsed


@contextmanager
def server(name: str, *arguments: str, module: str = "benchmarks._servers", core: int = 1) -> Iterator[tuple[int, int]]:
    """Run a server of `benchmarks._servers`; give its port and its process id."""
    process = subprocess.Popen([sys.executable, "-m", module, name, *arguments], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        pin(process.pid, core)
        yield int(process.stdout.readline()), process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def cpu_of(process: int) -> float:
    """Return the CPU seconds that a process and its living children have used, 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text("ascii").rsplit(")", 1)[1].split()
        children = Path(f"/proc/{process}/task/{process}/children").read_text("ascii").split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") + sum(cpu_of(int(child)) for child in children)


@frozen
class Pace:
    """How a server takes deliveries: so many a second, at so many microseconds of its CPU each."""

    rate: float
    cpu: float


def race(servers: Mapping[str, tuple[int, int]], *, quick: bool) -> dict[str, Pace]:
    """Send the same deliveries to each server by its port in turn, round by round, and return the medians."""
    rounds, count = (1, 200) if quick else (7, 6_000)
    rates: dict[str, list[float]] = {name: [] for name in servers}
    spent: dict[str, list[float]] = {name: [] for name in servers}
    for round_number in range(rounds + 1):
        requests = [request_of(round_number * count + number) for number in range(count)]
        for name, (port, process) in servers.items():
            before = cpu_of(process)
            elapsed = uvloop.run(send(port, requests))
            if round_number:  # the first warms up
                rates[name].append(count / elapsed)
                spent[name].append((cpu_of(process) - before) / count * 1e6)
    return {name: Pace(statistics.median(rates[name]), statistics.median(spent[name])) for name in servers}
