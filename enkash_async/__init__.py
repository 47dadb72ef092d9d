"""Asyncio client for EnKash coins."""

from enkash_async.breakers import BreakerState, BreakerStore, FileBreakerStore, MemoryBreakerStore
from enkash_async.client import EnkashClient
from enkash_async.credentials import PasswordCredentials, StaticToken, TokenProvider
from enkash_async.encryption import BodyCipher
from enkash_async.errors import CredentialsRejected, TokenUnavailable
from enkash_async.models import CoinAllocation, CoinConfiguration, CoinEvent

__all__ = [
    "BodyCipher",
    "BreakerState",
    "BreakerStore",
    "CoinAllocation",
    "CoinConfiguration",
    "CoinEvent",
    "CredentialsRejected",
    "EnkashClient",
    "FileBreakerStore",
    "MemoryBreakerStore",
    "PasswordCredentials",
    "StaticToken",
    "TokenProvider",
    "TokenUnavailable",
]
