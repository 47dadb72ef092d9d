"""What `import webhooks` gives, and what it does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

import webhooks


def test_both_stores_stand_side_by_side() -> None:
    from webhooks import MemoryStore, SQLiteStore
    from webhooks.store.sqlite import SQLiteStore as Same

    assert SQLiteStore is Same
    assert {MemoryStore.__name__, SQLiteStore.__name__} <= set(webhooks.__all__)
    assert all(getattr(webhooks, name) for name in webhooks.__all__)


def test_what_is_not_there_is_said_as_python_says_it() -> None:
    with pytest.raises(AttributeError, match="module 'webhooks' has no attribute 'Nothing'"):
        getattr(webhooks, "Nothing")  # noqa: B009 - a type checker knows it too


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["fcntl", "sqlite3", "aiohttp", "typer", "prometheus_client"])
def test_receiver_and_memory_store_need_no_file_locks_database_server_or_extra(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from webhooks import Receiver, MemoryStore, Completions"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=webhooks.__path__[0] + "/..")
