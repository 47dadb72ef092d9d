"""Which store a command means, and how to open it."""

from __future__ import annotations

import glob
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
async def opened(url: str) -> AsyncIterator[Store]:
    """Open a store that is there, beside the listeners and applications that use it.

    Raises:
        ValueError: the URL names no store.
        typer.Exit: as `path_of`.
    """
    path_of(url)
    store = open_store(url)
    try:
        yield store
    finally:
        await store.aclose()


def path_of(url: str) -> Path:
    """Return the file of a store that is there.

    Raises:
        ValueError: the URL names no store.
        typer.Exit: the store lives in another process's memory, or is not there; nothing was made.
    """
    path = store_file(url, "--store")
    if path is None:
        fail(
            "--store: only its own process sees a memory: store. Name the store of a listener, such as sqlite:///inbox.db.",
            Exit.USAGE,
        )
    if not path.exists():
        fail(f"There is no store at {path.absolute()}. Name another with --store, or start the listener first.", Exit.UNAVAILABLE)
    return path


def backups_beside(path: Path) -> list[Path]:
    """Return the backups that were made beside a store when an older layout was brought to a newer one."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.layout-*.backup"))
