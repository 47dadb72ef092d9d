"""Store URLs."""

from __future__ import annotations

import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

import webhooks
from rewards_core.install_hint import install_hint
from tests.webhooks.listener_process import SOURCE
from webhooks import MemoryStore, PostgresStore, Receiver, SQLiteStore, open_store
from webhooks.store import StoreUrl


def test_memory_is_a_store_without_a_file() -> None:
    assert isinstance(open_store("memory:"), MemoryStore)
    assert StoreUrl("memory:").file is None


def test_sqlite_is_a_file_relative_or_absolute(tmp_path: Path) -> None:
    assert isinstance(open_store(f"sqlite:///{tmp_path}/inbox.db"), SQLiteStore)
    assert StoreUrl("sqlite:///inbox.db").file == Path("inbox.db")
    assert StoreUrl("sqlite:////var/lib/inbox.db").file == Path("/var/lib/inbox.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["", "inbox.db", "sqlite:", "sqlite://inbox.db", "sqlite:///", "sqlite:///a\0b", "memory", "redis://x"]
)
def test_an_invalid_store_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^store: "):
        open_store(url)


@pytest.mark.parametrize("url", ["postgresql://user@db/inbox", "postgres://db:5433,other/inbox?target_session_attrs=any"])
def test_postgresql_is_a_database(url: str) -> None:
    assert StoreUrl(url).database is not None
    assert isinstance(open_store(url), PostgresStore)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:pa55-canary@db/inbox",
        "postgresql://user:pa55/canary@db/inbox",
        "postgresql://user:pa55#canary@db/inbox",
        "postgresql://user:1#pa55@db/inbox",
        "postgresql://user:pa55?canary@db/inbox",
        "postgresql://user:@pa55:canary/inbox",
        "postgresql://user:pa55 canary@db/inbox",
    ],
)
def test_no_password_of_a_url_is_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r"^(store|dsn): ") as refused:
        open_store(url)
    shown = "".join(traceback.TracebackException.from_exception(refused.value, capture_locals=True).format())
    assert "pa55" not in shown.replace(repr(url), "")
    assert "pa55" not in repr(open_store("postgresql://user:pa55-canary@db/inbox"))


@pytest.mark.parametrize(
    ("url", "max_body"), [("postgresql://user:pa55 canary@db/inbox", 1), ("postgresql://user:pa55-canary@db/inbox", -1)]
)
def test_a_receiver_that_cannot_be_made_shows_no_password_of_its_store(url: str, max_body: int) -> None:
    with pytest.raises(ValueError, match=r"^(store|max_body): ") as refused:
        Receiver(SOURCE, url, max_body=max_body)
    shown = "".join(traceback.TracebackException.from_exception(refused.value, capture_locals=True).format())
    assert shown.count("pa55") == 1  # in this very function


@pytest.mark.slow
def test_a_database_without_its_driver_says_what_to_install() -> None:
    program = "import sys; sys.modules['asyncpg'] = None; from webhooks import open_store; open_store('postgresql://db/inbox')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=webhooks.__path__[0] + "/..")
    told = done.stderr.splitlines()[-1]
    assert (told.startswith("ValueError: store: "), install_hint("postgres") in told) == (True, True)


@pytest.mark.parametrize("url", [None, 7, b"memory:", Path("inbox.db")])
def test_a_url_is_a_str(url: Any) -> None:
    with pytest.raises(TypeError, match=r"^store: "):
        open_store(url)


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["fcntl", "apsw"])
def test_a_store_in_memory_needs_no_database(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from webhooks import open_store; open_store('memory:')"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=webhooks.__path__[0] + "/..")
