"""The contract of a store that survives its process."""

from __future__ import annotations

from rewards_core.operations import OperationRef
from tests.webhooks.store_contract.kit import (
    COUNT,
    PAY,
    Poller,
    Reopen,
    Time,
    claim,
    event,
    made_with,
    outcome,
    pending,
    ref,
    resource,
    uids,
    wants,
)
from webhooks.store.base import Store
from webhooks.store.outcomes import CONFLICT_EVENT
from webhooks.store.records import Acceptance, Priority


class DurableContract:
    async def test_everything_is_there_after_a_restart(self, here: Store, there: Store, reopen: Reopen) -> None:
        if there is not here:
            await there.aclose()
        await here.register_handlers([wants(PAY), wants(COUNT, "reward.allocated")])
        await here.accept(event("handled", of=ref("1"), complete=resource("1")))
        await here.accept(event("asked", name="asset.minted", of=ref("2")))
        await here.accept(event("dead", problem="unreadable"))
        await here.accept(event("purged", scope="other"))
        await here.purge(0)
        await here.add_pending([ref("3")], poll_in=60)
        await here.record_outcome(outcome(ref("4"), "failed"))
        await here.record_outcome(outcome(ref("4"), "done", key="k"))
        await here.record_outcome(outcome(ref("5")))
        await here.record_outcome(outcome(ref("5"), key="k", confirmed=True))
        before = (await here.outcome(ref("1")), await here.outcome(ref("5")), await here.conflicts(ref("4")))
        events = [(kept.id, kept.event, kept.state, kept.received_at) for kept in await here.list_events()]
        again = await reopen(here)
        assert [(kept.id, kept.event, kept.state, kept.received_at) for kept in await again.list_events()] == events
        assert (await again.outcome(ref("1")), await again.outcome(ref("5")), await again.conflicts(ref("4"))) == before
        assert await again.accept(event("purged", scope="other")) is Acceptance.DUPLICATE
        assert await made_with(again, "k") == ["5"]
        assert await pending(again) == ["2", "3"]
        assert [(one.subscription, one.served) for one in await again.list_handlers()] == [
            (wants(COUNT, "reward.allocated"), False),
            (wants(PAY), False),
        ]
        claimed = await claim(again)
        assert {one.event.name for one in claimed} == {"reward.allocated", "asset.minted", CONFLICT_EVENT}
        assert (await again.statistics()).conflicts == 1

    async def test_what_operations_are_about_is_known_after_a_restart(self, here: Store, there: Store, reopen: Reopen) -> None:
        if there is not here:
            await there.aclose()
        await here.add_pending([OperationRef("default", "transfer", "1", "asset/7"), ref("2")], poll_in=60)
        again = await reopen(here)
        await again.accept(event(of=ref("7", kind="asset"), complete=resource("7")))
        found = [(one.ref.about, one.priority) for one in await again.list_pending()]
        assert found == [(None, Priority.ABANDONED), ("asset/7", Priority.LOOKUP)]

    async def test_leases_outlive_a_restart_and_run_out_by_themselves(
        self, here: Store, there: Store, reopen: Reopen, time: Time
    ) -> None:
        if there is not here:
            await there.aclose()
        await here.register_handlers([wants()])
        await here.accept(event("1", of=ref("1")))
        (claimed,) = await claim(here, lease=60)
        (poll,) = await Poller(time, here, lease=60).run()
        again = await reopen(here)
        assert await claim(again) == []
        poller = Poller(time, again, lease=60)
        assert await poller.run() == []
        await time.advance(60)
        (second,) = await claim(again)
        assert (second.job.event_id, second.job.attempts) == (claimed.job.event_id, 2)
        assert await again.finish_job(claimed.job) is False
        assert uids(await poller.run(5)) == [poll.ref.uid]

    async def test_a_killed_process_leaves_its_watched_operations_pending(
        self, here: Store, there: Store, reopen: Reopen, time: Time
    ) -> None:
        if there is not here:
            await there.aclose()
        await here.watch([ref()], poll_in=0)
        again = await reopen(here)
        assert [(one.ref, one.priority) for one in await again.list_pending()] == [(ref(), Priority.ABANDONED)]
        assert uids(await Poller(time, again).run()) == ["1"]
