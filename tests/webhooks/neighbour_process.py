"""A process that holds a store open as a listener does, told what to do line by line; see `tests.rewards_core.sqlite_kit.Other`.

accept                   accept one event after the other from now on; answer once the first is kept
more N                   answer once N more are kept
stop                     end that; answer with the identities of the events kept, and how many deliveries a listener would refuse
serve HANDLER            run jobs of a handler of all events from now on
ran ID                   answer once it ran for that event
settle KIND UID STATUS   record how an operation ended, once it is waited for
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from rewards_core.errors import StoreError
from rewards_core.operations import OperationRef
from tests.rewards_core.sqlite_process import obey
from tests.webhooks.store_contract.kit import outcome, wants
from tests.webhooks.store_process import event
from webhooks.store.base import Subscriber
from webhooks.store.records import Priority
from webhooks.store.sqlite import SQLiteStore

TAG = 7


class Neighbour(Subscriber):
    def __init__(self, path: str) -> None:
        self.store = SQLiteStore(path)
        self.kept: list[str] = []
        self.failures = 0
        self.ran: set[int] = set()
        self.changed = asyncio.Condition()
        self.due = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    def jobs_ready(self) -> None:
        self.due.set()

    async def do(self, word: str, rest: str) -> Any:
        match word:
            case "accept":
                self.tasks.append(asyncio.create_task(self._accept()))
                return await self._until(lambda: self.kept)
            case "more":
                wanted = len(self.kept) + int(rest)
                return await self._until(lambda: len(self.kept) >= wanted)
            case "stop":
                return await self._stop()
            case "serve":
                await self.store.subscribe(self)
                await self.store.register_handlers([wants(rest)])
                self.tasks.append(asyncio.create_task(self._serve(rest)))
                return None
            case "ran":
                return await self._until(lambda: int(rest) in self.ran)
            case "settle":
                return await self._settle(*rest.split())
        raise AssertionError(word)

    async def _until(self, condition: Any) -> None:
        async with self.changed:
            await self.changed.wait_for(condition)

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def _accept(self) -> None:
        for number in range(1 << 62):
            one = event(TAG, number)
            try:
                await self.store.accept(one)
            except StoreError:
                self.failures += 1
            else:
                self.kept.append(one.identity.hex())
                await self._tell()

    async def _stop(self) -> Any:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.store.aclose()
        return {"kept": self.kept, "refused": self.failures}

    async def _serve(self, handler: str) -> None:
        while True:
            self.due.clear()
            for claimed in await self.store.claim_jobs(handler, scopes=["default"], limit=10, lease=60):
                await self.store.finish_job(claimed.job)
                self.ran.add(claimed.job.event_id)
                await self._tell()
            await self.due.wait()

    async def _settle(self, kind: str, uid: str, status: str) -> None:
        ref = OperationRef("default", kind, uid)
        while not any(one.ref == ref and one.priority is Priority.WISH for one in await self.store.list_pending()):
            await asyncio.sleep(0.001)
        await self.store.record_outcome(outcome(ref, status))


async def main() -> None:
    await obey(Neighbour(sys.argv[1]).do)


if __name__ == "__main__":
    asyncio.run(main())
