"""Where events, outcomes and pending operations are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rewards_core.secrets import shielded
from webhooks.store.urls import StoreUrl

if TYPE_CHECKING:
    from webhooks.store.base import Store

__all__ = ["StoreUrl", "open_store"]


@shielded
def open_store(url: str) -> Store:
    """Return the store of a URL. Its file or database is opened when the store is first used.

    Args:
        url: `"memory:"`, `"sqlite:///inbox.db"` (in the working directory), `"sqlite:////var/lib/inbox.db"` or
            `"postgresql://user@host/database"`.

    Raises:
        TypeError: the URL is not a str.
        ValueError: the URL names no store, or one whose extra is not installed.
    """
    return StoreUrl(url).open()
