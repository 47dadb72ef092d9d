"""A clock that moves only in sleeps, clients on that clock, and the sandboxed vendor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aioresponses import aioresponses

from original_async import OriginalClient
from rewards_core.backoff import RetryPolicy
from tests.stepped_time import SteppedTime
from vendor_sandboxes.original import API_KEY, API_SECRET, OriginalSandbox

REWARD = "764893807463"
USER = "110985463782"
WALLET = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"
BASE = "https://api.getoriginal.com/v1"


MakeClient = Callable[..., OriginalClient]


@pytest.fixture
async def ticks(stepped_time: SteppedTime) -> SteppedTime:
    return stepped_time


@pytest.fixture
async def make_client(ticks: SteppedTime) -> AsyncIterator[MakeClient]:
    made: list[OriginalClient] = []

    def make(api_key: str = API_KEY, api_secret: str = API_SECRET, **options: Any) -> OriginalClient:
        options.setdefault("retry", RetryPolicy(attempts=3))
        options.setdefault("clock", ticks.wall)
        options.setdefault("random", lambda: 0.0)
        client = OriginalClient(api_key, api_secret, **options)
        made.append(client)
        return client

    yield make
    for client in made:
        await client.aclose()


@pytest.fixture
async def client(make_client: MakeClient) -> OriginalClient:
    return make_client()


@pytest.fixture
async def sandbox(ticks: SteppedTime) -> AsyncIterator[OriginalSandbox]:
    """A vendor whose blockchain confirms only what a test settles."""
    async with OriginalSandbox(confirm=None, clock=ticks.now) as sandbox:
        yield sandbox


@pytest.fixture
async def original(make_client: MakeClient, sandbox: OriginalSandbox) -> OriginalClient:
    """A client of the sandboxed vendor."""
    return make_client(base_url=sandbox.url)


@pytest.fixture
def wire() -> Any:
    """Scripted answers instead of a network."""
    with aioresponses() as wire:
        yield wire
