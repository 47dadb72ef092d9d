"""What strangers may take from the listener as it is shipped: places and memory."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import trustme

from benchmarks._hostile import WITHOUT_PAUSE, strangers
from benchmarks._load import request_of
from benchmarks._wire import pin
from benchmarks.durable import listener, percentile, row

STRANGERS = 1_000
STRANGERS_QUICK = 20
TRIES = 360
_MEGABYTE = 1_000_000
_MOST = 200


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows of this benchmark."""
    try:
        pin(os.getpid(), 0)
        return [*places(quick), *memory(quick)]
    finally:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, range(os.cpu_count() or 1))


def places(quick: bool) -> list[dict[str, Any]]:
    """Deliver among strangers, most of whom say that a long body comes and send one byte of it."""
    tries, crowd = (TRIES // 30, STRANGERS_QUICK) if quick else (TRIES, STRANGERS)
    rows: list[dict[str, Any]] = []
    ways = (
        ("unsigned", "unsigned", (), "127.0.0.1"),
        ("signed wrongly", "with a known key id", (), "127.0.0.1"),
        ("signed wrongly", "with a known key id, one of them at the caller's address", (), "127.0.1.1"),
        ("signed wrongly", "with a known key id, behind a proxy", ("--trusted-proxy", "127.0.0.0/8"), "127.0.0.1"),
        ("bursts", "who send 100 KB with a known key id, again every second", (), "127.0.0.1"),
        ("refused", "who send the next request as soon as one is refused", (), "127.0.0.1"),
    )
    for kind, words, options, address in ways[:1] if quick else ways:
        with tempfile.TemporaryDirectory() as folder, listener(Path(folder), *options) as (port, _, _):
            _, calm = asyncio.run(_deliver(port, tries, address, 0))
            with strangers(kind, port, crowd):
                answered, stormy = asyncio.run(_deliver(port, tries, address, tries))
        before, during = percentile(calm, 99) * 1e3, percentile(stormy, 99) * 1e3
        bar = "" if kind in WITHOUT_PAUSE else "≤ 3"
        what = f"{tries} signed deliveries, each over a new connection, among {crowd:,} strangers {words}"
        rows += [
            row(f"{what}: answered 200", answered, "", f"of {tries}", answered / tries, "= 1"),
            row(f"{what}: p99", during, "ms", f"undisturbed: {before:.2f} ms", during / before, bar),
        ]
    return rows


async def _deliver(port: int, count: int, address: str, first: int) -> tuple[int, list[float]]:
    """Return how many of so many deliveries were answered 200, and how long each took."""
    answered = 0
    times: list[float] = []
    for number in range(first, first + count):
        started = time.perf_counter()
        status = b""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
            writer.write(request_of(number).replace(b"\r\n", b"\r\nX-Forwarded-For: 203.0.113.1\r\n", 1))
            status = (await reader.readline()).split(b" ")[1]
            writer.transport.abort()
        except (OSError, IndexError):
            pass
        times.append(time.perf_counter() - started)
        answered += status == b"200"
        await asyncio.sleep(0.01)
    return answered, times


def memory(quick: bool) -> list[dict[str, Any]]:
    """Show what the listener holds at most while two thousand strangers come, in two kinds of which each may do its worst."""
    seconds, crowd = (0.1, STRANGERS_QUICK) if quick else (15.0, STRANGERS)
    rows: list[dict[str, Any]] = []
    kinds_of_strangers = (
        (("silent", "full"), False),
        (("pipelines", "headers"), False),
        (("silent", "full"), True),
        (("bursts",), False),
        (("signed wrongly", "full"), True),
        (("pipelines", "headers"), True),
    )
    for kinds, over_tls in kinds_of_strangers[2:3] if quick else kinds_of_strangers:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            options = _certificate(folder) if over_tls else ()
            port, process, _ = stack.enter_context(listener(folder, *options))
            at_first = _resident(process, "VmRSS")
            for kind in kinds:
                stack.enter_context(strangers(kind, port, crowd, tls=over_tls))
            time.sleep(seconds)
            at_most = _resident(process, "VmHWM")
        who = " and ".join(f"{crowd:,} of the kind {kind}" for kind in kinds)
        what = f"memory of one worker over {'TLS' if over_tls else 'plain HTTP'}, at most, among strangers: {who}"
        alone = f"{_MOST} MB (alone it holds {at_first / _MEGABYTE:.0f})"
        rows.append(row(what, at_most / _MEGABYTE, "MB", alone, at_most / _MEGABYTE / _MOST, "≤ 1"))
    return rows


def _certificate(folder: Path) -> tuple[str, ...]:
    certificate = trustme.CA().issue_cert("localhost")
    file = folder / "certificate.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(file)
    return "--tls-cert", str(file)


def _resident(process: int, which: str) -> int:
    """Return the bytes of memory that a process holds now (`VmRSS`) or held at most (`VmHWM`)."""
    lines = Path(f"/proc/{process}/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))
