"""Which store a command means, and how to open it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import fail
from webhooks.store import open_store, store_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from webhooks.store.base import Store


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Store]:
    """Open a store that is there, beside the listeners and applications that use it.

    Raises:
        ValueError: the URL is none.
        typer.Exit: it lives in another process's memory, or there is none.
    """
    path = store_file(url, "--store")
    if path is None:
        fail(
            "A memory: store can be seen only by its own process. Give the store of a listener, such as sqlite:///inbox.db.",
            Exit.USAGE,
        )
    if not path.exists():
        fail(f"There is no store at {path}. Give --store, or start the listener first.", Exit.UNAVAILABLE)
    store = open_store(url)
    try:
        yield store
    finally:
        await store.aclose()
