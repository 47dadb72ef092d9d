"""A browser that says what it shows and where it turns to; a ledger; a command line in a folder of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from typer.testing import CliRunner, Result

from payouts.cli import app
from payouts.ledger.sqlite import Ledger
from tests.browser import Browser, chromium
from tests.payouts.campaign_kit import Desk
from tests.payouts.command_kit import Call, for_people
from tests.payouts.payout_kit import ledger_at
from tests.payouts.postgres_ledger_kit import LedgerDatabase, database_of_its_own, ledger_database
from tests.payouts.process_kit import original_at, sandbox
from tests.postgres_server import Server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a ledger is to be."""
    return tmp_path / "payouts.db"


@pytest_asyncio.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    async with ledger_at(path) as ledger:
        yield ledger


@pytest_asyncio.fixture
async def browser(tmp_path: Path) -> AsyncIterator[Browser]:
    async with chromium(tmp_path / "profile") as page:
        yield page


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, and an environment without credentials."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("ORIGINAL_", "ENKASH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def call(folder: Path) -> Call:
    def invoke(*arguments: str, text: str | bytes | None = None, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=text, env=env)

    return invoke


@pytest.fixture
def url(postgres: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty database, and a state folder of this test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    with database_of_its_own(postgres) as url:
        yield url


@pytest.fixture
def vendor(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Original, played; the environment has its credentials."""
    with sandbox("original", "--confirm=0:0.01") as base:
        for name, value in original_at(base).items():
            if name.startswith("ORIGINAL_"):
                monkeypatch.setenv(name, value)
        yield base


@pytest.fixture
def lenient() -> Iterator[str]:
    """Original, played; it pays whomever it is asked to pay."""
    with sandbox("original", "--confirm=0:0") as url:
        yield url


@pytest_asyncio.fixture
async def database(postgres: Server, tmp_path: Path) -> AsyncIterator[LedgerDatabase]:
    """A schema for ledgers whose clock the test moves."""
    async with ledger_database(postgres, tmp_path) as database:
        yield database


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sits before the terminal."""
    monkeypatch.setattr("payouts.cli.preflight.has_terminal", lambda: True)
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)


@pytest.fixture
def desk(call: Call, folder: Path) -> Iterator[Desk]:
    with sandbox("original", "--confirm=0:0") as url:
        yield Desk(call, folder, url)
