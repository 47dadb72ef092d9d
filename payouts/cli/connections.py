"""What a command is connected to: the vendor's client, the place where webhooks come in, and what waits for them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from enkash_async import EnkashClient, FileBreakerStore
from original_async import OriginalClient, OriginalWebhooks
from original_async.settings import BASE_URLS
from vendor_http import Limits
from webhooks import Completions, MemoryStore, PollPolicy, Receiver
from webhooks.ingress.armour import ArmouredServer
from webhooks.store.sqlite import SQLiteStore

if TYPE_CHECKING:
    from webhooks import Store

KEYS_VARIABLE = "ORIGINAL_WEBHOOK_KEYS"

_SPARE_CONNECTIONS = 20
_MOST_EVENTS = 20_000


@frozen(kw_only=True)
class Listening:
    """Where news comes from; times in seconds.

    Attributes:
        host: Address of the embedded receiver.
        port: Its port, 0 takes a free one; None for no receiver.
        path: Where deliveries come in.
        store: The store of a standalone listener, None for none.
        poll_after: When a row is first asked about.
        polls_per_second: Over all rows.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    path: str = "/webhooks/original"
    store: Path | None = None
    poll_after: float = 15.0
    polls_per_second: float = 20.0


def original_client(concurrency: int) -> OriginalClient:
    """Make a client from the environment.

    Raises:
        ValueError: a variable is missing or wrong.
    """
    return OriginalClient.from_env(limits=Limits(connections=concurrency + _SPARE_CONNECTIONS))


def enkash_client(concurrency: int, *, may_repeat: bool) -> EnkashClient:
    """Make a client from the environment; refused token requests are remembered in the user's state folder.

    Raises:
        ValueError: a variable is missing or wrong.
    """
    return EnkashClient.from_env(
        repeat_allocations=may_repeat,
        limits=Limits(connections=concurrency + _SPARE_CONNECTIONS),
        breaker_store=FileBreakerStore(_state_folder() / "enkash-breaker.json"),
    )


def client_of(vendor: str, concurrency: int = 1, *, may_repeat: bool = False) -> Any:
    """Make the client of a vendor from the environment.

    Raises:
        ValueError: a variable is missing or wrong.
    """
    return original_client(concurrency) if vendor == "original" else enkash_client(concurrency, may_repeat=may_repeat)


def target_of(vendor: str) -> str:
    """Return where the money goes out, as the environment says."""
    if vendor == "enkash":
        return os.environ.get("ENKASH_COINS_BASE_URL", "")
    environment = os.environ.get("ORIGINAL_ENVIRONMENT") or "production"
    return os.environ.get("ORIGINAL_BASE_URL") or BASE_URLS.get(environment, environment)


def webhook_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """Read the keys that sign webhooks: `ID:SECRET` pairs in `ORIGINAL_WEBHOOK_KEYS`, parted by commas or white space.

    Raises:
        ValueError: there is none, or a pair is not one. Nothing of a secret is in the text.
    """
    keys: dict[str, str] = {}
    for number, pair in enumerate(environ.get(KEYS_VARIABLE, "").replace(",", " ").split(), 1):
        key_id, _, secret = pair.partition(":")
        if not key_id or not secret:
            raise ValueError(f"{KEYS_VARIABLE}: expected ID:SECRET pairs, got something else as pair {number}")
        keys[key_id] = secret
    if not keys:
        raise ValueError(f"{KEYS_VARIABLE}: expected ID:SECRET pairs in the environment, got none; set it beside --webhook-port")
    return keys


@asynccontextmanager
async def completions_of(client: OriginalClient, listening: Listening) -> AsyncIterator[Completions]:
    """Wait for rows with the standalone listener's store, with a receiver of our own, or by polling alone.

    Raises:
        ValueError: the keys that sign webhooks are missing.
        OSError: the port cannot be had.
        StoreError: the store cannot be opened.
    """
    async with AsyncExitStack() as stack:
        store: Store
        if listening.store is not None:
            store = SQLiteStore(listening.store, read_only=True)
        else:
            store = MemoryStore(max_events=_MOST_EVENTS)
        stack.push_async_callback(store.aclose)
        if listening.port is not None:
            source = OriginalWebhooks(webhook_keys(os.environ), scope=client.scope)
            receiver = await stack.enter_async_context(Receiver(source, store))
            await stack.enter_async_context(_serving(receiver, listening))
        polling = PollPolicy(first_after=listening.poll_after, max_per_second=listening.polls_per_second)
        yield await stack.enter_async_context(Completions(client, store, polling=polling))


@asynccontextmanager
async def _serving(receiver: Receiver, listening: Listening) -> AsyncIterator[None]:
    armour = ArmouredServer({listening.path: receiver})
    server = await asyncio.get_running_loop().create_server(armour, listening.host, listening.port)
    try:
        yield
    finally:
        server.close()
        await armour.drain(5.0)
        await server.wait_closed()


def _state_folder() -> Path:
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "rewards-async"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
