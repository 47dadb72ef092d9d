"""URLs of stores: what they name, and how they are shown without a password."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from rewards_core.secrets import SecretHolder, shielded
from rewards_core.validation import check_str, shown

if TYPE_CHECKING:
    from rewards_core.postgres.connection import Address
    from webhooks.store.base import Store

MEMORY = "memory:"
_SQLITE = "sqlite:///"
_DATABASES = ("postgresql:", "postgres:")


class StoreUrl(SecretHolder):
    """The URL of a store; its text and its repr show no password.

    Args:
        url: As for `open_store`.
        name: The argument's name, for messages.

    Attributes:
        file: The file of a `SQLiteStore`, None for other stores.
        database: The database of a `PostgresStore`, None for other stores.

    Raises:
        TypeError: the URL is not a str.
        ValueError: the URL names no store, or one whose extra is not installed; nothing of a password is shown.
    """

    __slots__ = ("_shown", "database", "file")

    @shielded
    def __init__(self, url: str, name: str = "store") -> None:
        scheme, colon, _ = check_str(url, name).partition(":")  # the rest may hold a password
        self.file: Path | None = None
        self.database: Address | None = None
        if scheme + colon in _DATABASES:
            try:
                from rewards_core.postgres.connection import address_of  # noqa: PLC0415 - an extra
            except ImportError as missing:
                raise ValueError(f"{name}: {missing}") from None
            self.database = address_of(url, name)
            self._shown = self.database.typed
            return
        self._shown = url
        if url.startswith(_SQLITE) and url.removeprefix(_SQLITE) not in {"", ":memory:"} and "\0" not in url:
            self.file = Path(url.removeprefix(_SQLITE))
        elif url != MEMORY:
            given = f"a URL that begins with {shown(scheme + colon)}" if colon else shown(url)
            raise ValueError(f"{name}: give 'sqlite:///FILE', 'postgresql://USER@HOST/DATABASE' or 'memory:', not {given}.")

    @property
    def in_memory(self) -> bool:
        """Whether it names a store in the memory of its process."""
        return self._shown == MEMORY

    def open(self) -> Store:
        """Return a new store object; its file or database is opened when it is first used."""
        if self.database is not None:
            from webhooks.store.postgres import PostgresStore  # noqa: PLC0415 - import only what this store needs

            return PostgresStore(self.database.url.reveal())
        if self.file is not None:
            from webhooks.store.sqlite import SQLiteStore  # noqa: PLC0415

            return SQLiteStore(self.file)
        from webhooks.store.memory import MemoryStore  # noqa: PLC0415

        return MemoryStore()

    async def exists(self) -> bool:
        """Return whether a listener has made the store; one in memory exists only in its own process.

        Raises:
            StoreError: its database cannot be used.
        """
        if self.database is not None:
            from webhooks.store.postgres_health import has_tables  # noqa: PLC0415 - import only what this store needs

            return await has_tables(self.database)
        return self.file is not None and await asyncio.to_thread(self.file.exists)

    def reveal(self) -> str:
        """Return the URL with its password. Use it in the same expression, so that no local variable holds it."""
        return self._shown if self.database is None else self.database.url.reveal()

    def __str__(self) -> str:
        return self._shown

    def __repr__(self) -> str:
        return f"<StoreUrl {self._shown}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoreUrl) and self.reveal() == other.reveal()

    def __hash__(self) -> int:
        return hash(self._shown)
