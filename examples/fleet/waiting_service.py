"""One of several services that wait for the rewards of a campaign, as one does that tells people when theirs has arrived.

    python -m examples.fleet.waiting_service --share 1/2 --ledger postgresql://... --store postgresql://...

It finds in the ledger which rows the vendor has accepted and waits for those of its share, whichever listener receives their
webhooks. At the end it prints a JSON object: what became of each uid, and how it learned that.
"""

import argparse
import asyncio
import json
from collections.abc import Sequence

from original_async import AllocationFailed, OriginalClient
from payouts import LedgerUnavailable, PostgresLedger, State
from webhooks import Completions, PollPolicy, StoreError, open_store

PAUSE = 0.5
TO_COME = (State.PLANNED, State.SENT, State.UNKNOWN)
ACCEPTED = (State.ACCEPTED, State.DONE, State.FAILED, State.MISMATCH)


class Service:
    """The uids that it waits for, and what became of those that have ended."""

    def __init__(self, completions: Completions, ledger: PostgresLedger, share: int, of: int) -> None:
        self.ends: dict[str, str] = {}
        self._completions = completions
        self._ledger = ledger
        self._share = share
        self._of = of
        self._waits: dict[str, asyncio.Task[None]] = {}
        self._passed = 0

    async def run(self) -> None:
        """Wait for every row of the share, until none is to come."""
        async with asyncio.TaskGroup() as waits:
            while True:
                try:
                    to_come = await self._ledger.entries(TO_COME, after=self._passed, limit=1)
                    for uid in await self._accepted():
                        if uid not in self._waits:
                            self._waits[uid] = waits.create_task(self._wait(uid))
                    if not to_come:
                        return
                    self._passed = to_come[0].number - 1
                except LedgerUnavailable:
                    pass  # it is asked again
                await asyncio.sleep(PAUSE)

    async def _accepted(self) -> list[str]:
        """Return the uids of the share's accepted rows, without the first ones that are waited for already."""
        uids: list[str] = []
        after = self._passed
        while page := await self._ledger.entries(ACCEPTED, after=after):
            uids += [entry.uid for entry in page if entry.uid is not None and entry.number % self._of == self._share]
            after = page[-1].number
        return uids

    async def _wait(self, uid: str) -> None:
        while uid not in self.ends:
            try:
                self.ends[uid] = (await self._completions.wait(uid)).status
            except AllocationFailed:
                self.ends[uid] = "failed"
            except StoreError:  # the database is away, and the outcome will be in it when it is back
                await asyncio.sleep(PAUSE)


def share_of(text: str) -> tuple[int, int]:
    share, of = (int(part) for part in text.split("/"))
    return share % of, of


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.fleet.waiting_service", description="Wait for a campaign's rewards."
    )
    parser.add_argument("--share", type=share_of, default="1/1", help="which share of the rows, such as 2/3")
    parser.add_argument("--campaign", default="demo")
    parser.add_argument("--ledger", required=True, metavar="URL", help="the ledger that the workers share")
    parser.add_argument("--store", required=True, metavar="URL", help="the store of the listeners")
    return parser.parse_args(arguments)


async def serve(options: argparse.Namespace) -> None:
    share, of = options.share
    store = open_store(options.store)
    try:
        async with (
            OriginalClient.from_env() as client,
            PostgresLedger(options.ledger, vendor="original", campaign=options.campaign) as ledger,
            Completions(client, store, polling=PollPolicy(first_after=5.0, max_per_second=100.0)) as completions,
        ):
            service = Service(completions, ledger, share, of)
            await service.run()
            seen = completions.statistics
    finally:
        await store.aclose()
    by = {"webhook": seen.settled_by_webhook, "poll": seen.settled_by_poll}
    print(json.dumps({"ends": service.ends, "by": by}), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(parsed()))
