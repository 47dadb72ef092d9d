"""Receiver and completions with Original's client against its sandbox, over loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from attrs import frozen

from original_async import AllocationFailed, OriginalClient, OriginalWebhooks
from rewards_core import OperationMismatch
from vendor_sandboxes import OriginalSandbox
from webhooks import Completions, MemoryStore, PollPolicy, Receiver

GRANT: dict[str, Any] = {"reward_uid": "764893807463", "to_user_uid": "110985463782", "amount": "1.23"}
SOON = PollPolicy(first_after=0.05, max_interval=0.05, max_per_second=500.0)
LATE = PollPolicy(first_after=600.0, max_interval=600.0)


@frozen
class Job:
    sandbox: OriginalSandbox
    client: OriginalClient
    completions: Completions
    store: MemoryStore


@asynccontextmanager
async def a_job(polling: PollPolicy, *, webhooks: bool = True, **switches: Any) -> AsyncIterator[Job]:
    store = MemoryStore()
    async with OriginalSandbox(**switches) as sandbox:
        app = web.Application()
        Receiver(OriginalWebhooks(sandbox.webhooks.keys, app_uid=sandbox.app_uid), store).register(app, "/webhooks/original")
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        if webhooks:
            sandbox.webhook_url = f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks/original"
        async with (
            OriginalClient(sandbox.api_key, sandbox.api_secret, base_url=sandbox.url) as client,
            Completions(client, store, polling=polling) as completions,
        ):
            yield Job(sandbox, client, completions, store)
        await runner.cleanup()


@pytest.mark.parametrize(("shape", "reads"), [("full", 0), ("uid", 1)])
async def test_a_webhook_settles_with_no_request_or_one(shape: str, reads: int) -> None:
    async with a_job(LATE, confirm=(0.01, 0.01), webhook_body=shape) as job:
        allocation = await job.client.create_allocation(**GRANT, nonce="n-1")
        settled = await job.completions.wait(allocation, timeout=60)
        assert (settled.status, settled.amount, settled.nonce) == ("done", allocation.amount, "n-1")
        assert sum(seen.method == "GET" for seen in job.sandbox.requests) == reads
        outcome = await job.store.outcome(allocation.ref)
        assert outcome is not None
        assert outcome.via == "webhook"


async def test_an_event_before_the_answer_to_the_post_is_not_missed() -> None:
    async with a_job(LATE, confirm=None, webhook_before_reply=1.0) as job:
        allocation = await job.client.create_allocation(**GRANT, nonce="n-1")
        assert (await job.completions.wait(allocation, timeout=60)).status == "done"


@pytest.mark.parametrize("switches", [{"webhook_loss": 1.0}, {"webhook_body": "opaque"}])
async def test_without_news_the_poll_settles(switches: dict[str, Any]) -> None:
    async with a_job(SOON, confirm=(0.01, 0.01), **switches) as job:
        allocation = await job.client.create_allocation(**GRANT, nonce="n-1")
        assert (await job.completions.wait(allocation, timeout=60)).status == "done"
        outcome = await job.store.outcome(allocation.ref)
        assert outcome is not None
        assert outcome.via == "poll"


async def test_failed_is_learned_by_polling() -> None:
    async with a_job(SOON, confirm=(0.01, 0.01), fail_rate=1.0) as job:
        allocation = await job.client.create_allocation(**GRANT, nonce="n-1")
        with pytest.raises(AllocationFailed):
            await job.completions.wait(allocation, timeout=60)


async def test_another_amount_under_a_replayed_nonce_shows_when_it_settles() -> None:
    async with a_job(SOON, confirm=(0.01, 0.01), duplicate_nonce="replay") as job:
        await job.client.create_allocation(**GRANT, nonce="n-1")
        second = await job.client.create_allocation(**{**GRANT, "amount": "9.99"}, nonce="n-1")
        with pytest.raises(OperationMismatch):
            await job.completions.wait(second, timeout=60)


@pytest.mark.slow
async def test_as_completed_yields_done_and_failed_alike() -> None:
    async with a_job(SOON, confirm=(0.01, 0.05), fail_rate=0.5) as job:
        allocations = [await job.client.create_allocation(**GRANT, nonce=f"n-{number}") for number in range(40)]
        async with job.completions.as_completed(allocations, timeout=60) as outcomes:
            ended = {outcome.ref.uid: outcome async for outcome in outcomes}
        held = {allocation["uid"]: allocation["status"] for allocation in job.sandbox.books()["allocations"]}
        assert {uid: str(outcome.operation.status) for uid, outcome in ended.items() if outcome.operation} == held
        assert {"done", "failed"} == set(held.values())
