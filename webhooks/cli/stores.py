"""Find and open the store that a command works on."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import fail
from webhooks.store import open_store, store_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from webhooks.store.base import Store


@asynccontextmanager
async def open_existing(url: str) -> AsyncIterator[Store]:
    """Open an existing store, or end the command as `existing_file` does; listeners and applications may have it open too."""
    existing_file(url)
    store = open_store(url)
    try:
        yield store
    finally:
        await store.aclose()


def existing_file(url: str) -> Path:
    """Return the file of an existing store; end the command if there is none, or it is in another process's memory.

    Raises:
        ValueError: the URL names no store.
    """
    path = store_file(url, "--store")
    if path is None:
        fail(
            "--store: a memory: store is visible to its own process only. Name a listener's file, such as sqlite:///inbox.db.",
            Exit.USAGE,
        )
    if not path.exists():
        fail(f"There is no store at {path.absolute()}. Name another with --store, or start the listener first.", Exit.UNAVAILABLE)
    return path
