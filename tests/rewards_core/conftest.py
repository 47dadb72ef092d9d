from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest_asyncio

from rewards_core.http.transport import Transport
from tests.rewards_core.lines import Credentials, refusal

MakeTransport = Callable[..., Transport]


@pytest_asyncio.fixture
async def make_transport() -> AsyncIterator[MakeTransport]:
    made: list[Transport] = []

    def make(base_url: str = "http://127.0.0.1:1/v1", **options: Any) -> Transport:
        options.setdefault("authorizer", Credentials())
        options.setdefault("refusal", refusal)
        transport = Transport(vendor="Acme", base_url=base_url, **options)
        made.append(transport)
        return transport

    yield make
    for transport in made:
        await transport.aclose()
