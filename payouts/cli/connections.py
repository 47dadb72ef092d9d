"""What a command is connected to: the vendor's client, the place where webhooks come in, and what waits for them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

from enkash_async import EnkashClient, FileBreakerStore
from original_async import OriginalClient, OriginalWebhooks
from original_async.settings import BASE_URLS
from vendor_http import Limits
from webhooks import Completions, MemoryStore, PollPolicy, Receiver
from webhooks.cli.sources import APP_VARIABLE, DEFAULT_PATH, SourceSpec, read_keys
from webhooks.cli.stores import store_path
from webhooks.ingress.armour import ArmouredServer
from webhooks.store.sqlite import SQLiteStore

if TYPE_CHECKING:
    from webhooks import Store

_SPARE_CONNECTIONS = 20
_MOST_EVENTS = 20_000


@frozen(kw_only=True)
class Listening:
    """Where news comes from; times in seconds.

    Attributes:
        host: Address of the embedded receiver.
        port: Its port, 0 takes a free one; None for no receiver.
        path: Where deliveries come in.
        keys_file: Where the keys stand that sign webhooks, None for the environment.
        store: The store of a standalone listener, as a path or as the listener names it; None for none.
        poll_after: When a row is first asked about.
        polls_per_second: Over all rows.

    Raises:
        ValueError: the parts do not fit together.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    path: str = DEFAULT_PATH
    keys_file: Path | None = None
    store: str | None = None
    poll_after: float = 15.0
    polls_per_second: float = 20.0

    @property
    def hears(self) -> bool:
        """Whether webhooks come in."""
        return self.port is not None or self.store is not None

    def __attrs_post_init__(self) -> None:
        if self.store is not None and self.port is not None:
            raise ValueError("expected --store or --webhook-port, got both; news comes in at one place")
        if not self.path.startswith("/"):
            raise ValueError(f"--webhook-path: expected a path that begins with '/', got {self.path[:80]!a}")


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


@asynccontextmanager
async def completions_of(
    client: OriginalClient, listening: Listening, on_listening: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Completions]:
    """Wait for rows with the standalone listener's store, with a receiver of our own, or by polling alone.

    Args:
        client: Asks the vendor.
        listening: Where news comes from.
        on_listening: Called with the URL of our own receiver.

    Raises:
        ValueError: the keys that sign webhooks are missing, or there is no such store.
        OSError: the port cannot be had.
        StoreError: the store cannot be opened.
    """
    async with AsyncExitStack() as stack:
        store: Store
        if listening.store is not None:
            store = await asyncio.to_thread(_listeners_store, listening.store)
        else:
            store = MemoryStore(max_events=_MOST_EVENTS)
        stack.push_async_callback(store.aclose)
        await store.ping()
        if listening.port is not None:
            spec = SourceSpec(keys_file=listening.keys_file)
            app_uid = os.environ.get(APP_VARIABLE) or None
            keys = await asyncio.to_thread(read_keys, spec, os.environ)
            source = OriginalWebhooks(keys, scope=client.scope, app_uid=app_uid)
            receiver = await stack.enter_async_context(Receiver(source, store))
            on_listening(await stack.enter_async_context(_serving(receiver, listening)))
        polling = PollPolicy(first_after=listening.poll_after, max_per_second=listening.polls_per_second)
        yield await stack.enter_async_context(Completions(client, store, polling=polling))


def _listeners_store(name: str) -> SQLiteStore:
    path = store_path(name) if ":" in name else Path(name)
    if path is None:
        raise ValueError("--store: expected a store in a file, got memory:, which only its own process can see")
    if not path.exists():
        raise ValueError(
            f"--store: expected the store of a running webhook-listener at {path}, "
            "there is no such file; start the listener first"
        )
    return SQLiteStore(path, read_only=True)


@asynccontextmanager
async def _serving(receiver: Receiver, listening: Listening) -> AsyncIterator[str]:
    armour = ArmouredServer({listening.path: receiver})
    server = await asyncio.get_running_loop().create_server(armour, listening.host, listening.port)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}{listening.path}"
    finally:
        server.close()
        await armour.drain(5.0)
        await server.wait_closed()


def _state_folder() -> Path:
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "rewards-async"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
