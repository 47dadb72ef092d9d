"""What `import webhooks` gives, and what it does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest

import webhooks
import webhooks.errors
from docs._ext.public_names import public_names
from webhooks.ingress import queue


def test_both_stores_stand_side_by_side() -> None:
    from webhooks import MemoryStore, SQLiteStore
    from webhooks.store.sqlite import SQLiteStore as Same

    assert SQLiteStore is Same
    assert {MemoryStore.__name__, SQLiteStore.__name__} <= set(webhooks.__all__)
    assert all(getattr(webhooks, name) for name in webhooks.__all__)


def test_every_error_of_the_package_stands_in_it() -> None:
    errors = {name for name, each in vars(webhooks.errors).items() if isinstance(each, type) and issubclass(each, Exception)}
    assert errors - {"RewardsError"} <= set(webhooks.__all__)


def test_all_that_a_queue_of_ones_own_takes_and_returns_stands_beside_it() -> None:
    returned = {"BatchFailure", "Queue", "QueuedMessage"}
    assert returned <= set(queue.__all__)
    assert returned | {"QueueStatistics"} <= {name.rpartition(".")[2] for name in public_names()}


def test_what_is_not_there_is_said_as_python_says_it() -> None:
    with pytest.raises(AttributeError, match="'Nothing'"):
        getattr(webhooks, "Nothing")  # noqa: B009 - a type checker knows it too


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["fcntl", "sqlite3", "aiohttp", "typer", "prometheus_client"])
def test_receiver_and_memory_store_need_no_file_locks_database_server_or_extra(missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from webhooks import Receiver, MemoryStore, Completions"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=webhooks.__path__[0] + "/..")
