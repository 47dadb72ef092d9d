"""Whether processes that share a store keep to one budget of polls, and how long operations wait for it."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from original_async import OriginalClient
from webhooks import Completions, PollPolicy, SQLiteStore

BUDGET = 40.0
FIRST_AFTER = 0.5
PAUSE, PAUSE_QUICK = 4, 1
_SECRET = "benchmark-secret-of-more-than-32-bytes"


class Vendor:
    """Answers every poll as done, but one as too many requests; notes when each came."""

    def __init__(self, refused: int | None, pause: int) -> None:
        self.polls: list[float] = []
        self.refused_at: float | None = None
        self._refused, self._pause = refused, pause

    async def __call__(self, request: web.Request) -> web.Response:
        now = time.perf_counter()
        self.polls.append(now)
        if len(self.polls) == self._refused:
            self.refused_at = now
            return web.json_response({"success": False}, status=429, headers={"Retry-After": str(self._pause)})
        uid = request.match_info["uid"]
        told = {
            "uid": uid,
            "status": "done",
            "reward_uid": "112144981245",
            "to_user_uid": "223144788242",
            "amount": "1.23",
            "nonce": f"nonce_{uid}",
            "created_at": "2023-08-10T14:07:14.494142Z",
        }
        return web.json_response({"success": True, "data": told})


async def measure(processes: int, operations: int, pause: int) -> dict[str, float]:
    """Let processes wait for operations that no webhook settles, and the vendor ask once for a pause; return what it saw."""
    vendor = Vendor(operations // 3 if pause else None, pause)
    app = web.Application()
    app.router.add_get("/v1/reward/allocation/{uid}", vendor)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "inbox.db")
        share = operations // processes
        children = [
            await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "benchmarks.polls",
                store,
                url,
                str(number * share),
                str(share),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            for number in range(processes)
        ]
        for child in children:
            assert child.stdout is not None
            assert (await child.stdout.readline()).strip() == b"ready"
        started = time.perf_counter()
        for child in children:
            assert child.stdin is not None
            child.stdin.write(b"go\n")
            await child.stdin.drain()
        answers = await asyncio.gather(*(child.communicate() for child in children))
        elapsed = time.perf_counter() - started
    await runner.cleanup()
    settled = sum(json.loads(out.splitlines()[-1])["settled"] for out, _ in answers)
    assert settled == share * processes, f"{settled} of {operations} settled"
    after = [at for at in vendor.polls if vendor.refused_at is not None and at > vendor.refused_at + 0.25]
    return {
        "most": float(most_in_a_second(vendor.polls)),
        "early": float(sum(at < (vendor.refused_at or 0.0) + pause for at in after)),
        "elapsed": elapsed,
        "best": FIRST_AFTER + operations / BUDGET + pause,
        "polls": float(len(vendor.polls)),
    }


def most_in_a_second(moments: Sequence[float]) -> int:
    """Return the most of the moments within any one second."""
    most = first = 0
    for last, moment in enumerate(moments):
        while moment - moments[first] >= 1.0:
            first += 1
        most = max(most, last - first + 1)
    return most


async def wait_for(store: str, url: str, first: int, count: int) -> None:
    """Wait for operations as one of several processes."""
    policy = PollPolicy(first_after=FIRST_AFTER, growth=1.0, jitter=0.0, max_interval=FIRST_AFTER, max_per_second=BUDGET)
    inbox = SQLiteStore(store)
    async with (
        OriginalClient("key", _SECRET, base_url=url, read_path="allocation") as client,
        Completions(client, inbox, polling=policy) as completions,
    ):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        uids = [str(300_000_000_000 + first + number) for number in range(count)]
        settled = 0
        async with completions.as_completed(uids, timeout=600) as stream:
            async for completion in stream:
                settled += completion.error is None
        print(json.dumps({"settled": settled}))
    await inbox.aclose()


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return the rows of this benchmark."""
    operations, asked_for = (20, PAUSE_QUICK) if quick else (400, PAUSE)
    rows: list[dict[str, Any]] = []
    for processes in (2,) if quick else (1, 2, 4):
        who = {1: "one process", 2: "two processes", 4: "four processes"}[processes]
        for pause in (0, asked_for):
            seen = asyncio.run(measure(processes, operations, pause))
            after = f", the vendor asks for a pause of {pause} s once" if pause else ""
            rows += [
                _row(f"most polls in a second, {who}{after}", seen["most"], "", f"≤ {BUDGET:.0f}"),
                {
                    **_row(f"until the last of {operations} operations settled, {who}{after}", seen["elapsed"], "s", "≤ 2"),
                    "reference": f"the best the budget allows: {seen['best']:.1f} s",
                    "ratio": seen["elapsed"] / seen["best"],
                },
            ]
            if pause:
                rows.append(_row(f"polls during the pause, {who}", seen["early"], "", "≤ 0"))
    return rows


def _row(name: str, value: float, unit: str, bar: str) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "reference": None, "ratio": None, "bar": bar}


if __name__ == "__main__":
    asyncio.run(wait_for(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
