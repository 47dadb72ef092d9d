"""How many files a call and a delivery pass through.

A change of file is two consecutive calls of this project's functions in different files, as `sys.setprofile` sees them; a
coroutine that resumes is not a call. `python -m benchmarks.trace` prints all calls.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import threading
from collections.abc import Callable
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from benchmarks._load import body_of, headers_of, request_of
from benchmarks._results import row
from benchmarks._servers import KEY_ID, PATH, SECRET
from original_async import OriginalClient, OriginalWebhooks
from payouts import Ledger, OriginalRow, RunOptions, run_payouts
from vendor_sandboxes import OriginalSandbox
from webhooks import Completions, MemoryStore, Receiver, SQLiteStore
from webhooks.ingress.hardened_server import HardenedServer

if TYPE_CHECKING:
    from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = frozenset({"rewards_core", "original_async", "enkash_async", "webhooks", "payouts"})
BEFORE_CALLS, BEFORE_MEMORY, BEFORE_SQLITE, BEFORE_ROW = 83, 60, 101, 98
"""The changes in the first version; before stores were shared, in memory and SQLite; and before a row's steps had one batch."""


class Step(NamedTuple):
    """One call of a function of this project."""

    file: str
    function: str


class Trace:
    """Record each call of this project's functions; frames are kept alive, because a resumed one is recognized by its id."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.left_out = 0
        self._frames: dict[int, FrameType] = {}

    active: ClassVar[Trace | None] = None

    def __enter__(self) -> Self:
        Trace.active = self
        sys.setprofile(self._record)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        Trace.active = None
        self._frames.clear()

    @staticmethod
    def record_in_thread(frame: FrameType, event: str, more: Any) -> None:
        """Record the calls of a thread: its profile function."""
        if Trace.active is not None:
            Trace.active._record(frame, event, more)

    def _record(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call" or id(frame) in self._frames:
            return
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package in PACKAGES and frame.f_code.co_filename.startswith(str(ROOT)):
            self._frames[id(frame)] = frame
            self.steps.append(Step(str(Path(frame.f_code.co_filename).relative_to(ROOT)), frame.f_code.co_name))

    @property
    def changes(self) -> int:
        """How often the next call is in another file."""
        return sum(one.file != other.file for one, other in pairwise(self.steps)) - self.left_out


async def lost_reply() -> Trace:
    """Lose the reply to a creation, reject its retry, and find the allocation by a look-up."""
    async with OriginalSandbox() as vendor, OriginalClient(vendor.api_key, vendor.api_secret, base_url=vendor.url) as client:
        create: Callable[[str], Any] = lambda nonce: client.create_allocation(  # noqa: E731
            reward_uid="764893807463", to_user_uid="110985463782", amount="1.23", nonce=nonce
        )
        await create("first")
        vendor.plan.script("drop_after_commit")
        with Trace() as trace:
            allocation = await create("second")
    assert allocation.recovered
    return trace


async def delivery_in_memory() -> Trace:
    """Pass a delivery to the receiver, and wake a waiter through a MemoryStore."""
    store = MemoryStore()
    receiver = Receiver(OriginalWebhooks({KEY_ID: SECRET}), store)
    body = body_of(1)
    async with (
        OriginalClient("key", "s" * 32, base_url="http://127.0.0.1:9/v1") as client,
        Completions(client, store) as completions,
    ):
        waiting = asyncio.create_task(completions.wait("300000000001"))
        while not completions.statistics.pending:
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        headers = headers_of(body, 1)
        with Trace() as trace:
            await receiver.receive(headers, body)
            await waiting
    return trace


async def delivery_in_sqlite() -> Trace:
    """Send a delivery to the listener's server, and wake a waiter through a SQLiteStore and its threads."""
    threading.setprofile(Trace.record_in_thread)
    with tempfile.TemporaryDirectory() as folder:
        store = SQLiteStore(Path(folder) / "inbox.db")
        receiver = Receiver(OriginalWebhooks({KEY_ID: SECRET}), store)
        server = await asyncio.get_running_loop().create_server(HardenedServer({PATH: receiver}), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        async with (
            OriginalClient("key", "s" * 32, base_url="http://127.0.0.1:9/v1") as client,
            Completions(client, store) as completions,
        ):
            waiting = asyncio.create_task(completions.wait("300000000001"))
            while not completions.statistics.pending:
                await asyncio.sleep(0)
            await store.ping()
            await asyncio.sleep(0.1)
            request = request_of(1)
            with Trace() as trace:
                writer.write(request)
                await waiting
            await reader.readuntil(b"\r\n\r\n")
            writer.close()
        server.close()
        await store.aclose()
    threading.setprofile(None)
    return trace


async def payout_row() -> Trace:
    """Pay one row from a SQLite ledger, without waiting for the blockchain, less the calls of a run without rows."""
    threading.setprofile(Trace.record_in_thread)
    paid = OriginalRow(id="row-1", reward_uid="764893807463", to_user_uid="110985463782", amount="1.23")
    traces: list[Trace] = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in ([], [paid]):
            async with (
                OriginalSandbox() as vendor,
                OriginalClient(vendor.api_key, vendor.api_secret, base_url=vendor.url) as client,
                Ledger(Path(folder) / "payouts.db", vendor="original", campaign="trace") as ledger,
            ):
                run = run_payouts(rows, client=client, ledger=ledger, options=RunOptions(wait=False))
                with Trace() as trace:
                    async for _ in run:
                        pass
                traces.append(trace)
    threading.setprofile(None)
    empty, whole = traces
    whole.left_out = empty.changes
    return whole


def run(quick: bool = False) -> list[dict[str, Any]]:
    rows = []
    for way, call, before, then, bar in (
        ("a creation with a lost reply", lost_reply, BEFORE_CALLS, "the first version", "≤ 0.5"),
        ("a delivery to its waiter, MemoryStore", delivery_in_memory, BEFORE_MEMORY, "before stores were shared", "≤ 0.5"),
        ("a delivery to its waiter, SQLiteStore and the listener's server", delivery_in_sqlite, BEFORE_SQLITE, "before", "≤ 0.5"),
        ("a row of a payout, from the source to accepted", payout_row, BEFORE_ROW, "before", "≤ 90 changes"),
    ):
        trace = asyncio.run(call())
        name = f"changes of file in {way}: {len(trace.steps)} calls, {len({step.file for step in trace.steps})} files"
        rows.append(row(name, trace.changes, "changes", reference=f"{then}: {before}", ratio=trace.changes / before, bar=bar))
    return rows


if __name__ == "__main__":
    for each in (lost_reply, delivery_in_memory, delivery_in_sqlite, payout_row):
        print(f"== {each.__name__}")
        for file, stay in groupby(asyncio.run(each()).steps, key=lambda step: step.file):
            print(file, *(f"    {step.function}" for step in stay), sep="\n")
