"""Connections of a command: the vendor's client, webhook keys, and the port or store where webhooks arrive."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from attrs import field, frozen
from attrs.converters import optional

import enkash_async
import original_async
import webhooks
from enkash_async.settings import COINS_BASE_URL, settings_from_env
from original_async import OriginalWebhooks
from original_async.settings import WEBHOOK_KEYS, WEBHOOK_PATH, app_uid_from, base_url_from, options_from
from payouts.ledger.generation import state_folder
from payouts.vendors import ROW_TYPES
from rewards_core import Limits
from rewards_core.base_urls import url_from
from rewards_core.keys import webhook_keys
from webhooks.store import StoreUrl

if TYPE_CHECKING:
    from enkash_async import EnkashClient
    from original_async import OriginalClient
    from webhooks import Completions, Store

VendorClient: TypeAlias = "OriginalClient | EnkashClient"

_SPARE_CONNECTIONS = 20
_MAX_EVENTS = 20_000


def listener_store(name: str | StoreUrl) -> StoreUrl:
    """Return the store of a running listener from its URL, or from the name of its file.

    Raises:
        ValueError: there can be no such store; the message shows no password.
    """
    if isinstance(name, StoreUrl):
        return name
    url = StoreUrl(name if ":" in name else f"sqlite:///{name}", "--store")
    if url.in_memory:
        raise ValueError("--store: no other process can read a store in memory. Name a file. Nothing was sent.")
    return url


@frozen(kw_only=True)
class Listening:
    """How a run learns that accepted rows have settled: by webhooks and by polling.

    Raises:
        ValueError: the options contradict each other.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    path: str = WEBHOOK_PATH
    keys_file: Path | None = None
    store: StoreUrl | None = field(default=None, converter=optional(listener_store))
    poll_after: float = 15.0
    polls_per_second: float = 20.0

    @property
    def receives(self) -> bool:
        """Whether webhooks are received."""
        return self.port is not None or self.store is not None

    def __attrs_post_init__(self) -> None:
        if self.store is not None and self.port is not None:
            raise ValueError("Use --store or --webhook-port, not both. Nothing was sent.")
        if not self.path.startswith("/"):
            raise ValueError("--webhook-path must begin with a slash. Nothing was sent.")


def client_of(vendor: str, concurrency: int = 1, *, may_repeat: bool = False) -> VendorClient:
    """Create the client of a vendor; see `original_client` and `enkash_client`."""
    if ROW_TYPES[vendor].account == "original":
        return original_client(concurrency)
    return enkash_client(concurrency, may_repeat=may_repeat)


def original_client(concurrency: int = 1) -> OriginalClient:
    """Create a client of Original from the environment.

    Raises:
        ValueError: a variable is missing or wrong; the error says what to set.
    """
    return original_async.OriginalClient.from_env(limits=Limits(connections=concurrency + _SPARE_CONNECTIONS))


def enkash_client(concurrency: int = 1, *, may_repeat: bool = False) -> EnkashClient:
    """Create a client of EnKash from the environment; refused token requests are recorded in the user's state folder.

    Raises:
        ValueError: a variable is missing or wrong; the error says what to set.
    """
    limits = Limits(connections=concurrency + _SPARE_CONNECTIONS)
    breakers = enkash_async.FileBreakerStore(state_folder() / "enkash-breaker.json")
    return enkash_async.EnkashClient.from_env(repeat_allocations=may_repeat, limits=limits, breaker_store=breakers)


def target_of(vendor: str) -> str:
    """Return the vendor's base URL from the environment."""
    if ROW_TYPES[vendor].account == "original":
        return base_url_from(os.environ)
    return url_from(os.environ, COINS_BASE_URL) or ""


def check_environment(vendor: str) -> None:
    """Check that a vendor's client can be created from the environment.

    Raises:
        ValueError: a variable is missing or wrong; the error says what to set and shows no value.
    """
    if ROW_TYPES[vendor].account == "original":
        options_from(os.environ, {})
    else:
        settings_from_env({})


def webhook_source(keys_file: Path | None, *, scope: str) -> OriginalWebhooks:
    """Return the verifier of Original's webhooks, with the keys from a file or from the environment.

    Raises:
        ValueError: the keys or the app's uid are missing or wrong; the error says what to set and shows no value.
    """
    return OriginalWebhooks(webhook_keys(keys_file, WEBHOOK_KEYS), scope=scope, app_uid=app_uid_from(os.environ))


@asynccontextmanager
async def completions_of(
    client: OriginalClient, listening: Listening, on_listening: Callable[[str], None] = lambda _: None
) -> AsyncIterator[Completions]:
    """Open completions on the store of a running listener, on a receiver of the run's own, or with polling only.

    Raises:
        ValueError: the keys that sign webhooks are missing, or there is no such store.
        OSError: the port cannot be bound.
        StoreError: the store cannot be opened.
    """
    async with AsyncExitStack() as stack:
        store: Store
        if listening.store is not None:
            store = await _open_listener_store(listening.store)
        else:
            store = webhooks.MemoryStore(max_events=_MAX_EVENTS)
        stack.push_async_callback(store.aclose)
        if listening.port is not None:
            source = await asyncio.to_thread(webhook_source, listening.keys_file, scope=client.scope)
            receiver = await stack.enter_async_context(webhooks.Receiver(source, store))
            served = webhooks.serving({listening.path: receiver}, host=listening.host, port=listening.port)
            on_listening(await stack.enter_async_context(served) + listening.path)
        polling = webhooks.PollPolicy(first_after=listening.poll_after, max_per_second=listening.polls_per_second)
        yield await stack.enter_async_context(webhooks.Completions(client, store, polling=polling))


async def _open_listener_store(url: StoreUrl) -> Store:
    if not await url.exists():
        raise ValueError(f"--store: there is no store at {url}. Start webhook-listener with that store first. Nothing was sent.")
    return await asyncio.to_thread(url.open)
