"""A listener with API credentials polls: operations that no delivery settles, and those that a command waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from original_async import OriginalClient
from rewards_core.operations import OperationRef, OperationStatus
from tests.webhooks.command_kit import command
from tests.webhooks.listener_process import delivery, get, post, running
from vendor_sandboxes.original import API_KEY, API_SECRET, REWARDS, OriginalSandbox
from webhooks.store.base import Subscriber
from webhooks.store.sqlite import SQLiteStore


class Ear(Subscriber):
    """A subscriber of a store that another process writes."""

    def __init__(self) -> None:
        self._heard: asyncio.Queue[Any] = asyncio.Queue()

    def waits_for(self, ref: OperationRef) -> bool:
        return True

    def settled(self, outcome: Any) -> None:
        self._heard.put_nowait(outcome)

    async def outcome(self) -> Any:
        async with asyncio.timeout(120):
            return await self._heard.get()


@asynccontextmanager
async def listening_to(folder: Path) -> AsyncIterator[Ear]:
    store, ear = SQLiteStore(folder / "inbox.db"), Ear()
    await store.subscribe(ear)
    yield ear
    await store.aclose()


def credentials(sandbox: OriginalSandbox) -> dict[str, str]:
    return {"ORIGINAL_API_KEY": API_KEY, "ORIGINAL_API_SECRET": API_SECRET, "ORIGINAL_BASE_URL": sandbox.url}


@pytest.mark.slow
async def test_a_delivery_with_only_a_uid_is_looked_up(tmp_path: Path) -> None:
    async with OriginalSandbox(confirm=(0.0, 0.0), fail_rate=1.0) as sandbox:
        uid = await create(sandbox.url)
        async with running(tmp_path, env=credentials(sandbox)) as listener, listening_to(tmp_path) as ear:
            assert (listener.where["polling"], listener.where["poll_scope"]) == (True, "default")
            async with aiohttp.ClientSession() as session:
                assert await post(session, listener.url, delivery(uid, complete=False)) == 200
            outcome = await ear.outcome()
            assert (outcome.ref.uid, outcome.status, outcome.via) == (uid, OperationStatus.FAILED, "webhook")


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_pending_operations_settle_by_polls_without_any_delivery(tmp_path: Path) -> None:
    async with OriginalSandbox(confirm=(0.0, 0.0), fail_rate=1.0) as sandbox:
        ref = OperationRef("default", "allocation", await create(sandbox.url))
        before = SQLiteStore(tmp_path / "inbox.db")
        await before.add_pending([ref], poll_in=0.0)
        await before.aclose()
        options = ["--poll-first-after", "0.1"]
        async with listening_to(tmp_path) as ear, running(tmp_path, *options, env=credentials(sandbox)) as listener:
            outcome = await ear.outcome()
            assert (outcome.ref, outcome.status, outcome.via) == (ref, OperationStatus.FAILED, "poll")
            assert 'webhooks_settled_total{via="poll"} 1.0' in (await get(listener.where["admin"] + "/metrics"))[1]


@pytest.mark.slow
async def test_the_poll_scope_defaults_to_that_of_the_only_source(tmp_path: Path) -> None:
    env = {"ORIGINAL_API_KEY": API_KEY, "ORIGINAL_API_SECRET": API_SECRET, "ORIGINAL_BASE_URL": "http://127.0.0.1:9/v1"}
    async with running(tmp_path, "--source", "/a,scope=a", env=env) as listener:
        assert listener.where["poll_scope"] == "a"


async def create(url: str) -> str:
    """Create an allocation at the sandbox."""
    async with OriginalClient(API_KEY, API_SECRET, base_url=url) as client:
        created = await client.create_allocation(
            reward_uid=next(iter(REWARDS)), to_user_uid="754566475542", amount="1.23", nonce="n1"
        )
    return created.uid


@pytest.mark.slow
async def test_a_wait_is_polled_by_the_listener_if_the_waiter_cannot(tmp_path: Path) -> None:
    async with OriginalSandbox(confirm=(0.0, 0.0), fail_rate=1.0) as sandbox:
        uid = await create(sandbox.url)
        async with running(tmp_path, "--polls-per-second", "50", env=credentials(sandbox)) as listener:
            code, rows, _ = await command(tmp_path, "wait", uid)
            assert (code, rows[0]["status"]) == (3, "failed")
            assert 'webhooks_settled_total{via="poll"} 1.0' in (await get(listener.where["admin"] + "/metrics"))[1]


@pytest.mark.slow
@pytest.mark.processes_are_measured
async def test_a_waiter_with_credentials_polls_the_vendor_itself(tmp_path: Path) -> None:
    async with OriginalSandbox(confirm=(0.0, 0.0)) as sandbox, running(tmp_path):
        uid = await create(sandbox.url)
        code, rows, _ = await command(tmp_path, "wait", uid, env=credentials(sandbox))
        assert (code, rows[0]["status"], rows[0]["resource"]["uid"]) == (0, "done", uid)
