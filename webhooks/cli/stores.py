"""Find and open the store that a command works on."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import fail

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from webhooks.store.base import Store
    from webhooks.store.urls import StoreUrl


@asynccontextmanager
async def open_existing(url: StoreUrl) -> AsyncIterator[Store]:
    """Open an existing store, or end the command; listeners and applications may have it open too.

    Raises:
        StoreError: its database cannot be used.
    """
    check_file(url)
    if url.database is not None and not await url.exists():
        fail(_missing(url), Exit.UNAVAILABLE)
    store = url.open()
    try:
        yield store
    finally:
        await store.aclose()


def check_file(url: StoreUrl) -> None:
    """End the command if the file of a store is missing, or a store is in another process's memory."""
    if url.in_memory:
        fail(
            "--store: a memory: store is visible to its own process only. Name a listener's file, such as sqlite:///inbox.db.",
            Exit.USAGE,
        )
    if url.file is not None and not url.file.exists():
        fail(_missing(url.file.absolute()), Exit.UNAVAILABLE)


def _missing(place: object) -> str:
    return f"There is no store at {place}. Name another with --store, or start the listener first."
