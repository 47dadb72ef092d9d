"""Which store a URL names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rewards_core.validation import check_str, shown

if TYPE_CHECKING:
    from webhooks.store.base import Store

_MEMORY = "memory:"
_SQLITE = "sqlite:///"


def open_store(url: str) -> Store:
    """Return the store that a URL names; its file is opened when the store is first used.

    Args:
        url: `"memory:"`, `"sqlite:///inbox.db"` (in the working directory) or `"sqlite:////var/lib/inbox.db"`.

    Raises:
        TypeError: it is not a str.
        ValueError: it names no store.
    """
    path = store_file(url)
    if path is None:
        from webhooks.store.memory import MemoryStore  # noqa: PLC0415 - each store brings its own needs

        return MemoryStore()
    from webhooks.store.sqlite import SQLiteStore  # noqa: PLC0415

    return SQLiteStore(path)


def store_file(url: str, name: str = "store") -> Path | None:
    """Return the file of the store that a URL names, None if it has none.

    Args:
        url: As for `open_store`.
        name: What the caller calls it, for messages.

    Raises:
        TypeError: it is not a str.
        ValueError: it names no store.
    """
    if check_str(url, name) == _MEMORY:
        return None
    if not url.startswith(_SQLITE) or len(url) == len(_SQLITE) or "\0" in url:
        scheme, colon, _ = url.partition(":")  # what follows may hold a password
        given = f"a URL that begins with {shown(scheme + colon)}" if colon else shown(url)
        raise ValueError(f"{name}: give 'sqlite:///FILE' or 'memory:', not {given}.")
    return Path(url.removeprefix(_SQLITE))
