from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from tests.postgres_server import Server
from tests.webhooks.postgres_kit import run_sql, url_of
from tests.webhooks.queue_kit import AWS, moto
from tests.webhooks.sqlite_kit import Host
from webhooks.store.base import Store


@pytest.fixture
def here(stores: tuple[Store, Store]) -> Store:
    """A store object, in the tests of the contract."""
    return stores[0]


@pytest.fixture
def there(stores: tuple[Store, Store]) -> Store:
    """Another one over the same engine, or the same."""
    return stores[1]


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """The URL of a server that plays Amazon SQS."""
    with moto() as url:
        yield url


@pytest.fixture
def sqs_endpoint(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, with credentials in the environment and none elsewhere."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in AWS.items():
        monkeypatch.setenv(name, value)
    return moto_url


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of commands, whose store is `inbox.db` in it; their terminal is 80 columns wide."""
    for name in list(os.environ):
        if name.startswith(("ORIGINAL_", "WEBHOOK_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path is so short that the sockets of a store stand beside its file."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest_asyncio.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    """A host whose clocks a test moves, and the stores on one SQLite file of it."""
    host = Host(tmp_path / "inbox.db")
    yield host
    for store in host.stores:
        await store.aclose()


@pytest.fixture
def database(postgres: Server) -> Iterator[str]:
    """The URL of a database without a store, with a password that nothing may show."""
    yield url_of(postgres)
    run_sql(postgres, "DROP SCHEMA IF EXISTS rewards_webhooks CASCADE")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """An authority that certifies servers."""
    return trustme.CA()
