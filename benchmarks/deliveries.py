"""Deliveries per second, verified, deduplicated and kept in memory, against servers that do nothing with them."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from benchmarks._load import CONNECTIONS, race, server
from benchmarks._wire import pin

NAMES = ("bare", "receiver", "alone", "fastapi")


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows of this benchmark."""
    with ExitStack() as stack:
        servers = {name: stack.enter_context(server(name)) for name in NAMES}
        pin(os.getpid(), 0)
        try:
            paces = race(servers, quick=quick)
        finally:
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, range(os.cpu_count() or 1))
    rate = {name: pace.rate for name, pace in paces.items()}
    cpu = {name: pace.cpu for name, pace in paces.items()}
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
            ("bare", "an aiohttp handler that reads the body and answers 204", "≥ 0.60"),
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
