"""Hostile peers in a process of their own.

`python -m benchmarks._strangers KIND[,KIND...] PORT CONNECTIONS plain|tls` connects so many of each kind and prints "ready".
"""

from __future__ import annotations

import asyncio
import os
import random
import resource
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

from benchmarks._processes import running
from benchmarks._servers import KEY_ID, PATH

ADDRESSES = [f"127.0.1.{number}" for number in range(1, 51)]
FEW_ADDRESSES = 10
"""How many of the addresses a kind uses, unless it reconnects at once."""
AT_ONCE = frozenset({"bursts", "refused"})
"""The kinds that reconnect at once, and so keep the listener's core busy whatever it does."""
RECONNECT_AFTER = (0.5, 1.5)
"""Seconds after which the others reconnect, from and to."""

_SIGNED_WRONGLY = f"X-Webhook-Signature: {KEY_ID},{'0' * 64}\r\n"
_LENGTH = 262_144
_BURST = 100_000
_BURST_SECONDS = 1.0


def _start(kind: str, number: int) -> bytes:
    """Return what a stranger sends at first."""
    signature = "" if kind in {"unsigned", "slow"} else _SIGNED_WRONGLY
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.{number % 10}\r\n{signature}"
    if kind in {"unsigned", "signed wrongly"}:
        return f"{head}Content-Length: 200000\r\n\r\n1".encode()
    if kind == "bursts":
        return f"{head}Content-Length: 200000\r\n\r\n".encode() + b"x" * _BURST
    if kind == "refused":
        return f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
    if kind == "full":
        return f"{head}Content-Length: {_LENGTH}\r\n\r\n".encode() + b"x" * (_LENGTH - 1)
    if kind == "pipelines":
        whole = f"{head}Content-Length: 1\r\n\r\n1".encode()
        return whole * (_LENGTH // len(whole))
    if kind == "slow":
        return f"{head}Content-Length: 9999\r\n\r\n".encode() if number % 2 else head.removesuffix("\r\n").encode()
    return {"headers": head.encode(), "garbage": b"\x16\x03\x01 nothing of the kind\r\n\r\n"}.get(kind, b"")


async def _stay(kind: str, number: int, port: int, tls: ssl.SSLContext | None, connected: asyncio.Semaphore) -> None:
    data = _start(kind, number)
    address = ADDRESSES[number % (len(ADDRESSES) if kind in AT_ONCE else FEW_ADDRESSES)]
    while True:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_BURST_SECONDS if kind == "bursts" else 60):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0), ssl=tls)
                if kind == "pipelines":
                    cast("asyncio.Transport", writer.transport).pause_reading()
                writer.write(data)
                connected.release()
                dribbling = asyncio.create_task(_dribble(writer)) if kind == "slow" else None
                try:
                    while await reader.read(1000):
                        if kind == "refused":
                            writer.write(data)
                finally:
                    if dribbling is not None:
                        dribbling.cancel()
                    writer.transport.abort()
        connected.release()
        await asyncio.sleep(0 if kind in AT_ONCE else random.uniform(*RECONNECT_AFTER))


async def _dribble(writer: asyncio.StreamWriter) -> None:
    while True:
        await asyncio.sleep(1.0)
        writer.write(b"x")


async def _main(kinds: list[str], port: int, connections: int, over_tls: bool) -> None:
    os.nice(19)  # strangers stand for other machines: they must not slow down the caller that is measured
    resource.setrlimit(resource.RLIMIT_NOFILE, (4_096, max(4_096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    context = None
    if over_tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connected = asyncio.Semaphore(0)
    tasks = []
    for kind in kinds:
        tls = None if kind == "silent" else context
        tasks += [asyncio.create_task(_stay(kind, number, port, tls, connected)) for number in range(connections)]
    for _ in tasks:
        await connected.acquire()
    print("ready", flush=True)
    await asyncio.gather(*tasks)


@contextmanager
def strangers(kind: str, port: int, connections: int, *, tls: bool = False) -> Iterator[None]:
    """Connect strangers of a kind to a port.

    `unsigned` and `signed wrongly` send one byte of a long body and wait. `full` sends all but the last byte, `bursts` half of
    the body, again every second. `refused` sends one unsigned request after another, `pipelines` many requests without reading an
    answer. `headers` and `silent` never finish a request, `slow` sends a byte a second, and `garbage` sends no HTTP.
    """
    arguments = ("-m", "benchmarks._strangers", kind, str(port), str(connections), "tls" if tls else "plain")
    with running(*arguments, core=0) as (output, _):
        output.readline()
        yield


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "tls"))
