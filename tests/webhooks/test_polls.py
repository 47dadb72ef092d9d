"""The limits of a memory store's polls; the rest is in the store contract."""

from __future__ import annotations

import asyncio

import pytest

from tests.texts import said
from tests.virtual_time import virtual_time, wall
from tests.webhooks.fakes import FakeSource, a_ref, body_of
from webhooks import MemoryStore


async def pending(store: MemoryStore) -> set[str]:
    return {one.ref.uid for one in await store.list_pending(limit=1_000)}


@virtual_time
async def test_of_too_many_pending_operations_those_leave_that_nobody_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore(max_events=10, clock=wall)
    await store.watch([a_ref("watched")], poll_in=1)
    await store.add_pending([a_ref(str(number)) for number in range(150)], poll_in=10)
    left = await pending(store)
    assert 98 <= len(left) <= 101
    assert {"watched", "149"} <= left
    said("of too many pending operations those leave that nobody waits for", caplog.messages[0])
    await store.watch([a_ref(f"also watched {number}") for number in range(200)], poll_in=1)
    assert len(await pending(store)) >= 201


@virtual_time
async def test_operations_that_events_mention_are_bounded_too(caplog: pytest.LogCaptureFixture) -> None:
    store, source = MemoryStore(max_events=10, clock=wall), FakeSource()
    await store.watch([a_ref("watched")], poll_in=1)
    for number in range(300):
        await store.accept(source.parse(body_of(uid=str(number))))
    assert len(await pending(store)) == 100
    said("operations that events mention are bounded too", "\n".join(caplog.messages))
    await store.watch([a_ref("299")], poll_in=1)
    assert {"watched", "0", "299"} <= await pending(store)


@virtual_time
async def test_operations_that_are_no_longer_due_are_passed_over_a_thousand_at_a_time() -> None:
    store = MemoryStore(clock=wall)
    many = [a_ref(str(number)) for number in range(2_500)]
    await store.watch(many, poll_in=1)
    await store.remove_pending(many)
    await store.watch([a_ref("left")], poll_in=1)
    await asyncio.sleep(1)
    claims = []
    for _ in range(3):
        some = await store.claim_polls("default", limit=10, lease=60, max_per_second=20)
        claims.append([one.ref.uid for one in some.claims])
        assert some.next_in == 0.0 or some.claims
    assert claims == [[], [], ["left"]]
