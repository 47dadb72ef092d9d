"""Asyncio client for EnKash coins."""

from typing import TYPE_CHECKING

from rewards_core.lazy_imports import lazy_names

if TYPE_CHECKING:
    from enkash_async.breakers import BreakerState, BreakerStore, FileBreakerStore, MemoryBreakerStore
    from enkash_async.client import EnkashClient
    from enkash_async.credentials import PasswordCredentials, StaticToken, TokenProvider
    from enkash_async.encryption import BodyCipher
    from enkash_async.errors import CredentialsRejected, TokenUnavailable
    from enkash_async.models import CoinAllocation, CoinAllocationRequest, CoinConfiguration, CoinEvent, CoinEventRequest

__all__ = [
    "BodyCipher",
    "BreakerState",
    "BreakerStore",
    "CoinAllocation",
    "CoinAllocationRequest",
    "CoinConfiguration",
    "CoinEvent",
    "CoinEventRequest",
    "CredentialsRejected",
    "EnkashClient",
    "FileBreakerStore",
    "MemoryBreakerStore",
    "PasswordCredentials",
    "StaticToken",
    "TokenProvider",
    "TokenUnavailable",
]

if not TYPE_CHECKING:  # a type checker would accept every name from a module with __getattr__
    __getattr__ = lazy_names(__name__, __all__, ("models", "errors", "encryption", "breakers", "credentials", "client"))
