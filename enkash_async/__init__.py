"""Asyncio client for EnKash coins.

    async with EnkashClient.from_env() as enkash:
        await enkash.allocate_coins(event=..., user_id=..., request_id=...)

The answer to `allocate_coins` is final; no webhook follows. A client has `PasswordCredentials` or a `TokenProvider`. Three
rejected token requests lock the account: give all clients of a machine a `FileBreakerStore` on the same file.
"""

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
