"""What the pytest fixtures of `vendor_sandboxes.pytest_plugin` return, for annotations."""

from vendor_sandboxes.server import ReceivedRequest
from vendor_sandboxes.testing.books import Payment, RewardsBooks
from vendor_sandboxes.testing.deliveries import SignDelivery, SignedDelivery
from vendor_sandboxes.testing.rewards import Rewards
from vendor_sandboxes.testing.servers import EnkashServer, OriginalServer

__all__ = [
    "EnkashServer",
    "OriginalServer",
    "Payment",
    "ReceivedRequest",
    "Rewards",
    "RewardsBooks",
    "SignDelivery",
    "SignedDelivery",
]
