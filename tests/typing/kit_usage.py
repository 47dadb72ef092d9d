"""What a person's editor says about the fixtures of the test kit; read by type checkers, run by nobody."""

from decimal import Decimal
from typing import assert_type

from original_async import Allocation, OriginalClient
from vendor_sandboxes.testing import EnkashServer, OriginalServer, Rewards, RewardsBooks, SignDelivery, SignedDelivery
from webhooks import Completions, MemoryStore, Receiver
from webhooks.testing import fast_polls


async def test_asynchronous(rewards: Rewards, rewards_books: RewardsBooks, signed_delivery: SignDelivery) -> None:
    assert_type(rewards.client, OriginalClient)
    assert_type(rewards.store, MemoryStore)
    assert_type(rewards.receiver, Receiver)
    assert_type(rewards.completions, Completions)
    assert_type(rewards.sandbox, OriginalServer)
    assert_type(rewards_books.paid("110985463782", "1.23", once=True), bool)
    assert_type(rewards_books.total("110985463782"), Decimal)
    delivery = signed_delivery("reward.allocated", uid="636154847295")
    assert_type(delivery, SignedDelivery)
    assert_type(delivery.body, bytes)
    await rewards.sandbox.quiet(timeout=5)


def test_synchronous(rewards: Rewards, original_sandbox: OriginalServer, enkash_sandbox: EnkashServer) -> None:
    allocation = rewards.run(rewards.client.create_allocation(reward_uid="1", to_user_uid="2", amount="1", nonce="n"))
    assert_type(allocation, Allocation)
    assert_type(original_sandbox.options.fail_rate, float)
    original_sandbox.options.fail_rate = 0.5
    original_sandbox.webhook_url = None
    original_sandbox.script("drop_after_commit", method="GET", path="/reward")
    original_sandbox.settle(allocation.ref.uid, "failed")
    original_sandbox.wait_until_quiet()
    enkash_sandbox.funds = None
    with fast_polls(0.01):
        pass
