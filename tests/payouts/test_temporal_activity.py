"""The example of an activity of Temporal, on a stand-in of the parts of Temporal's package that it uses."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from types import ModuleType
from typing import Any

import pytest

from rewards_core.errors import OutcomeUnknown, RequestRejected
from tests.payouts.payout_kit import REWARD, StubOriginal, waiting
from tests.payouts.postgres_ledger_kit import LedgerDatabase
from tests.test_examples import load


class ApplicationError(Exception):
    def __init__(self, message: str, *, non_retryable: bool = False) -> None:
        super().__init__(message)
        self.non_retryable = non_retryable


class Temporal:
    """The example, and the heartbeats of its activity."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.heartbeats = asyncio.Queue[None]()
        modules = {name: ModuleType(name) for name in ("temporalio", *(f"temporalio.{part}" for part in PARTS))}
        package: Any = modules["temporalio"]
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        package.activity = modules["temporalio.activity"]
        package.activity.defn = lambda name: lambda function: function
        package.activity.heartbeat = lambda: self.heartbeats.put_nowait(None)
        for name, what in PARTS.items():
            setattr(modules[f"temporalio.{name}"], what, ApplicationError if name == "exceptions" else object)
        self.example = load("temporal_activity")
        monkeypatch.setattr(self.example, "HEARTBEAT_EVERY", 0.01)
        monkeypatch.setattr("payouts.pipeline.row.LOOK_EVERY", 0.01)

    def reward(self, **changed: str) -> Any:
        return self.example.Reward(**{"id": "r1", "reward_uid": REWARD, "to_user_uid": "user-r1", "amount": "1.50"} | changed)


PARTS = {"activity": "info", "client": "Client", "exceptions": "ApplicationError", "worker": "Worker"}


@pytest.fixture
def temporal(monkeypatch: pytest.MonkeyPatch) -> Temporal:
    return Temporal(monkeypatch)


async def test_an_activity_that_is_cancelled_and_started_again_pays_once(temporal: Temporal, database: LedgerDatabase) -> None:
    vendor = StubOriginal()
    received = asyncio.Event()

    async def hang(_: str) -> None:
        received.set()
        await asyncio.get_running_loop().create_future()

    vendor.before = hang
    async with AsyncExitStack() as stack:
        completions = await stack.enter_async_context(waiting(vendor))
        hosts = [await stack.enter_async_context(database.ledger()) for _ in range(2)]
        first, second = (temporal.example.Payments(vendor, completions, ledger) for ledger in hosts)
        attempt = asyncio.create_task(first.pay(temporal.reward()))
        await received.wait()
        for _ in range(3):
            await temporal.heartbeats.get()
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        vendor.hold("user-r1", "1.50", vendor.created[0])
        vendor.before = None
        await database.advance(31.0)
        assert await second.pay(temporal.reward()) == "uid-1"
        assert len(vendor.created) == 1
        with pytest.raises(ApplicationError, match="r1") as refused:
            await first.pay(temporal.reward(amount="2"))
        assert refused.value.non_retryable


async def test_an_activity_without_an_answer_is_tried_again_and_a_refused_one_is_not(
    temporal: Temporal, database: LedgerDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = StubOriginal()
    monkeypatch.setattr(temporal.example, "OPTIONS", temporal.example.RunOptions(rate=None, lookup_timeout=0.0))
    async with waiting(vendor) as completions, database.ledger() as ledger:
        payments = temporal.example.Payments(vendor, completions, ledger)
        for problem, over in ((OutcomeUnknown("no answer"), False), (RequestRejected("no such user"), True)):
            user = f"user-{over}"
            vendor.answers[user].append(problem)
            with pytest.raises(ApplicationError) as told:
                await payments.pay(temporal.reward(id=user, to_user_uid=user))
            assert told.value.non_retryable is over
