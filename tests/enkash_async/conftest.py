"""Token managers and clients on a clock that moves only in sleeps and by tests, each closed at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import pytest_asyncio
from aioresponses import aioresponses

from enkash_async import BreakerStore, EnkashClient, MemoryBreakerStore
from enkash_async.tokens import PasswordTokens
from tests.enkash_async.enkash_kit import AUTH, COINS, TOKEN_REPLY, TOKEN_URL, TokenEndpoint, Tokens, credentials
from tests.stepped_time import SteppedTime


@pytest.fixture
def time(stepped_time: SteppedTime) -> SteppedTime:
    return stepped_time


@pytest_asyncio.fixture
async def endpoint() -> TokenEndpoint:
    return TokenEndpoint()


@pytest_asyncio.fixture
async def new_tokens(time: SteppedTime, endpoint: TokenEndpoint) -> AsyncIterator[Callable[..., Tokens]]:
    """Create token managers that ask the endpoint."""
    made: list[Tokens] = []

    def new(store: BreakerStore | None = None, **arguments: Any) -> Tokens:
        settings: dict[str, Any] = {"ask": endpoint, "account": lambda: "account-1", "clock": time.wall}
        made.append(Tokens(PasswordTokens(store=store or MemoryBreakerStore(), **{**settings, **arguments})))
        return made[-1]

    yield new
    for tokens in made:
        await tokens.aclose()


@pytest_asyncio.fixture
async def new_client(time: SteppedTime) -> AsyncIterator[Callable[..., EnkashClient]]:
    """Create clients at addresses that do not exist."""
    made: list[EnkashClient] = []

    def new(**arguments: Any) -> EnkashClient:
        settings: dict[str, Any] = {
            "coins_base_url": COINS,
            "auth_base_url": AUTH,
            "credentials": credentials(),
            "clock": time.wall,
            "random": lambda: 0.0,
        }
        made.append(EnkashClient(**{**settings, **arguments}))
        return made[-1]

    yield new
    for client in made:
        await client.aclose()


@pytest.fixture
def vendor() -> Iterator[aioresponses]:
    """Answer for EnKash without a network."""
    with aioresponses() as mocked:
        yield mocked


@pytest.fixture
def with_token(vendor: aioresponses) -> aioresponses:
    """Answer for EnKash, whose token endpoint works."""
    vendor.post(TOKEN_URL, payload=TOKEN_REPLY, repeat=True)
    return vendor
