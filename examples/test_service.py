"""Tests of a service that grants rewards; every fixture here but `service` comes with rewards-async."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import ClientSession, web

from examples.aiohttp_service import make_app
from original_async import AllocationFailed
from vendor_sandboxes.testing import OriginalServer, Rewards, RewardsBooks, SignDelivery

USER = "110985463782"


async def test_a_reward_is_paid_once(rewards: Rewards, rewards_books: RewardsBooks) -> None:
    allocation = await rewards.client.create_allocation(
        reward_uid="764893807463", to_user_uid=USER, amount="1.23", nonce="order-1001"
    )
    await rewards.completions.wait(allocation, timeout=60)
    assert rewards_books.paid(USER, "1.23", once=True)


@pytest.mark.rewards(fail_rate=1)
async def test_a_reward_that_fails_on_the_blockchain_is_not_paid(rewards: Rewards, rewards_books: RewardsBooks) -> None:
    allocation = await rewards.client.create_allocation(
        reward_uid="764893807463", to_user_uid=USER, amount="1.23", nonce="order-1001"
    )
    with pytest.raises(AllocationFailed):
        await rewards.completions.wait(allocation, timeout=60)
    assert rewards_books.total(USER) == 0


@pytest_asyncio.fixture
async def service(original_sandbox: OriginalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    monkeypatch.chdir(tmp_path)  # its store is a file in the current folder
    runner = web.AppRunner(make_app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    original_sandbox.webhook_url = f"{url}/webhooks/original"
    yield url
    await runner.cleanup()


async def test_a_lost_reply_pays_an_order_once(
    service: str, original_sandbox: OriginalServer, rewards_books: RewardsBooks
) -> None:
    original_sandbox.script("drop_after_commit")
    async with ClientSession() as session:
        order = {"user": USER, "amount": "1.23", "order": "A-1001"}
        async with session.post(f"{service}/rewards", json=order) as response:
            assert response.status == 200
    assert rewards_books.paid(USER, "1.23", once=True)


async def test_a_forged_webhook_is_refused(service: str, signed_delivery: SignDelivery) -> None:
    delivery = signed_delivery("reward.allocated", to_user_uid=USER, amount="1.23")
    forged = delivery.body.replace(b"1.23", b"9.99")
    async with ClientSession() as session:
        for body, status in ((delivery.body, 200), (forged, 401)):
            async with session.post(f"{service}/webhooks/original", data=body, headers=delivery.headers) as response:
                assert response.status == status
