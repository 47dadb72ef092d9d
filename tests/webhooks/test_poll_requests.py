"""Polls over a real client: one request each, in its turn, whatever the client would retry or delay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import pytest
from aioresponses import CallbackResult, aioresponses

from original_async import AllocationRequest, OriginalClient
from rewards_core.errors import ConnectFailed, NotFound, RateLimited, ServerFailed
from rewards_core.http.timeouts import Timeouts
from rewards_core.operations import OperationRef
from rewards_core.rate import Limits
from tests.virtual_time import virtual_time, wall
from tests.webhooks.test_poll_budget import most_in_a_second
from tests.webhooks.world import now
from webhooks import Completions, MemoryStore, PollPolicy

BASE = "https://api.getoriginal.com/v1"
RATE = 20
SOON = PollPolicy(first_after=0.5, growth=1.0, jitter=0.0, max_interval=1.0, max_per_second=RATE)
REF = OperationRef("default", "allocation", "100000000000")


def told(uid: str, status: str = "pending") -> dict[str, Any]:
    data = {"uid": uid, "status": status, "reward_uid": "764893807463", "to_user_uid": "110985463782", "amount": "1"}
    return {"success": True, "data": {**data, "nonce": f"nonce_{uid}"}}


class Vendor:
    """Answers reads from a script, and records their times."""

    def __init__(self, wire: aioresponses) -> None:
        self.wire = wire
        self.asked: list[tuple[float, str]] = []
        self.answer: Callable[[str], CallbackResult] = lambda uid: CallbackResult(payload=told(uid))

    @property
    def times(self) -> list[float]:
        return [at for at, _ in self.asked]

    def __call__(self, url: Any, **_: Any) -> CallbackResult:
        self.asked.append((now(), url.path.removeprefix("/v1/reward/") + (f"?{url.query_string}" if url.query else "")))
        return self.answer(url.name)


@asynccontextmanager
async def a_vendor(uids: Sequence[str] = (REF.uid,), **options: Any) -> AsyncIterator[tuple[Vendor, OriginalClient]]:
    with aioresponses() as wire:
        vendor = Vendor(wire)
        for path in ("allocation", "allocate"):
            wire.get(f"{BASE}/reward/{path}?user_uid=110985463782", callback=vendor, repeat=True)
            for uid in uids:
                wire.get(f"{BASE}/reward/{path}/{uid}", callback=vendor, repeat=True)
        async with OriginalClient("key", "a-secret-of-more-than-thirty-two-bytes", **{"clock": wall, **options}) as client:
            yield vendor, client


async def refuse() -> bool:
    return False


async def agree() -> bool:
    return True


@virtual_time
async def test_a_read_that_may_not_be_sent_leaves_nothing() -> None:
    async with a_vendor() as (vendor, client):
        with pytest.raises(ConnectFailed, match="may_send"):
            await client.read_operation(REF, may_send=refuse)
        assert vendor.asked == []
        assert (await client.read_operation(REF, may_send=agree)).uid == REF.uid


@virtual_time
@pytest.mark.parametrize("status", [500, 503, 408])
async def test_a_counted_read_is_sent_once(status: int) -> None:
    async with a_vendor() as (vendor, client):
        vendor.answer = lambda _: CallbackResult(status=status)
        with pytest.raises(ServerFailed):
            await client.read_operation(REF, may_send=agree)
        assert len(vendor.asked) == 1
        with pytest.raises(ServerFailed):
            await client.read_operation(REF)
        assert len(vendor.asked) > 2


@virtual_time
async def test_a_counted_read_does_not_wait_for_the_end_of_a_pause() -> None:
    async with a_vendor() as (vendor, client):
        vendor.answer = lambda _: CallbackResult(status=429, headers={"Retry-After": "4"})
        with pytest.raises(RateLimited):
            await client.read_operation(REF, may_send=agree)
        await asyncio.sleep(1)
        with pytest.raises(RateLimited) as caught:
            await client.read_operation(REF, may_send=agree)
        assert caught.value.retry_after == pytest.approx(3.0, abs=0.5)
        assert (now(), len(vendor.asked)) == (1.0, 1)


@virtual_time
async def test_a_counted_read_is_asked_under_one_path_now_and_the_other_one_next_time() -> None:
    async with a_vendor() as (vendor, client):
        vendor.answer = lambda _: CallbackResult(status=404)
        for _ in range(3):
            with pytest.raises(NotFound):
                await client.read_operation(REF, may_send=agree)
        assert [path.partition("/")[0] for _, path in vendor.asked] == ["allocation", "allocate", "allocation"]
        vendor.answer = lambda uid: CallbackResult(payload=told(uid))
        await client.read_operation(REF, may_send=agree)
        vendor.asked.clear()
        vendor.answer = lambda _: CallbackResult(status=404)
        for _ in range(2):
            with pytest.raises(NotFound):
                await client.read_operation(REF, may_send=agree)
        assert [path.partition("/")[0] for _, path in vendor.asked] == ["allocate", "allocate"]


@virtual_time
async def test_of_a_counted_listing_each_page_is_sent_once_and_in_its_turn() -> None:
    request = AllocationRequest(reward_uid="764893807463", to_user_uid="110985463782", amount=Decimal(1), nonce="nonce_1")
    async with a_vendor() as (vendor, client):
        vendor.answer = lambda _: CallbackResult(status=503)
        with pytest.raises(ServerFailed):
            await client.find_operations([request], may_send=agree)
        assert len(vendor.asked) == 1
        with pytest.raises(ConnectFailed):
            await client.find_operations([request], may_send=refuse)
        assert len(vendor.asked) == 1


@pytest.mark.slow
@pytest.mark.repeats_itself
@virtual_time
@pytest.mark.parametrize("status", [429, 503])
async def test_no_second_sees_more_polls_than_the_budget_whatever_the_vendor_answers(status: int) -> None:
    uids = [str(100_000_000_000 + number) for number in range(300)]
    async with a_vendor(uids) as (vendor, client), Completions(client, MemoryStore(clock=wall), polling=SOON) as completions:

        def answer(uid: str) -> CallbackResult:
            if 3.0 < now() < 3.2 or (status == 503 and len(vendor.asked) % 3 == 0):
                return CallbackResult(status=status, headers={"Retry-After": "4"})
            return CallbackResult(payload=told(uid, "done"))

        vendor.answer = answer
        async with completions.as_completed(uids, timeout=600) as outcomes:
            assert [outcome.error async for outcome in outcomes] == [None] * 300
        assert most_in_a_second(vendor.times) <= RATE + 1
        if status == 429:
            assert not [at for at in vendor.times if 3.2 < at < 7.0]
            assert now() <= 2 * (0.5 + 300 / RATE + 4)


@pytest.mark.slow
@virtual_time
async def test_polls_that_waited_for_the_clients_slots_leave_no_burst() -> None:
    uids = [str(100_000_000_000 + number) for number in range(100)]
    busy = asyncio.Event()

    async def hang(*_: Any, **__: Any) -> CallbackResult:
        await busy.wait()
        return CallbackResult(payload=told("999999999999"))

    async with (
        a_vendor(uids, limits=Limits(connections=1), timeouts=Timeouts(total=3600.0, read=3600.0)) as (vendor, client),
        Completions(client, MemoryStore(clock=wall), polling=SOON) as completions,
        asyncio.TaskGroup() as tasks,
    ):
        vendor.wire.get(f"{BASE}/reward/allocation/999999999999", callback=hang)
        tasks.create_task(client.get_allocation("999999999999"))
        await asyncio.sleep(0.1)
        waiting = [tasks.create_task(completions.wait(uid)) for uid in uids]
        await asyncio.sleep(10)
        assert vendor.asked == []
        busy.set()
        await asyncio.sleep(10)
        assert most_in_a_second(vendor.times) <= RATE + 1
        assert len(vendor.asked) >= 9 * RATE * 0.95
        for task in waiting:
            task.cancel()


@pytest.mark.slow
@virtual_time
async def test_where_everything_is_late_polls_go_on_one_by_one() -> None:
    async def dawdle(*_: Any, **__: Any) -> CallbackResult:
        await asyncio.sleep(0.5)
        return CallbackResult(payload=told("999999999999"))

    uids = [str(100_000_000_000 + number) for number in range(100)]
    async with (
        a_vendor(uids, limits=Limits(connections=1)) as (vendor, client),
        Completions(client, MemoryStore(clock=wall), polling=SOON) as completions,
        completions.as_completed(uids),
        asyncio.TaskGroup() as tasks,
    ):
        vendor.wire.get(f"{BASE}/reward/allocation/999999999999", callback=dawdle, repeat=True)

        async def crowd() -> None:
            while True:
                await client.get_allocation("999999999999")

        crowds = [tasks.create_task(crowd()) for _ in range(4)]
        await asyncio.sleep(30)
        assert 20 <= len(vendor.asked) <= 31
        for task in crowds:
            task.cancel()


@pytest.mark.slow
@virtual_time
@pytest.mark.parametrize(("per_second", "burst"), [(15, 1), (15, None)])
async def test_polls_settle_in_time_where_the_clients_own_rate_is_lower_than_the_budget(
    per_second: int, burst: int | None
) -> None:
    uids = [str(100_000_000_000 + number) for number in range(100)]
    limits = Limits(calls_per_second=per_second, burst=burst)
    async with (
        a_vendor(uids, limits=limits) as (vendor, client),
        Completions(client, MemoryStore(clock=wall), polling=SOON) as completions,
    ):
        vendor.answer = lambda uid: CallbackResult(payload=told(uid, "done"))
        async with completions.as_completed(uids, timeout=600) as outcomes:
            assert [outcome.error async for outcome in outcomes] == [None] * 100
        assert now() <= 2 * (0.5 + 100 / per_second)


@virtual_time
async def test_a_request_with_other_credentials_waits_for_a_turn_of_its_own() -> None:
    uids = [str(100_000_000_000 + number) for number in range(10)]
    slowly = PollPolicy(first_after=0.5, growth=1.0, jitter=0.0, max_interval=1.0, max_per_second=2)
    async with a_vendor(uids) as (vendor, client), Completions(client, MemoryStore(clock=wall), polling=slowly) as completions:
        await client.get_allocation(uids[0])
        await asyncio.sleep(600)  # so that other credentials are made after a 401
        vendor.asked.clear()
        vendor.answer = lambda uid: (
            CallbackResult(status=401) if len(vendor.asked) == 3 else CallbackResult(payload=told(uid, "done"))
        )
        async with completions.as_completed(uids, timeout=600) as outcomes:
            assert [outcome.error async for outcome in outcomes] == [None] * 10
        assert len(vendor.asked) == 11
        assert most_in_a_second(vendor.times) <= 2
        assert now() < 620


@virtual_time
async def test_an_operation_that_exists_is_found_though_others_that_do_not_are_asked_for_between() -> None:
    uids = [str(100_000_000_000 + number) for number in range(4)]
    policy = PollPolicy(jitter=0.0)
    async with a_vendor(uids) as (vendor, client), Completions(client, MemoryStore(clock=wall), polling=policy) as completions:

        def answer(uid: str) -> CallbackResult:
            found = uid == uids[0] and vendor.asked[-1][1].startswith("allocate/")
            return CallbackResult(payload=told(uid, "done")) if found else CallbackResult(status=404)

        vendor.answer = answer
        async with asyncio.TaskGroup() as tasks:
            others = [tasks.create_task(completions.wait(uid)) for uid in uids[1:]]
            assert (await completions.wait(uids[0])).status == "done"
            for task in others:
                task.cancel()
        assert now() <= 60


@virtual_time
async def test_a_page_that_missed_its_turn_is_asked_for_again_and_not_the_whole_list() -> None:
    request = AllocationRequest(reward_uid="764893807463", to_user_uid="110985463782", amount=Decimal(1), nonce="nonce_9")
    turns = iter([True, True, False, True])
    waited: list[int] = []

    async def may_send() -> bool:
        return next(turns)

    async def before_page() -> None:
        waited.append(len(vendor.asked))

    async with a_vendor() as (vendor, client):
        first = f"{BASE}/reward/allocate?user_uid=110985463782"
        for page in ("&page=2", "&page=3"):
            vendor.wire.get(first + page, callback=vendor, repeat=True)
        pages = {1: "&page=2", 2: "&page=3", 3: None}

        def answer(_: str) -> CallbackResult:
            number = len(vendor.asked)
            entries = [told(str(number))["data"]]
            following = pages[number]
            return CallbackResult(payload={"success": True, "data": entries, "next": following and first + following})

        vendor.answer = answer
        assert list(await client.find_operations([request], before_page=before_page, may_send=may_send)) == []
        assert waited == [1, 2, 2]
        assert [path.partition("page=")[2][:1] for _, path in vendor.asked] == ["", "2", "3"]
