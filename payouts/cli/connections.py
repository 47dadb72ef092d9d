"""What a command connects to: the vendor's client, the port or store that webhooks arrive at, and what waits for them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attrs import frozen

import enkash_async
import original_async
import webhooks
from enkash_async.settings import COINS_BASE_URL
from original_async.settings import WEBHOOK_PATH, base_url_from
from payouts.cli.credentials import webhook_source
from payouts.ledger.generation import state_folder
from payouts.ledger.lock import LedgerLock
from rewards_core import Limits
from rewards_core.environment import url_from
from webhooks.store import store_file

if TYPE_CHECKING:
    from original_async import OriginalClient
    from webhooks import Completions, Receiver, SQLiteStore, Store

_SPARE_CONNECTIONS = 20
_MOST_EVENTS = 20_000


@frozen(kw_only=True)
class Listening:
    """How a run learns that accepted rows are settled: by webhooks, and by polling.

    Attributes:
        host: Address of the run's own receiver.
        port: Its port; 0 takes a free one, None starts no receiver.
        path: The path that webhooks are sent to.
        keys_file: The file of the keys that sign webhooks; None reads them from the environment.
        store: The store of a running webhook-listener, as a path or a URL; None uses none.
        poll_after: Seconds before a row is first polled.
        polls_per_second: The limit over all rows.

    Raises:
        ValueError: the options contradict each other.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    path: str = WEBHOOK_PATH
    keys_file: Path | None = None
    store: str | None = None
    poll_after: float = 15.0
    polls_per_second: float = 20.0

    @property
    def hears(self) -> bool:
        """Whether webhooks are received."""
        return self.port is not None or self.store is not None

    def __attrs_post_init__(self) -> None:
        if self.store is not None and self.port is not None:
            raise ValueError("Use --store or --webhook-port, not both. Nothing was sent.")
        if not self.path.startswith("/"):
            raise ValueError("--webhook-path must begin with a slash. Nothing was sent.")


@contextmanager
def locked(ledger: Path) -> Iterator[LedgerLock]:
    """Keep every other process away from a ledger.

    Raises:
        LedgerError: another process has it, or it cannot be locked.
    """
    lock = LedgerLock(ledger)
    lock.acquire()
    try:
        yield lock
    finally:
        lock.release()


def client_of(vendor: str, concurrency: int = 1, *, may_repeat: bool = False) -> Any:
    """Make the client of a vendor from the environment.

    Refused token requests of EnKash are remembered in the user's state folder.

    Args:
        vendor: `"original"` or `"enkash"`.
        concurrency: Requests under way at once.
        may_repeat: Whether EnKash is known to pay a repeated request id only once.

    Raises:
        ValueError: a variable is missing or wrong; the text says what to set.
    """
    limits = Limits(connections=concurrency + _SPARE_CONNECTIONS)
    if vendor == "original":
        return original_async.OriginalClient.from_env(limits=limits)
    breakers = enkash_async.FileBreakerStore(state_folder() / "enkash-breaker.json")
    return enkash_async.EnkashClient.from_env(repeat_allocations=may_repeat, limits=limits, breaker_store=breakers)


def target_of(vendor: str) -> str:
    """Return the base URL that the vendor is paid through, as an environment says from which its client can be made."""
    if vendor == "enkash":
        return url_from(os.environ, COINS_BASE_URL) or ""
    return base_url_from(os.environ)


@asynccontextmanager
async def completions_of(
    client: OriginalClient, listening: Listening, on_listening: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Completions]:
    """Wait for accepted rows with the store of a running listener, with a receiver of the run's own, or by polling only.

    Args:
        client: Polls the vendor.
        listening: How to learn that rows are settled.
        on_listening: Called with the URL of the run's own receiver.

    Raises:
        ValueError: the keys that sign webhooks are missing, or there is no such store.
        OSError: the port cannot be bound.
        StoreError: the store cannot be opened.
    """
    async with AsyncExitStack() as stack:
        store: Store
        if listening.store is not None:
            store = await asyncio.to_thread(_listeners_store, listening.store)
        else:
            store = webhooks.MemoryStore(max_events=_MOST_EVENTS)
        stack.push_async_callback(store.aclose)
        await store.ping()
        if listening.port is not None:
            source = await asyncio.to_thread(webhook_source, listening.keys_file, scope=client.scope)
            receiver = await stack.enter_async_context(webhooks.Receiver(source, store))
            on_listening(await stack.enter_async_context(_serving(receiver, listening)))
        polling = webhooks.PollPolicy(first_after=listening.poll_after, max_per_second=listening.polls_per_second)
        yield await stack.enter_async_context(webhooks.Completions(client, store, polling=polling))


def _listeners_store(name: str) -> SQLiteStore:
    path = store_file(name, "--store") if ":" in name else Path(name)
    if path is None:
        raise ValueError("--store: a store in memory can only be read by its own process. Name a file. Nothing was sent.")
    if not path.exists():
        raise ValueError(f"--store: there is no file {path}. Start webhook-listener with that store first. Nothing was sent.")
    return webhooks.SQLiteStore(path)


@asynccontextmanager
async def _serving(receiver: Receiver, listening: Listening) -> AsyncIterator[str]:
    from webhooks.ingress.hardened_server import HardenedServer  # noqa: PLC0415 - few runs listen, and it imports aiohttp

    hardened = HardenedServer({listening.path: receiver})
    server = await asyncio.get_running_loop().create_server(hardened, listening.host, listening.port)
    host, port = server.sockets[0].getsockname()[:2]
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}{listening.path}"
    finally:
        server.close()
        await hardened.drain(5.0)
        await server.wait_closed()
