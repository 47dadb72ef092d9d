"""What the pytest fixtures of `vendor_sandboxes.pytest_plugin` return, for annotations.

async def test_pays_an_order_once(rewards: Rewards, rewards_books: RewardsBooks) -> None: ...
"""

from vendor_sandboxes.testing.books import RewardsBooks
from vendor_sandboxes.testing.deliveries import SignDelivery, SignedDelivery
from vendor_sandboxes.testing.rewards import Rewards
from vendor_sandboxes.testing.servers import EnkashServer, OriginalServer

__all__ = ["EnkashServer", "OriginalServer", "Rewards", "RewardsBooks", "SignDelivery", "SignedDelivery"]
