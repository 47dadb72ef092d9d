"""The bounds of a memory store's polls; what every store promises of them stands in the contract."""

from __future__ import annotations

import pytest

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
    assert "were forgotten" in caplog.text
    await store.watch([a_ref(f"also watched {number}") for number in range(200)], poll_in=1)
    assert len(await pending(store)) >= 201


@virtual_time
async def test_operations_that_events_mention_are_bounded_too(caplog: pytest.LogCaptureFixture) -> None:
    store, source = MemoryStore(max_events=10, clock=wall), FakeSource()
    await store.watch([a_ref("watched")], poll_in=1)
    for number in range(300):
        await store.accept(source.parse(body_of(uid=str(number))))
    assert len(await pending(store)) == 100
    assert caplog.text.count("are not polled") == 1
    await store.watch([a_ref("299")], poll_in=1)
    assert {"watched", "0", "299"} <= await pending(store)
