"""The running listener: store, receivers, polling, sockets and admin port, from start-up to the last acknowledged delivery."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NoReturn

import aiohttp
from attrs import evolve

from original_async import OriginalClient
from rewards_core.cli.exit_codes import Exit
from rewards_core.clock import DAY, HOUR
from rewards_core.errors import StoreError
from webhooks.cli.admin import Readiness, open_admin
from webhooks.cli.disk_space import watch_space
from webhooks.cli.errors import CannotStart
from webhooks.cli.forwarding import Forwarder
from webhooks.cli.metrics import Metrics, as_text, store_families
from webhooks.cli.process_tuning import fit_connections, shrink_tls_buffers
from webhooks.cli.reloading import Reloadable
from webhooks.cli.secret_files import warn_of_open_files
from webhooks.cli.sockets import ListeningSockets, open_sockets
from webhooks.cli.sources import by_path
from webhooks.completions import Completions
from webhooks.ingress.acceptor import Acceptor
from webhooks.ingress.hardened_server import HardenedServer
from webhooks.ingress.peers import Networks
from webhooks.polling import PollPolicy
from webhooks.receiver import Receiver
from webhooks.refusals import Refusal, Refusals, merged
from webhooks.store import open_store, store_file
from webhooks.supervise import RestartPolicy, keep_running

if TYPE_CHECKING:
    import socket

    from webhooks.cli.metrics import Families
    from webhooks.cli.settings import ListenerSettings
    from webhooks.store.base import Store

logger = logging.getLogger("webhooks.listener")


class Listener:
    """Receive deliveries until stopped.

    Args:
        settings: The settings.
        clock: Unix time in seconds.
        sockets: Listening sockets opened by a supervisor, which also serves the admin port; None opens both here.
        number: The number of this worker; worker 0 maintains the store for all.
        make_server: Makes the server, with the arguments of `HardenedServer`.

    Raises:
        ValueError: a setting, a key or a credential is invalid.
    """

    def __init__(
        self,
        settings: ListenerSettings,
        clock: Callable[[], float] = time.time,
        *,
        sockets: Sequence[socket.socket] | None = None,
        number: int = 0,
        make_server: Callable[..., HardenedServer] = HardenedServer,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._inherited = sockets
        self._number = number
        self._make_server = make_server
        self._reloadable = Reloadable(settings)
        store_file(settings.store, "--store")
        if settings.admin is not None:
            settings.admin.hosts()
        self._token = None if settings.admin is None else settings.admin.token()
        self._refusals = Refusals(logger, clock=clock)
        self._trusted = Networks(settings.trusted, "--trusted-proxy")
        self._allowed = Networks(settings.allowed, "--allow") if settings.allowed else None
        self._stop = asyncio.Event()
        self._receivers: dict[str, Receiver] = {}
        self._completions: Completions | None = None
        self._metrics = Metrics()
        self._store: Store
        self._server: HardenedServer
        self._opened: ListeningSockets | None = None
        self._acceptor: Acceptor

    async def run(self, started: Callable[[Mapping[str, Any]], None]) -> Exit:
        """Serve until `stop`, then drain.

        Args:
            started: Called once with where the listener listens.

        Returns:
            `Exit.OK` if every delivery in progress was answered, `Exit.NOT_YET` if some were cut off.

        Raises:
            CannotStart: a socket or the store cannot be opened.
            ValueError: a setting or a credential is invalid.
        """
        self._settings = fit_connections(self._settings)
        if self._inherited is None:  # otherwise the supervisor warns
            warn_of_open_files(self._settings)
        async with AsyncExitStack() as stack:
            try:
                self._store = await self._open_store(stack)
                await self._start_receivers(stack)
                where = await self._listen(stack)
            except (OSError, StoreError) as problem:
                raise CannotStart(f"could not start: {problem}", Exit.UNAVAILABLE) from None
            started(where)
            await self._stop.wait()
            return await self._drain()

    def stop(self) -> None:
        """Begin to drain."""
        self._stop.set()

    def abort(self) -> NoReturn:
        """End the process now; deliveries in progress are not answered."""
        os._exit(Exit.NOT_YET)

    def reload(self) -> None:
        """Reload keys and certificate; if one is invalid, none is replaced."""
        self._reloadable.reload()
        if self._inherited is None:  # otherwise the supervisor warns
            warn_of_open_files(self._settings)

    async def readiness(self) -> Readiness:
        """Return whether deliveries should be sent here now."""
        reason = await self.why_not_ready()
        return Readiness(ready=reason is None, reasons=() if reason is None else (reason,))

    async def why_not_ready(self) -> str | None:
        """Return why no delivery should be sent here now; None if it should."""
        if self._stop.is_set():
            return "draining"
        try:
            await self._store.ping()
        except StoreError as problem:
            return str(problem)
        return None

    async def metrics(self) -> bytes | None:
        """Return the metrics; None if the extra is not installed."""
        return as_text([*self.families(), *await self.store_families()])

    async def refused(self) -> Sequence[Refusal]:
        """Return the last refusals, newest first."""
        by_receivers = (evolve(each, path=path) for path, receiver in self._receivers.items() for each in receiver.refused)
        return merged([*self._refusals.newest_first(), *by_receivers])

    def families(self) -> Families:
        """Return the metrics of this process."""
        return self._metrics.families(
            receivers={path: receiver.statistics for path, receiver in self._receivers.items()},
            refused=self._refusals.total,
            connections=self._server.open_connections,
            completions=None if self._completions is None else self._completions.statistics,
        )

    async def store_families(self) -> Families:
        """Return the metrics of the store."""
        try:
            statistics = await self._store.statistics()
        except StoreError:
            statistics = None  # the other metrics are needed most when the store fails
        return store_families(statistics, self._clock())

    async def _open_store(self, stack: AsyncExitStack) -> Store:
        store = open_store(self._settings.store)
        stack.push_async_callback(store.aclose)
        await store.ping()
        await store.subscribe(self._metrics)
        return store

    async def _start_receivers(self, stack: AsyncExitStack) -> None:
        settings, forward, poll = self._settings, self._settings.forward, self._settings.poll
        self._receivers = {
            path: Receiver(
                group,
                self._store,
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
            for path, receiver in self._receivers.items():
                receiver.on("*", name=f"forward {path}")(forwarder)  # the store keeps its jobs under this name
        for receiver in self._receivers.values():
            await stack.enter_async_context(receiver)
        if poll is not None:
            client = OriginalClient.from_env(scope=poll.scope, allow_insecure=poll.allow_insecure)
            await stack.enter_async_context(client)
            policy = PollPolicy(first_after=poll.first_after, max_per_second=poll.max_per_second)
            self._completions = await stack.enter_async_context(Completions(client, self._store, polling=policy))
        if self._number == 0:
            self._run_in_background(stack, "the upkeep of the store", self._keep_up)
            self._run_in_background(
                stack, "the watch of disk space", lambda: watch_space(self._store, keep_days=settings.keep_days)
            )
        self._server = self._make_server(
            self._receivers,
            limits=settings.limits,
            trusted=self._trusted,
            allowed=self._allowed,
            refusals=self._refusals,
            observe=self._metrics.observe,
        )

    async def _listen(self, stack: AsyncExitStack) -> dict[str, Any]:
        settings, context = self._settings, self._reloadable.tls
        if context is not None:
            shrink_tls_buffers()
        sockets, admin, where = self._inherited, {}, {}
        if sockets is None:
            admin = await open_admin(stack, self, settings.admin, self._token, self._refusals)
            self._opened = await open_sockets(settings)
            stack.callback(self._opened.close)
            sockets, where = self._opened.sockets, self._opened.where
        self._acceptor = Acceptor(self._server, context, limits=settings.limits, refusals=self._refusals, trusted=self._trusted)
        stack.push_async_callback(self._acceptor.aclose)
        self._acceptor.open(sockets)
        return startup_record(settings, where | admin)

    async def _drain(self) -> Exit:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.drain_seconds
        if self._opened is not None:
            self._opened.remove_path()
        await self._acceptor.close(min(self._settings.limits.header_seconds, self._settings.drain_seconds * 0.1))
        answered = await self._server.drain(self._settings.drain_seconds * 0.75)
        for receiver in self._receivers.values():
            await receiver.aclose(max(0.0, end - loop.time() - 1.0))
        return Exit.OK if answered else Exit.NOT_YET

    def _run_in_background(self, stack: AsyncExitStack, name: str, work: Callable[[], Any]) -> None:
        running = keep_running(work, name=name, policy=RestartPolicy(deaths=None), died=lambda _: None)
        task = asyncio.create_task(running, name=name)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        stack.push_async_callback(end)

    async def _keep_up(self) -> None:
        while True:
            settings, bodies = self._settings, self._settings.keep_bodies_days
            await self._store.upkeep(
                keep=settings.keep_days * DAY,
                keep_bodies=None if bodies is None else bodies * DAY,
                keep_dead=settings.keep_dead_days * DAY,
            )
            await asyncio.sleep(HOUR)


def startup_record(settings: ListenerSettings, where: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record that a listener prints when it has started."""
    return {
        "store": settings.store,
        "paths": sorted({spec.path for spec in settings.sources}),
        **where,
        "polling": settings.poll is not None,
        "poll_scope": None if settings.poll is None else settings.poll.scope,
        "forward_to": None if settings.forward is None else settings.forward.url,
    }
