"""What a listener deletes as time passes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.webhooks.listener_process import running
from tests.webhooks.store_contract import event, outcome, ref
from webhooks.store.sqlite import SQLiteStore

DAY = 86_400.0


async def test_bodies_events_and_outcomes_are_deleted_after_their_days(tmp_path: Path) -> None:
    here = SQLiteStore(tmp_path / "inbox.db")
    two_days_ago = SQLiteStore(tmp_path / "inbox.db", clock=lambda: time.time() - 2 * DAY)
    forty_days_ago = SQLiteStore(tmp_path / "inbox.db", clock=lambda: time.time() - 40 * DAY)
    await here.accept(event("new"))
    await two_days_ago.accept(event("erased"))
    await forty_days_ago.accept(event("purged"))
    await forty_days_ago.record_outcome(outcome(ref("old"), at=time.time() - 40 * DAY))
    await here.record_outcome(outcome(ref("young"), at=time.time() - 20 * DAY))
    for store in (two_days_ago, forty_days_ago):
        await store.aclose()
    async with running(tmp_path, "--keep-days", "30", "--keep-bodies", "1"):
        while len(events := await here.list_events()) == 3 or events[0].event.body:
            await asyncio.sleep(0.05)
        assert [bool(kept.event.body) for kept in events] == [False, True]
        while await here.outcome(ref("old")) is not None:
            await asyncio.sleep(0.05)
        assert await here.outcome(ref("young")) is not None
    await here.aclose()
