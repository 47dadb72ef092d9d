"""With every fault of a vendor, no call mints, moves or burns an asset twice, and what it tells agrees with the books."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

import aiohttp
import pytest

from original_async import Asset, Burn, OriginalClient, Transfer
from rewards_core.backoff import RetryPolicy
from rewards_core.errors import ConnectFailed, OutcomeUnknown, RequestRejected, VendorError
from rewards_core.http.timeouts import Timeouts
from tests.original_async.conftest import WALLET
from tests.original_async.family_kit import COLLECTION, DATA
from tests.stepped_time import let_product_sleep
from vendor_sandboxes.original import OriginalSandbox

HASTE = 20.0
"""How many times faster than real time the pauses of the client and the lags of the vendor pass."""
FAULTS = ("p503", "p503_after_commit", "p429", "drop_before_commit", "drop_after_commit", "slow_after_commit")


class BadDay:
    """A vendor that would mint twice under one external id, and clients with short timeouts."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.sandbox = OriginalSandbox(
            seed=seed,
            confirm=None,
            duplicate_external_id="mint",
            list_lag=self.random.choice([0.0, 1.0, 10.0]) / HASTE,
            commit_late=self.random.choice([0.0, 1.0, 10.0]) / HASTE,
            page_size=self.random.choice([0, 2, 7]),
            retry_after=0.02,
            slow_seconds=0.3,
            latency=(0.0, 0.02),
        )
        self.users = [f"10000000000{number}" for number in range(5)]

    def client(self) -> OriginalClient:
        chance = self.random
        hasty = Timeouts(total=chance.choice([0.1, 0.4, 3.0]), connect=0.5, read=chance.choice([0.015, 0.05, 0.2]))
        return self._client(hasty, RetryPolicy(attempts=chance.choice([1, 2, 4]), first_delay=chance.choice([0.01, 0.25])))

    def patient_client(self) -> OriginalClient:
        """Return a client that gets its answers, however slow the machine is."""
        return self._client(Timeouts(total=300.0, connect=100.0, read=100.0), RetryPolicy(attempts=4, first_delay=0.01))

    def _client(self, timeouts: Timeouts, retry: RetryPolicy) -> OriginalClient:
        sandbox = self.sandbox
        return OriginalClient(sandbox.api_key, sandbox.api_secret, base_url=sandbox.url, timeouts=timeouts, retry=retry)

    async def quiet(self) -> None:
        async with aiohttp.ClientSession() as session, session.get(f"{self.sandbox.origin}/_sandbox/books") as reply:
            await reply.read()
        await self.sandbox.quiet()

    def set_faults(self, chance: float) -> None:
        for fault in FAULTS:
            setattr(self.sandbox.options, fault, chance)


async def end_of(call: Any) -> Any:
    try:
        return await call
    except VendorError as error:
        return error


def agrees(end: Any, held: list[dict[str, Any]], model: type[Any]) -> bool:
    """Return whether how a call ended agrees with what the vendor holds of it."""
    if isinstance(end, model):
        return [entry["uid"] for entry in held] == [end.uid]
    if isinstance(end, OutcomeUnknown):
        return len(held) <= 1
    return isinstance(end, (RequestRejected, ConnectFailed)) and not held


async def bad_day(seed: int, assets: int) -> Counter[str]:
    day = BadDay(seed)
    async with day.sandbox:
        clients = [day.patient_client(), *(day.client() for _ in range(4))]
        day.set_faults(0.1)
        owners = [day.random.choice(day.users) for _ in range(assets)]
        ends = await asyncio.gather(
            *(
                end_of(
                    day.random.choice(clients).create_asset(
                        user_uid=owner, collection_uid=COLLECTION, asset_external_id=f"asset_{number}", data=DATA
                    )
                )
                for number, owner in enumerate(owners)
            )
        )
        await day.quiet()
        minted = [
            [one for one in day.sandbox.books()["assets"] if one["asset_external_id"] == f"asset_{n}"] for n in range(assets)
        ]
        for end, held in zip(ends, minted, strict=True):
            assert agrees(end, held, Asset), (seed, end, held)
        day.set_faults(0.0)
        moves = []
        for (held, owner), move in zip(zip(minted, owners, strict=True), "tb" * assets, strict=False):
            if held:
                await day.sandbox.settle(held[0]["uid"], kind="asset")
                moves.append((held[0]["uid"], owner, move))
        day.set_faults(0.1)
        moved = await asyncio.gather(
            *(
                end_of(
                    day.random.choice(clients).create_transfer(asset_uid=uid, from_user_uid=owner, to_address=WALLET)
                    if move == "t"
                    else day.random.choice(clients).create_burn(asset_uid=uid, from_user_uid=owner)
                )
                for uid, owner, move in moves
            )
        )
        await day.quiet()
        books = day.sandbox.books()
        for end, (uid, _, move) in zip(moved, moves, strict=True):
            entries = books["transfers" if move == "t" else "burns"]
            assert agrees(end, [one for one in entries if one["asset_uid"] == uid], Transfer if move == "t" else Burn), (
                seed,
                end,
            )
        for client in clients:
            await client.aclose()
    return Counter(type(end).__name__ for end in [*ends, *moved]) + Counter(day.sandbox.plan.counts)


@pytest.mark.repeats_itself
@pytest.mark.timeout(900)
async def test_no_fault_makes_a_call_mint_or_move_twice(soak: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = asyncio.sleep
    let_product_sleep(lambda seconds: sleep(seconds / HASTE), monkeypatch)
    met: Counter[str] = Counter()
    for first in range(0, 60 if soak else 4, 4):
        days = await asyncio.gather(*(bad_day(seed, assets=200 if soak else 40) for seed in range(first, first + 4)))
        met += sum(days, Counter())
    assert met.keys() >= {"Asset", "Transfer", "Burn", "OutcomeUnknown", "drop_after_commit", "commit_late"}, met
