"""Changes to a store: through the listener that writes it, or directly when none runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import fail
from webhooks.cli.stores import admin_socket, store_path
from webhooks.store.sqlite import SQLiteStore

T = TypeVar("T")


async def ask_listener(socket: Path, name: str, words: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the running listener answers, None if none runs.

    Raises:
        typer.Exit: it refused, or answered nonsense.
    """
    import aiohttp  # noqa: PLC0415 - most commands ask no listener

    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session,
            session.post(f"http://listener/{name}", json=words) as answer,
        ):
            found = await answer.json()
    except (aiohttp.ClientConnectorError, FileNotFoundError, ConnectionRefusedError):
        return None
    except (aiohttp.ClientError, OSError, ValueError) as problem:
        fail(f"expected the listener to answer, got {type(problem).__name__}", Exit.UNAVAILABLE)
    if answer.status != 200:
        fail(str(found.get("error", answer.status)), Exit.UNAVAILABLE if answer.status >= 500 else Exit.REFUSED)
    return dict(found)


@asynccontextmanager
async def writing(url: str) -> AsyncIterator[SQLiteStore]:
    """Open the store's file to write it, as no listener runs.

    Raises:
        typer.Exit: another program writes it.
    """
    path = store_path(url)
    if path is None or not path.exists():
        fail(f"expected a listener, or a store in a file, got neither at {url}", Exit.UNAVAILABLE)
    store = SQLiteStore(path)
    try:
        if store.read_only:
            fail(f"expected a listener, or nobody, to write {path}, got another program; ask that program", Exit.UNAVAILABLE)
        yield store
    finally:
        await store.aclose()


async def change(
    url: str, socket: Path | None, name: str, words: dict[str, Any], directly: Callable[[SQLiteStore], Awaitable[int]]
) -> int:
    """Let the listener do it, or do it directly; return how many events it concerned."""
    where = admin_socket(url, socket)
    if where is not None:
        answer = await ask_listener(where, name, words)
        if answer is not None:
            return int(answer["events"])
    async with writing(url) as store:
        return await directly(store)
