"""Which store a command means, and how to open it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import fail
from webhooks.store import store_file
from webhooks.store.sqlite import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def store_path(url: str) -> Path | None:
    """Return the file of `sqlite:///relative.db` or `sqlite:////absolute.db`, None for `memory:`.

    Raises:
        ValueError: it is neither.
    """
    return store_file(url, "--store")


@asynccontextmanager
async def reading(url: str) -> AsyncIterator[SQLiteStore]:
    """Open a store that a listener or an application writes.

    Raises:
        ValueError: the URL is none.
        typer.Exit: it lives in another process's memory, or there is none.
    """
    path = store_path(url)
    if path is None:
        fail("expected a store in a file, got memory:, which only its own process can see", Exit.USAGE)
    if not path.exists():
        fail(f"expected a store at {path}, got none; give --store, or start the listener first", Exit.UNAVAILABLE)
    store = SQLiteStore(path, read_only=True)
    try:
        yield store
    finally:
        await store.aclose()


def admin_socket(url: str, given: Path | None) -> Path | None:
    """Return the path of the listener's admin socket: the one given, else beside the store's file."""
    path = store_path(url)
    return given if given is not None or path is None else path.with_name(path.name + ".sock")
