from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from rewards_core.http.transport import Transport
from rewards_core.sqlite.engine import Engine
from tests.rewards_core.call_kit import Credentials, refusal
from tests.rewards_core.sqlite_kit import Engines, Notebook, Other, other_process

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


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a SQLite file is to be."""
    return tmp_path / "notes.db"


@pytest_asyncio.fixture
async def engines(path: Path) -> AsyncIterator[Engines]:
    engines = Engines(path)
    yield engines
    await engines.close()


@pytest.fixture
def notes(engines: Engines) -> Engine[Notebook]:
    """An engine on that file."""
    return engines.make()


@pytest_asyncio.fixture
async def other(path: Path) -> AsyncIterator[Other]:
    """Another process, told what to do with that file."""
    async with other_process(path) as other:
        yield other
