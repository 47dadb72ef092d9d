"""Store URLs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import webhooks
from webhooks import MemoryStore, SQLiteStore, open_store
from webhooks.store import store_file


def test_memory_is_a_store_without_a_file() -> None:
    assert isinstance(open_store("memory:"), MemoryStore)
    assert store_file("memory:") is None


def test_sqlite_is_a_file_relative_or_absolute(tmp_path: Path) -> None:
    assert isinstance(open_store(f"sqlite:///{tmp_path}/inbox.db"), SQLiteStore)
    assert store_file("sqlite:///inbox.db") == Path("inbox.db")
    assert store_file("sqlite:////var/lib/inbox.db") == Path("/var/lib/inbox.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["", "inbox.db", "sqlite:", "sqlite://inbox.db", "sqlite:///", "sqlite:///a\0b", "memory", "redis://x"]
)
def test_an_invalid_store_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"^store: "):
        open_store(url)


def test_no_password_of_a_url_is_shown() -> None:
    with pytest.raises(ValueError, match=r"^store: ") as refused:
        open_store("postgres://user:pa55-canary@db/inbox")
    assert "pa55" not in str(refused.value)


@pytest.mark.parametrize("url", [None, 7, b"memory:", Path("inbox.db")])
def test_a_url_is_a_str(url: Any) -> None:
    with pytest.raises(TypeError, match=r"^store: "):
        open_store(url)


@pytest.mark.parametrize("missing", ["fcntl", "apsw"])
def test_a_store_in_memory_needs_no_database(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from webhooks import open_store; open_store('memory:')"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=webhooks.__path__[0] + "/..")
