"""What the console costs a listener under load, and how soon a delivery is on its page."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from benchmarks._load import CONNECTIONS, body_of, headers_of, request_of, send
from benchmarks._processes import cpu_of, pinned, running
from benchmarks._results import percentile, row
from benchmarks._servers import PATH
from benchmarks.durable import listener
from tests.browser import CHROMIUM, chromium
from webhooks.console.feed import MAX_VIEWERS


def run(quick: bool = False) -> list[dict[str, Any]]:
    rows = cost(quick)
    if CHROMIUM is not None:
        rows += asyncio.run(latency(quick))
    return rows


def cost(quick: bool) -> list[dict[str, Any]]:
    """Send the same number of deliveries with and without viewers, in turn."""
    rounds, count = (2, 200) if quick else (12, 6_000)  # an even number: each is first as often, as the store grows
    rates: dict[int, list[float]] = {0: [], MAX_VIEWERS: []}
    spent: dict[int, list[float]] = {0: [], MAX_VIEWERS: []}
    with tempfile.TemporaryDirectory() as folder, listener(Path(folder), "--console") as (port, process, link), pinned():
        for number in range(rounds + 1):
            for viewers in sorted(rates, reverse=bool(number % 2)):
                first = 2 * number * count + (count if viewers else 0)
                requests = [request_of(first + place) for place in range(count)]
                with running("-m", "benchmarks._viewers", link, str(viewers), core=0) as (output, _):
                    output.readline()
                    before = cpu_of(process)
                    elapsed = uvloop.run(send(port, requests))
                    if number:  # the first warms up
                        rates[viewers].append(count / elapsed)
                        spent[viewers].append((cpu_of(process) - before) / count * 1e6)
    rate, cpu = ({viewers: statistics.median(found) for viewers, found in each.items()} for each in (rates, spent))
    what = f"durable deliveries per second, SQLite with fsync, {CONNECTIONS} connections, while {MAX_VIEWERS} viewers look"
    return [
        row(
            what,
            rate[MAX_VIEWERS],
            "1/s",
            reference=f"without a viewer: {rate[0]:,.0f}/s",
            ratio=_paired(rates[MAX_VIEWERS], rates[0]),
            bar="≥ 0.95",
        ),
        row(
            "CPU of the listener per delivery, while they look",
            cpu[MAX_VIEWERS],
            "µs",
            reference=f"without a viewer: {cpu[0]:.0f} µs",
            ratio=_paired(spent[MAX_VIEWERS], spent[0]) if cpu[0] else None,
        ),
    ]


def _paired(some: list[float], others: list[float]) -> float:
    """Return the geometric mean of the ratios of each round."""
    return statistics.geometric_mean(one / other for one, other in zip(some, others, strict=True))


async def latency(quick: bool) -> list[dict[str, Any]]:
    """Measure from the delivery's first byte until its uid stands on the page in Chromium."""
    count = 3 if quick else 200
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder, listener(Path(folder), "--console", core=None) as (port, _, link):
        async with aiohttp.ClientSession() as session, chromium(Path(folder) / "profile") as browser:
            await browser.open(link, "light")
            await browser.evaluate(_until("document.querySelector('#connection')?.className === 'live'"))
            for number in range(count):
                await asyncio.sleep(random.uniform(0.05, 0.35))
                body = body_of(number)
                shown = _until(f"document.querySelector('#arrivals')?.innerText.includes({json.dumps(_uid(number))})")
                started = time.perf_counter()
                async with session.post(f"http://127.0.0.1:{port}{PATH}", data=body, headers=headers_of(body, number)) as reply:
                    assert reply.status == 200
                await browser.evaluate(shown)
                times.append(time.perf_counter() - started)
    what = f"from sending a delivery until it is on the page, {count} at random moments"
    middle, late = statistics.median(times) * 1e3, percentile(times, 99) * 1e3
    return [row(f"{what}: p50", middle, "ms", reference=f"p99: {late:.0f} ms", bar="≤ 300 ms")]


def _uid(number: int) -> str:
    return str(json.loads(body_of(number))["data"]["allocation"]["uid"])


def _until(condition: str) -> str:
    return f"new Promise((found) => {{ const look = () => ({condition} ? found(true) : setTimeout(look, 5)); look(); }})"
