"""The listener as a running thing: everything wired together, from the first socket to the last acknowledged delivery."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, NoReturn

import aiohttp

from original_async import OriginalClient
from rewards_core.cli.exit_codes import Exit
from rewards_core.clock import DAY, HOUR
from rewards_core.errors import StoreError
from webhooks.cli.admin import Readiness, open_admin
from webhooks.cli.errors import CannotStart
from webhooks.cli.forwarding import Forwarder
from webhooks.cli.open_files import fit_connections
from webhooks.cli.refusal_lists import at_path
from webhooks.cli.reloading import Reloadable
from webhooks.cli.secret_files import warn_of_open_files
from webhooks.cli.sockets import ListeningSockets, open_sockets
from webhooks.cli.sources import ReloadableSource, by_path
from webhooks.cli.space import watch_space
from webhooks.cli.tuning import read_tls_in_small_pieces
from webhooks.completions import Completions
from webhooks.ingress.armour import ArmouredServer
from webhooks.ingress.gate import Gate
from webhooks.ingress.peers import Networks
from webhooks.polling import PollPolicy
from webhooks.receiver import Receiver
from webhooks.refusals import Refusal, Refusals, merged
from webhooks.store import open_store, store_file
from webhooks.supervise import RestartPolicy, keep_running

if TYPE_CHECKING:
    import socket

    from webhooks.cli.metrics import Metrics
    from webhooks.cli.settings import ListenerSettings
    from webhooks.cli.totals import Families
    from webhooks.store.base import Store

logger = logging.getLogger("webhooks.listener")


def _forward_name(path: str) -> str:
    """Return the name under which the jobs of forwarding are kept."""
    return f"forward {path}"


def _receivers_of(settings: ListenerSettings, store: Store, sources: Sequence[ReloadableSource]) -> dict[str, Receiver]:
    """Return the receiver of each path."""
    policy = None if settings.forward is None else settings.forward.handlers
    return {
        path: Receiver(group, store, handlers=policy, max_body=settings.max_body, body_timeout=settings.body_timeout)
        for path, group in by_path(sources).items()
    }


class Listener:
    """Take deliveries until told to stop.

    Args:
        settings: What it is told.
        clock: Unix time in seconds.
        sockets: Where deliveries arrive, opened by a supervisor, which also serves the admin port; None opens both here.
        number: Which of a supervisor's workers this is; number 0 looks after the store for all.
        armoured: Makes the server; it takes what `ArmouredServer` takes.

    Raises:
        ValueError: a setting, a key or a credential cannot be what it should.
    """

    def __init__(
        self,
        settings: ListenerSettings,
        clock: Callable[[], float] = time.time,
        *,
        sockets: Sequence[socket.socket] | None = None,
        number: int = 0,
        armoured: Callable[..., ArmouredServer] = ArmouredServer,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._inherited = sockets
        self._number = number
        self._armoured = armoured
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
        self._metrics = _metrics()
        self._store: Store
        self._armour: ArmouredServer
        self._opened: ListeningSockets | None = None
        self._gate: Gate

    async def run(self, started: Callable[[Mapping[str, Any]], None]) -> Exit:
        """Serve until `stop`, then drain.

        Args:
            started: Hears once where the listener listens.

        Returns:
            `Exit.OK` if every delivery under way was answered, `Exit.NOT_YET` if some had to be cut off.

        Raises:
            CannotStart: a socket or the store cannot be had.
            ValueError: a setting or a credential cannot be what it should.
        """
        self._settings = fit_connections(self._settings)
        if self._inherited is None:  # else the supervisor said it
            warn_of_open_files(self._settings)
        async with AsyncExitStack() as stack:
            try:
                self._store = await self._open_store(stack)
                await self._wire(stack)
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
        """End the process now; what is under way is not answered."""
        os._exit(Exit.NOT_YET)

    def reload(self) -> None:
        """Reload keys and certificate; if one cannot be used, all stay as they were."""
        self._reloadable.reload()
        if self._inherited is None:  # else the supervisor says it
            warn_of_open_files(self._settings)

    async def readiness(self) -> Readiness:
        """Return whether deliveries should be sent here now."""
        reason = await self.why_not_ready()
        return Readiness(ready=reason is None, reasons=() if reason is None else (reason,))

    async def why_not_ready(self) -> str | None:
        """Return why no delivery should be sent here now, None if it should."""
        if self._stop.is_set():
            return "draining"
        try:
            await self._store.ping()
        except StoreError as problem:
            return str(problem)
        return None

    async def metrics(self) -> bytes | None:
        """Return the metrics, None if the extra is missing."""
        if self._metrics is None:
            return None
        from webhooks.cli.metrics import as_text  # noqa: PLC0415 - needs the extra, which is there

        return as_text([*self.counted(), *await self.held()])

    async def refused(self) -> Sequence[Refusal]:
        """Return what was refused last, newest first."""
        return self.refused_here()

    def refused_here(self) -> Sequence[Refusal]:
        """Return what this process refused last, newest first."""
        of_paths = [each for path, receiver in self._receivers.items() for each in at_path(path, receiver.refused)]
        return merged([*self._refusals.newest_first(), *of_paths])

    def counted(self) -> Families:
        """Return what this process counts; nothing if the extra is missing."""
        if self._metrics is None:
            return []
        from webhooks.cli.metrics import Snapshot  # noqa: PLC0415 - as above

        return self._metrics.counted(
            Snapshot(
                receivers={path: receiver.statistics for path, receiver in self._receivers.items()},
                refused=self._refusals.total,
                connections=self._armour.open_connections,
                completions=None if self._completions is None else self._completions.statistics,
            )
        )

    async def held(self) -> Families:
        """Return what the store holds; the extra is there."""
        from webhooks.cli.metrics import held  # noqa: PLC0415 - as above

        try:
            statistics = await self._store.statistics()
        except StoreError:
            statistics = None  # what this process counted is shown all the same, and most needed then
        return held(statistics, self._clock())

    async def _open_store(self, stack: AsyncExitStack) -> Store:
        store = open_store(self._settings.store)
        stack.push_async_callback(store.aclose)
        await store.ping()
        if self._metrics is not None:
            await store.subscribe(self._metrics)
        return store

    async def _wire(self, stack: AsyncExitStack) -> None:
        settings = self._settings
        self._receivers = _receivers_of(settings, self._store, self._reloadable.sources)
        if settings.forward is not None:
            session = aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), connector=aiohttp.TCPConnector(limit=0))
            await stack.enter_async_context(session)
            forwarder = Forwarder(
                session,
                settings.forward.url,
                timeout=settings.forward.timeout,
                allow_insecure=settings.forward.allow_insecure,
            )
            for path, receiver in self._receivers.items():
                receiver.on("*", name=_forward_name(path))(forwarder)
        for receiver in self._receivers.values():
            await stack.enter_async_context(receiver)
        if settings.poll is not None:
            client = OriginalClient.from_env(scope=settings.poll.scope, allow_insecure=settings.poll.allow_insecure)
            await stack.enter_async_context(client)
            policy = PollPolicy(first_after=settings.poll.first_after, max_per_second=settings.poll.max_per_second)
            self._completions = await stack.enter_async_context(Completions(client, self._store, polling=policy))
        if self._number == 0:
            self._work_at(stack, "the upkeep of the store", self._keep_up)
            self._work_at(stack, "the watch of disk space", lambda: watch_space(self._store, keep_days=settings.keep_days))
        self._armour = self._armoured(
            self._receivers,
            limits=settings.limits,
            trusted=self._trusted,
            allowed=self._allowed,
            refusals=self._refusals,
            observe=self._observe,
        )

    def _observe(self, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.observe(seconds)

    async def _listen(self, stack: AsyncExitStack) -> dict[str, Any]:
        settings, context = self._settings, self._reloadable.tls
        if context is not None:
            read_tls_in_small_pieces()
        sockets, admin, where = self._inherited, {}, {}
        if sockets is None:
            admin = await open_admin(stack, self, settings.admin, self._token, self._refusals)
            self._opened = await open_sockets(settings)
            stack.callback(self._opened.close)
            sockets, where = self._opened.sockets, self._opened.where
        self._gate = Gate(self._armour, context, limits=settings.limits, refusals=self._refusals, trusted=self._trusted)
        stack.push_async_callback(self._gate.aclose)
        self._gate.open(sockets)
        return described(settings, where | admin)

    async def _drain(self) -> Exit:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.drain_seconds
        if self._opened is not None:
            self._opened.remove_path()
        await self._gate.close(min(self._settings.limits.header_seconds, self._settings.drain_seconds * 0.1))
        answered = await self._armour.drain(self._settings.drain_seconds * 0.75)
        for receiver in self._receivers.values():
            await receiver.aclose(max(0.0, end - loop.time() - 1.0))
        return Exit.OK if answered else Exit.NOT_YET

    def _work_at(self, stack: AsyncExitStack, name: str, work: Callable[[], Any]) -> None:
        task = asyncio.create_task(
            keep_running(
                work,
                name=name,
                policy=RestartPolicy(deaths=None),
                died=lambda _: None,
            ),
            name=name,
        )

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


def described(settings: ListenerSettings, where: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a listener says when it has started.

    Args:
        settings: Its settings.
        where: Where it listens.
    """
    return {
        "store": settings.store,
        "paths": sorted({spec.path for spec in settings.sources}),
        **where,
        "polling": settings.poll is not None,
        "poll_scope": None if settings.poll is None else settings.poll.scope,
        "forward_to": None if settings.forward is None else settings.forward.url,
    }


def _metrics() -> Metrics | None:
    try:
        from webhooks.cli.metrics import Metrics  # noqa: PLC0415 - needs an extra
    except ImportError:
        return None
    return Metrics()
