"""What a listener has behind its ingress: the store, receivers with their handlers, polling, upkeep, and their metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import aiohttp
from attrs import evolve

from original_async import OriginalClient
from rewards_core.clock import DAY, HOUR
from rewards_core.errors import StoreError
from webhooks.cli.disk_space import free_bytes, watch_space
from webhooks.cli.forwarding import Forwarder
from webhooks.cli.metric_families import Families, families_of
from webhooks.cli.sources import by_path
from webhooks.completions import Completions
from webhooks.polling import PollPolicy
from webhooks.receiver import Receiver
from webhooks.refusals import merged
from webhooks.supervise import RestartPolicy, keep_running

if TYPE_CHECKING:
    from webhooks.cli.metrics import Metrics
    from webhooks.cli.reloading import Reloadable
    from webhooks.cli.settings import ListenerSettings
    from webhooks.refusals import Refusal, Refusals
    from webhooks.store.base import Store

logger = logging.getLogger("webhooks.listener")


def open_metrics(refused: Mapping[str, int], worker: str | None = None) -> Metrics | None:
    """Return the metrics of this process, None if the extra `metrics` is not installed; the arguments are those of `Metrics`."""
    try:
        from webhooks.cli.metrics import Metrics  # noqa: PLC0415 - needs an extra
    except ImportError:
        return None
    return Metrics(refused, worker)


async def store_families(store: Store) -> Families | None:
    """Return the metrics of a store, None if the extra `metrics` is not installed."""
    try:
        from webhooks.cli.metrics import of_store  # noqa: PLC0415 - needs an extra
    except ImportError:
        return None
    try:
        statistics = await store.statistics()
    except StoreError:
        statistics = None  # the other metrics are needed most when the store fails
    return families_of(of_store(statistics, time.time(), await free_bytes(store)))


class Inbox:
    """See the module; it lives until the stack that opened it is closed.

    Args:
        settings: The listener's settings.
        reloadable: The sources with their keys.
        metrics: What this process counts, None if the extra `metrics` is not installed.
        maintains: Whether it removes old events from the store, and watches disk space.

    Attributes:
        store: The store, once it is open.
        receivers: The receiver of each path.
    """

    def __init__(
        self,
        settings: ListenerSettings,
        reloadable: Reloadable,
        *,
        metrics: Metrics | None,
        maintains: bool,
    ) -> None:
        self._settings = settings
        self._reloadable = reloadable
        self._maintains = maintains
        self._metrics = metrics
        self.store: Store
        self.receivers: dict[str, Receiver] = {}

    async def open(self, stack: AsyncExitStack) -> None:
        """Open the store, and start everything; raises `StoreError`, or `ValueError` for a setting or a credential."""
        self.store = self._settings.store.open()
        stack.push_async_callback(self.store.aclose)
        await self.store.ping()
        if self._metrics is not None:
            await self.store.subscribe(self._metrics)
        completions = await self._start_receivers(stack)
        if self._metrics is not None:
            self._metrics.watch(self.receivers, completions)

    async def why_not_ready(self) -> str | None:
        """Return why the store can take no event; None if it can."""
        try:
            await self.store.ping()
        except StoreError as problem:
            return str(problem)
        return None

    def refused(self, others: Refusals) -> Sequence[Refusal]:
        """Return the last refusals of all receivers and others, newest first."""
        received = [evolve(each, path=path) for path, receiver in self.receivers.items() for each in receiver.refused]
        return merged([*others.newest_first(), *received])

    async def store_families(self) -> Families:
        """Return the metrics of the store; none if the extra `metrics` is not installed."""
        return await store_families(self.store) or []

    async def drain(self, seconds: float) -> None:
        """Stop all handlers; those that are running have `seconds` to finish."""
        end = asyncio.get_running_loop().time() + seconds
        for receiver in self.receivers.values():
            await receiver.aclose(max(0.0, end - asyncio.get_running_loop().time()))

    async def _start_receivers(self, stack: AsyncExitStack) -> Completions | None:
        settings, forward, poll = self._settings, self._settings.forward, self._settings.poll
        self.receivers = {
            path: Receiver(
                group,
                self.store,
                handlers=None if forward is None else forward.handlers,
                max_body=settings.max_body,
                body_timeout=settings.body_timeout,
            )
            for path, group in by_path(self._reloadable.sources).items()
        }
        if forward is not None:
            session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), connector=aiohttp.TCPConnector(limit=0))
            await stack.enter_async_context(session)
            forwarder = Forwarder(session, forward.url, timeout=forward.timeout, allow_insecure=forward.allow_insecure)
            for path, receiver in self.receivers.items():
                receiver.on("*", name=f"forward {path}")(forwarder)  # the store keeps its jobs under this name
        for receiver in self.receivers.values():
            await stack.enter_async_context(receiver)
        completions: Completions | None = None
        if poll is not None:
            client = OriginalClient.from_env(scope=poll.scope, allow_insecure=poll.allow_insecure)
            await stack.enter_async_context(client)
            policy = PollPolicy(first_after=poll.first_after, max_per_second=poll.max_per_second)
            completions = await stack.enter_async_context(Completions(client, self.store, polling=policy))
        if self._maintains:
            self._run_in_background(stack, "the upkeep of the store", self._keep_up)
            self._run_in_background(
                stack, "the watch of disk space", lambda: watch_space(self.store, keep_days=settings.keep_days)
            )
        return completions

    def _run_in_background(self, stack: AsyncExitStack, name: str, work: Callable[[], Any]) -> None:
        running = keep_running(work, name=name, policy=RestartPolicy(max_crashes=None), died=lambda _: None)
        task = asyncio.create_task(running, name=name)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        stack.push_async_callback(end)

    async def _keep_up(self) -> None:
        while True:
            settings, bodies = self._settings, self._settings.keep_bodies_days
            await self.store.upkeep(
                keep=settings.keep_days * DAY,
                keep_bodies=None if bodies is None else bodies * DAY,
                keep_dead=settings.keep_dead_days * DAY,
            )
            await asyncio.sleep(HOUR)
