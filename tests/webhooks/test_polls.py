"""The polls of a memory store: the contract, its bounds, and every order of things."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.virtual_time import virtual_time, wall
from tests.webhooks.fakes import a_ref
from tests.webhooks.polls_contract import OpenStore, PollsContract, claimed, listed, refs
from webhooks import MemoryStore
from webhooks.store.base import Store


@asynccontextmanager
async def a_memory_store(max_events: int = 100_000) -> AsyncIterator[Store]:
    store = MemoryStore(max_events=max_events, clock=wall)
    yield store
    await store.aclose()


class TestPollsOfMemoryStore(PollsContract):
    @pytest.fixture
    def open_store(self) -> OpenStore:
        return a_memory_store


@virtual_time
async def test_of_too_many_pending_operations_those_leave_that_nobody_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    async with a_memory_store(max_events=10) as store:
        await store.watch(refs("watched"), poll_in=1)
        await store.add_pending([a_ref(str(number)) for number in range(150)], poll_in=10)
        pending = await listed(store, limit=1_000)
        assert 98 <= len(pending) <= 101
        assert {"watched", "149"} <= pending.keys()
        assert "were forgotten" in caplog.text
        await store.watch([a_ref(f"also watched {number}") for number in range(200)], poll_in=1)
        assert len(await listed(store, limit=1_000)) >= 201


@virtual_time
async def test_operations_put_elsewhere_many_times_are_passed_over_a_thousand_at_a_time() -> None:
    async with a_memory_store() as store:
        many = [a_ref(str(number)) for number in range(2_500)]
        await store.watch(many, poll_in=1)
        await store.remove_pending(many)
        await store.watch(refs("left"), poll_in=1)
        await asyncio.sleep(1)
        some = await store.claim_polls("default", limit=10, lease=60, max_per_second=20)
        assert (list(some.claims), some.next_in) == ([], 0.0)
        for _ in range(2):
            assert not some.claims
            some = await store.claim_polls("default", limit=10, lease=60, max_per_second=20)
        assert [one.ref.uid for one in some.claims] == ["left"]
        assert await claimed(store) == []
