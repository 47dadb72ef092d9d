"""Where events, outcomes and pending operations are stored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rewards_core.validation import check_str, shown

if TYPE_CHECKING:
    from webhooks.store.base import Store

__all__ = ["open_store", "store_file"]

_MEMORY = "memory:"
_SQLITE = "sqlite:///"


def open_store(url: str) -> Store:
    """Return the store of a URL. Its file is opened when the store is first used.

    Args:
        url: `"memory:"`, `"sqlite:///inbox.db"` (in the working directory) or `"sqlite:////var/lib/inbox.db"`.

    Raises:
        TypeError: the URL is not a str.
        ValueError: the URL names no store.
    """
    path = store_file(url)
    if path is None:
        from webhooks.store.memory import MemoryStore  # noqa: PLC0415 - import only what this store needs

        return MemoryStore()
    from webhooks.store.sqlite import SQLiteStore  # noqa: PLC0415

    return SQLiteStore(path)


def store_file(url: str, name: str = "store") -> Path | None:
    """Return the file of the store of a URL, None if it is in memory.

    Args:
        url: As for `open_store`.
        name: The argument's name, for messages.

    Raises:
        TypeError: the URL is not a str.
        ValueError: the URL names no store.
    """
    if check_str(url, name) == _MEMORY:
        return None
    if not url.startswith(_SQLITE) or len(url) == len(_SQLITE) or "\0" in url:
        scheme, colon, _ = url.partition(":")  # the rest may hold a password
        given = f"a URL that begins with {shown(scheme + colon)}" if colon else shown(url)
        raise ValueError(f"{name}: give 'sqlite:///FILE' or 'memory:', not {given}.")
    return Path(url.removeprefix(_SQLITE))
