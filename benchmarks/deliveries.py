"""Deliveries per second, verified, deduplicated and kept in memory, against servers that do nothing with them."""

from __future__ import annotations

import os
import statistics
from contextlib import ExitStack
from typing import Any

import uvloop

from benchmarks._load import CONNECTIONS, cpu_of, request_of, send, server
from benchmarks._wire import pin

NAMES = ("bare", "receiver", "alone", "fastapi")


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows of this benchmark."""
    rounds, count = (2, 1_500) if quick else (7, 6_000)
    rates: dict[str, list[float]] = {name: [] for name in NAMES}
    spent: dict[str, list[float]] = {name: [] for name in NAMES}
    with ExitStack() as stack:
        servers = {name: stack.enter_context(server(name)) for name in NAMES}
        pin(os.getpid(), 0)
        try:
            for round_number in range(rounds + 1):
                requests = [request_of(round_number * count + number) for number in range(count)]
                for name, (port, process) in servers.items():
                    before = cpu_of(process)
                    elapsed = uvloop.run(send(port, requests))
                    if round_number:  # the first warms up
                        rates[name].append(count / elapsed)
                        spent[name].append((cpu_of(process) - before) / count * 1e6)
        finally:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, range(os.cpu_count() or 1))
    rate = {name: statistics.median(values) for name, values in rates.items()}
    cpu = {name: statistics.median(values) for name, values in spent.items()}
    what = f"deliveries per second, verified, deduplicated, MemoryStore, {CONNECTIONS} connections"
    return [
        {
            "name": what,
            "value": rate["receiver"],
            "unit": "1/s",
            "reference": f"{title}: {rate[name]:,.0f}/s",
            "ratio": rate["receiver"] / rate[name],
            "bar": bar,
        }
        for name, title, bar in (
            ("bare", "an aiohttp handler that reads the body and answers 204", "≥ 0.55 (goal 0.65)"),
            ("fastapi", "FastAPI under uvicorn[standard], doing the same nothing", "≥ 1.1"),
        )
    ] + [
        {
            "name": "CPU of the server per delivery",
            "value": cpu["receiver"],
            "unit": "µs",
            "reference": f"the bare aiohttp handler: {cpu['bare']:.0f} µs, FastAPI: {cpu['fastapi']:.0f} µs",
            "ratio": cpu["receiver"] / cpu["bare"] if cpu["bare"] else None,
            "bar": None,
        }
    ]
