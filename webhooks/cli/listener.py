"""The running listener: store, receivers, polling, sockets and admin port, from start-up to the last acknowledged delivery."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from rewards_core.cli.exit_codes import Exit
from rewards_core.errors import StoreError
from webhooks.cli.admin import console_of, open_admin
from webhooks.cli.errors import CannotStart
from webhooks.cli.inbox import Inbox, open_metrics
from webhooks.cli.metric_families import Families, as_text
from webhooks.cli.process_tuning import fit_connections, shrink_tls_buffers
from webhooks.cli.reloading import Reloadable
from webhooks.cli.secret_files import warn_of_open_files
from webhooks.cli.sockets import ListeningSockets, open_sockets
from webhooks.console.watched import Readiness
from webhooks.delivery_watch import Delivery, DeliveryWatch
from webhooks.ingress.acceptor import Acceptor
from webhooks.ingress.hardened_server import HardenedServer
from webhooks.ingress.peers import Networks
from webhooks.refusals import Refusal, Refusals

if TYPE_CHECKING:
    import socket

    from webhooks.cli.settings import ListenerSettings
    from webhooks.delivery_watch import DeliveryFilter, DeliveryObserver

logger = logging.getLogger("webhooks.listener")

DELIVERIES_EVERY = 0.2
"""Seconds between two looks of a console at the deliveries."""


class Listener:
    """Receive deliveries until stopped.

    Args:
        settings: The settings.
        sockets: Listening sockets opened by a supervisor, which also serves the admin port; None opens both here.
        number: The number of this worker; worker 0 maintains the store for all.
        make_server: Makes the server, with the arguments of `HardenedServer`.

    Attributes:
        sees_refusals: For the console: it knows refused deliveries.
        interval: For the console: seconds between two looks at the deliveries.

    Raises:
        ValueError: a setting, a key or a credential is invalid.
    """

    sees_refusals = True
    interval = DELIVERIES_EVERY

    def __init__(
        self,
        settings: ListenerSettings,
        *,
        sockets: Sequence[socket.socket] | None = None,
        number: int = 0,
        make_server: Callable[..., HardenedServer] = HardenedServer,
    ) -> None:
        self._settings = settings
        self._inherited = sockets
        self._make_server = make_server
        self._reloadable = Reloadable(settings)
        if settings.admin is not None:
            settings.admin.hosts()
        self._token = None if settings.admin is None else settings.admin.token()
        self._refusals = Refusals(logger)
        self._metrics = open_metrics(self._refusals.total, None if sockets is None else str(number))
        self._inbox = Inbox(settings, self._reloadable, metrics=self._metrics, maintains=number == 0)
        self._trusted = Networks(settings.trusted, "--trusted-proxy")
        self._allowed = Networks(settings.allowed, "--allow") if settings.allowed else None
        self._deliveries = DeliveryWatch(self._observe)
        self._stop = asyncio.Event()
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
                await self._inbox.open(stack)
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

    async def reload(self) -> None:
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
        return "draining" if self._stop.is_set() else await self._inbox.why_not_ready()

    async def metrics(self) -> bytes | None:
        """Return the metrics; None if the extra `metrics` is not installed."""
        return None if self._metrics is None else as_text([await self.families(), await self.store_families()])

    async def refused(self) -> Sequence[Refusal]:
        """Return the last refusals, newest first."""
        return self._inbox.refused(self._refusals)

    async def deliveries(self, filters: Sequence[DeliveryFilter]) -> Mapping[str, Any]:
        """Return the deliveries since the last call."""
        return self._deliveries.take(filters)

    def rest(self) -> None:
        """Collect no deliveries until they are asked for again."""
        self._deliveries.rest()

    def worker_states(self) -> None:
        """Return None: this process is the only one."""

    async def families(self) -> Families:
        """Return the metrics of this process; none if the extra `metrics` is not installed."""
        return [] if self._metrics is None else await self._metrics.families()

    async def store_families(self) -> Families:
        """Return the metrics of the store; none if the extra `metrics` is not installed."""
        return await self._inbox.store_families()

    async def _listen(self, stack: AsyncExitStack) -> dict[str, Any]:
        settings, context = self._settings, self._reloadable.tls
        self._server = self._make_server(
            self._inbox.receivers,
            limits=settings.limits,
            trusted=self._trusted,
            allowed=self._allowed,
            refusals=self._refusals,
            **({} if self._metrics is None else {"observe": self._metrics.observe}),
        )
        if self._metrics is not None:
            self._metrics.watch_connections(lambda: self._server.open_connections)
        if context is not None:
            shrink_tls_buffers()
        sockets, admin, where = self._inherited, {}, {}
        if sockets is None:
            console = console_of(self, self._inbox.store, settings)
            admin = await open_admin(stack, self, settings.admin, self._token, self._refusals, console)
            self._opened = await open_sockets(settings)
            stack.callback(self._opened.close)
            sockets, where = self._opened.sockets, self._opened.where
        self._acceptor = Acceptor(self._server, context, limits=settings.limits, refusals=self._refusals, trusted=self._trusted)
        stack.push_async_callback(self._acceptor.aclose)
        self._acceptor.open(sockets)
        return settings.startup_record({"paths": settings.paths, **where, **admin})

    def _observe(self, observer: DeliveryObserver | None) -> None:
        """Call this with each delivery, and with each refusal of the server for deliveries."""
        self._refusals.observe(None if observer is None else partial(_tell_refused, observer))
        for path, receiver in self._inbox.receivers.items():
            receiver.observe(None if observer is None else partial(_tell, observer, path))

    async def _drain(self) -> Exit:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.drain_seconds
        if self._opened is not None:
            self._opened.remove_path()
        await self._acceptor.close(min(self._settings.limits.header_seconds, self._settings.drain_seconds * 0.1))
        answered = await self._server.drain(self._settings.drain_seconds * 0.75)
        await self._inbox.drain(max(0.0, end - loop.time() - 1.0))
        return Exit.OK if answered else Exit.NOT_YET


def _tell(observer: DeliveryObserver, path: str, delivery: Delivery) -> None:
    delivery.path = path  # no receiver knows it
    observer(delivery)


def _tell_refused(observer: DeliveryObserver, refusal: Refusal) -> None:
    if refusal.of_delivery:
        observer(Delivery.refused(refusal))
