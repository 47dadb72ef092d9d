from __future__ import annotations

import pytest

from webhooks.store.base import Store

pytest.register_assert_rewrite("tests.webhooks.store_contract")
pytest.register_assert_rewrite("tests.webhooks.waiting_contract")


@pytest.fixture
def here(stores: tuple[Store, Store]) -> Store:
    """A store object, in the tests of the contract."""
    return stores[0]


@pytest.fixture
def there(stores: tuple[Store, Store]) -> Store:
    """Another one over the same engine, or the same."""
    return stores[1]
