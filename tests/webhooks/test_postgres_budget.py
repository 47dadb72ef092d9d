"""One budget of polls for eight processes on PostgreSQL, through a refusal of the vendor, with clocks of their own.

The time of the database moves only when the test moves it, so what is granted does not depend on the machine's speed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from functools import partial

import pytest
import pytest_asyncio
from attrs import frozen

from tests.postgres_server import Server
from tests.webhooks.contract_process import OtherProcess, StoreElsewhere, other_process
from tests.webhooks.fakes import most_in_a_second
from tests.webhooks.postgres_kit import DatabaseTime, schema_of_its_own, store_with_its_clock_off
from tests.webhooks.store_contract import ref
from webhooks.store.budget import HORIZON
from webhooks.store.records import PollClaim, PollResult

CLOCKS = (0.0, 3_600.0, -3_600.0, 0.0, 0.0, 0.0, 0.0, 0.0)
"""Seconds by which the clocks of the eight processes are wrong."""
PER_SECOND = 40.0
STEP = 0.1
PAUSE = 2.0


@pytest.fixture(scope="module")
def processes() -> Iterator[list[OtherProcess]]:
    with ExitStack() as stack:
        yield [stack.enter_context(other_process()) for _ in CLOCKS]


@pytest_asyncio.fixture
async def time(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[DatabaseTime]:
    async with schema_of_its_own(postgres, monkeypatch) as moved:
        yield moved


@pytest_asyncio.fixture
async def stores(time: DatabaseTime, processes: list[OtherProcess]) -> AsyncIterator[list[StoreElsewhere]]:
    make = partial(store_with_its_clock_off, time.url, time.schema)
    yield [await process.open(partial(make, seconds)) for process, seconds in zip(processes, CLOCKS, strict=True)]
    for process in processes:
        await process.close_all()


@frozen
class Poll:
    """A poll that a process was granted, and when it may be sent."""

    at: float
    claim: PollClaim


class Poller:
    """Claims and settles polls on a store object, as a process does. The vendor answers each poll at once."""

    def __init__(self, store: StoreElsewhere) -> None:
        self._store = store
        self._due: list[Poll] = []

    async def turn(self, now: float) -> list[Poll]:
        """Settle what was sent by now, and return the polls that are granted now."""
        sent = [poll for poll in self._due if poll.at <= now]
        if any(poll.claim.refusals for poll in sent):
            await self._store.resume_polls("default")
        await self._store.settle_polls([PollResult(claim=poll.claim, retry_in=10_000, known=True) for poll in sent])
        found = await self._store.claim_polls("default", limit=5, lease=60, max_per_second=PER_SECOND)
        granted = [Poll(now + one.start_in, one) for one in found.claims]
        self._due = [poll for poll in self._due if poll.at > now] + granted
        return granted


@pytest.mark.slow
@pytest.mark.timeout(1_800)
async def test_eight_processes_keep_one_budget_and_pause_together_whatever_their_clocks_say(
    time: DatabaseTime, stores: list[StoreElsewhere], soak: bool
) -> None:
    pending, seconds = (200_000, 60) if soak else (2_000, 8)
    began, refused_at = time.wall, time.wall + seconds / 2
    for first in range(0, pending, 1_000):
        await stores[0].watch([ref(str(number)) for number in range(first, first + 1_000)], poll_in=0)
    pollers = [Poller(store) for store in stores]
    polls: list[Poll] = []
    for step in range(round(seconds / STEP)):
        await time.set(began + step * STEP)
        if step == round(seconds / 2 / STEP):
            await stores[-1].pause_polls("default", PAUSE, refused=True)
        for some in await asyncio.gather(*(poller.turn(time.wall) for poller in pollers)):
            polls += some

    moments = sorted(poll.at for poll in polls)
    assert len({poll.claim.ref for poll in polls}) == len(polls), "an operation was polled twice"
    assert most_in_a_second(moments) <= PER_SECOND, "there was a burst"
    assert not [at for at in moments if refused_at + HORIZON < at < refused_at + PAUSE - 1e-6], "a process went on"
    assert len(moments) >= 0.9 * PER_SECOND * (seconds - PAUSE), "the budget was not used"
