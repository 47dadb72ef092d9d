"""Deliveries per second, verified, deduplicated and held in memory, compared with servers that ignore them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from benchmarks._load import CONNECTIONS, race, server
from benchmarks._processes import pinned
from benchmarks._results import row

NAMES = ("bare", "receiver", "standalone", "fastapi")


def run(quick: bool = False) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        servers = {name: stack.enter_context(server(name)) for name in NAMES}
        stack.enter_context(pinned())
        paces = race(servers, quick=quick)
    rate = {name: pace.rate for name, pace in paces.items()}
    cpu = {name: pace.cpu for name, pace in paces.items()}
    what = f"deliveries per second, verified, deduplicated, MemoryStore, {CONNECTIONS} connections"
    rows = [
        row(
            what, rate["receiver"], "1/s", reference=f"{title}: {rate[name]:,.0f}/s", ratio=rate["receiver"] / rate[name], bar=bar
        )
        for name, title, bar in (
            ("bare", "an aiohttp handler that reads the body and answers 204", "≥ 0.60"),
            ("fastapi", "FastAPI under uvicorn[standard], as idle as the bare handler", "≥ 1.1"),
        )
    ]
    reference = f"the bare aiohttp handler: {cpu['bare']:.0f} µs, FastAPI: {cpu['fastapi']:.0f} µs"
    ratio = cpu["receiver"] / cpu["bare"] if cpu["bare"] else None
    return [*rows, row("CPU of the server per delivery", cpu["receiver"], "µs", reference=reference, ratio=ratio)]
