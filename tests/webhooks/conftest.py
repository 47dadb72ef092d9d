from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

pytest.register_assert_rewrite("tests.webhooks.store_contract")
pytest.register_assert_rewrite("tests.webhooks.waiting_contract")

from tests.webhooks.sqlite_store_kit import Host  # noqa: E402 - it imports what is rewritten
from webhooks.store.base import Store  # noqa: E402


@pytest.fixture
def here(stores: tuple[Store, Store]) -> Store:
    """A store object, in the tests of the contract."""
    return stores[0]


@pytest.fixture
def there(stores: tuple[Store, Store]) -> Store:
    """Another one over the same engine, or the same."""
    return stores[1]


@pytest_asyncio.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    """A host whose clocks a test moves, and the stores on one SQLite file of it."""
    host = Host(tmp_path / "inbox.db")
    yield host
    for store in host.stores:
        await store.aclose()
