"""A process that shares a SQLite store, until it is killed.

store_process PATH write TAG         accept events without end; print `TAG NUMBER` for each that is acknowledged
store_process PATH write-singly TAG  the same, one after the other
store_process PATH run TAG           run jobs without end; print `TAG EVENT` for each that is about to be finished
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from rewards_core.errors import StoreError
from rewards_core.operations import Event
from webhooks.store.base import Subscriber
from webhooks.store.records import ClaimedJob, Subscription
from webhooks.store.sqlite import SQLiteStore

HANDLER = "app.pay"
SUBSCRIPTION = Subscription(service="default", handler=HANDLER, scope="default", patterns=frozenset({"*"}))
LEASE = 0.5
AT_ONCE = 16


def event(tag: int, number: int) -> Event:
    identity = tag.to_bytes(8, "big") + number.to_bytes(8, "big")
    return Event(scope="default", name="said", identity=identity, body=b'{"word": "%d %d"}' % (tag, number))


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def write(store: SQLiteStore, tag: int, at_once: int = AT_ONCE) -> None:
    numbers = iter(range(1 << 62))

    async def sender() -> None:
        for number in numbers:
            while True:
                try:
                    await store.accept(event(tag, number))
                except StoreError:
                    await asyncio.sleep(0.01)
                else:
                    break
            say(tag, number)

    await asyncio.gather(*(sender() for _ in range(at_once)))


class Ear(Subscriber):
    def __init__(self) -> None:
        self.due = asyncio.Event()

    def jobs_ready(self) -> None:
        self.due.set()


async def run(store: SQLiteStore, tag: int) -> None:
    ear = Ear()
    while True:
        try:
            await store.subscribe(ear)
            await store.register_handlers([SUBSCRIPTION])
            break
        except StoreError:
            await asyncio.sleep(0.01)
    while True:
        try:
            claimed = await store.claim_jobs(HANDLER, scopes=["default"], limit=AT_ONCE, lease=LEASE)
            await asyncio.gather(*(finish(store, tag, one) for one in claimed))
        except StoreError:
            await asyncio.sleep(0.01)
            continue
        if not claimed:
            ear.due.clear()
            try:
                await asyncio.wait_for(ear.due.wait(), LEASE)
            except TimeoutError:
                continue  # the lease of a process that died may be over


async def finish(store: SQLiteStore, tag: int, one: ClaimedJob) -> None:
    say(tag, one.job.event_id)
    await store.finish_job(one.job)


async def main() -> None:
    path, mode, tag = sys.argv[1:]
    logging.disable()
    store = SQLiteStore(path)
    match mode:
        case "write":
            await write(store, int(tag))
        case "write-singly":
            await write(store, int(tag), at_once=1)
        case "run":
            await run(store, int(tag))


if __name__ == "__main__":
    asyncio.run(main())
