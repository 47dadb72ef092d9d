"""One budget of polls for all store objects: its pauses, its turns and its limits."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest

from tests.webhooks.store_contract.kit import JUMPS, RATE, Poller, Time, ref, uids
from webhooks.store.base import Store
from webhooks.store.records import Priority


class BudgetContract:
    async def test_store_objects_share_one_budget_without_bursts(self, here: Store, there: Store, time: Time) -> None:
        await here.watch([ref(str(number)) for number in range(100)], poll_in=0)
        poller = Poller(time, here, there, rate=5.0)
        await poller.run(10)
        starts = sorted(poller.starts)
        assert 48 <= len(starts) <= 52
        assert min(later - sooner for sooner, later in pairwise(starts)) >= 0.2 - 0.01
        assert all(start <= poller.passed + 0.5 for start in starts)

    async def test_a_further_request_is_paid_from_the_same_budget(self, here: Store, there: Store, time: Time) -> None:
        await here.watch([ref(str(number)) for number in range(100)], poll_in=0)
        poller = Poller(time, here, rate=5.0)
        await poller.run(2)
        for _ in range(5):
            await poller.take_further(there)
        await poller.run(3)
        starts = sorted(poller.starts)
        assert min(later - sooner for sooner, later in pairwise(starts)) >= 0.2 - 0.01
        assert len(starts) <= 5 * poller.passed + 2

    async def test_further_requests_and_operations_that_are_due_take_turns(self, here: Store, there: Store, time: Time) -> None:
        await here.watch([ref(str(number)) for number in range(100)], poll_in=0)
        poller = Poller(time, here, rate=5.0)
        for further in range(1, 21):
            await poller.take_further(there)
            await poller.run(0.25)
            assert further - 1 <= len(poller.claims) <= 3 * further
        starts = sorted(poller.starts)
        assert min(later - sooner for sooner, later in pairwise(starts)) >= 0.2 - 0.01

    async def test_while_nothing_is_due_further_requests_get_the_whole_budget(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.watch([ref()], poll_in=60)
        poller = Poller(time, here, rate=5.0)
        for store in [here, there] * 20:
            await poller.take_further(store)
        assert poller.starts[-1] <= 40 / 5 * 1.1

    async def test_during_a_pause_no_further_request_is_permitted(self, here: Store, there: Store, time: Time) -> None:
        await here.watch([ref()], poll_in=0)
        await there.pause_polls("default", 30)
        poller = Poller(time, here, rate=5.0)
        await poller.take_further(there)
        assert poller.starts[0] >= 30

    @pytest.mark.slow
    async def test_where_budgets_differ_the_lowest_that_is_alive_holds(
        self, here: Store, there: Store, time: Time, caplog: pytest.LogCaptureFixture
    ) -> None:
        await here.watch([ref(str(number)) for number in range(400)], poll_in=0)
        await there.claim_polls("default", limit=1, lease=60, max_per_second=1.0)
        poller = Poller(time, here, rate=10.0)
        await poller.run(20)
        assert len(poller.claims) <= 22
        assert caplog.text.count("max_per_second") == 1
        await poller.run(35)  # a process says for some time after its last poll what it allows
        before = len(poller.claims)
        await poller.run(10)
        assert 95 <= len(poller.claims) - before <= 105

    @pytest.mark.slow
    async def test_operations_that_are_not_waited_for_get_a_tenth_of_the_budget(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.add_pending([ref(f"abandoned {number}") for number in range(100)], poll_in=0)
        poller = Poller(time, here, there, rate=100.0)
        await poller.run(1)
        assert 9 <= len(poller.claims) <= 12
        await here.watch([ref(str(number)) for number in range(300)], poll_in=0)
        claims = await poller.run(1)
        assert sum(claim.priority is Priority.ABANDONED for claim in claims) <= 11
        assert 95 <= len(claims) <= 110

    async def test_a_pause_holds_for_all_and_no_burst_follows_it(self, here: Store, there: Store, time: Time) -> None:
        await here.watch([ref(str(number)) for number in range(100)], poll_in=0)
        poller = Poller(time, here, there, rate=10.0)
        await poller.run(1)
        await there.pause_polls("default", 30)
        await here.pause_polls("default", 5)
        before = len(poller.starts)
        await poller.run(29)
        assert poller.starts[before:] == []
        await poller.run(5)
        after = sorted(poller.starts[before:])
        assert 30 - 0.1 <= after[0] - 1 <= 32
        assert min(later - sooner for sooner, later in pairwise(after)) >= 0.1 - 0.01

    async def test_a_vendor_that_refuses_is_asked_about_one_operation_at_a_time_until_it_answers(
        self, here: Store, there: Store, time: Time
    ) -> None:
        await here.watch([ref(str(number)) for number in range(100)], poll_in=0)
        poller = Poller(time, here, there, rate=10.0)
        claims = await poller.run(1)
        await there.pause_polls("default", 60, refused=True)
        await poller.settle(claims, retry_in=60, counted=False, answered=False)
        before = poller.passed
        (one,) = await poller.run(65)
        assert one.refusals == 1
        assert await poller.run(30) == []  # its answer has not come
        assert list((await there.claim_polls("default", limit=5, lease=60, max_per_second=10.0)).claims) == []
        await poller.settle([one], retry_in=600, answered=False, counted=False)
        (other,) = await poller.run(5)
        assert poller.starts[-1] - before >= 70
        await poller.settle([other], retry_in=600)
        assert len(await poller.run(2)) >= 15

    @pytest.mark.parametrize("jump", JUMPS)
    async def test_a_wall_clock_that_is_set_neither_hurries_nor_delays_a_poll(
        self, here: Store, there: Store, time: Time, jump: float
    ) -> None:
        await here.watch([ref("1")], poll_in=30)
        await here.watch([ref("2")], poll_in=0)
        poller = Poller(time, here, there, lease=60)
        assert uids(await poller.run()) == ["2"]
        await there.pause_polls("default", 20)
        await time.jump(jump)
        assert await poller.run(28) == []
        assert uids(await poller.run(4)) == ["1"]
        assert uids(await poller.run(40)) == ["2"]

    @pytest.mark.parametrize(("seconds", "error"), [(0, ValueError), (-1, ValueError), (math.inf, ValueError), ("1", TypeError)])
    async def test_only_a_pause_pauses(self, here: Store, seconds: Any, error: type[Exception]) -> None:
        await here.add_pending([ref("1")], poll_in=0)
        with pytest.raises(error, match=r"^seconds: give "):
            await here.pause_polls("default", seconds)
        assert len((await here.claim_polls("default", limit=5, lease=60, max_per_second=RATE)).claims) == 1
