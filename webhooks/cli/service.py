"""The listener as a running thing: everything wired together, from the first socket to the last acknowledged delivery."""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from original_async import OriginalClient
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import fail
from rewards_core.errors import StoreError
from rewards_core.operations import OperationRef
from webhooks.cli.admin import HealthServer, control_app
from webhooks.cli.forwarding import Forwarder
from webhooks.cli.sources import ReloadableSource, by_path
from webhooks.cli.space import watch_space
from webhooks.cli.stores import admin_socket
from webhooks.completions import Completions
from webhooks.ingress.armour import ArmouredServer
from webhooks.ingress.limits import ArmourLimits
from webhooks.ingress.peers import Networks
from webhooks.ingress.tls_gate import TlsGate
from webhooks.polling import PollPolicy
from webhooks.receiver import Receiver
from webhooks.store import open_store
from webhooks.store.records import EventState
from webhooks.supervise import RestartPolicy, keep_running

if TYPE_CHECKING:
    import ssl

    from webhooks.cli.metrics import Metrics
    from webhooks.cli.settings import ListenerSettings
    from webhooks.store.base import Store

logger = logging.getLogger("webhooks.listener")

_BACKLOG = 1_024
_ADOPT_EVERY = 60.0
_PURGE_EVERY = 3_600.0
_DAY = 86_400.0
_ADMIN_LIMITS = ArmourLimits(connections=32, connections_per_peer=1_000)  # one machine may ask from one address
_LOOKS_AT_A_WRITER = 10
_BETWEEN_LOOKS = 0.1
_FILES_BESIDE_CONNECTIONS = 64 + _ADMIN_LIMITS.connections


def forward_name(path: str) -> str:
    """Return the name under which the jobs of forwarding are kept."""
    return f"forward {path}"


def receivers_of(settings: ListenerSettings, store: Store, sources: Sequence[ReloadableSource]) -> dict[str, Receiver]:
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

    Raises:
        ValueError: a setting, a key or a credential cannot be what it should.
    """

    def __init__(self, settings: ListenerSettings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._sources = [ReloadableSource(spec) for spec in settings.sources]
        self._tls: ssl.SSLContext | None = None if settings.tls is None else settings.tls.context()
        self._token = None if settings.admin is None else settings.admin.token()
        self._trusted = Networks(settings.trusted)
        self._allowed = Networks(settings.allowed) if settings.allowed else None
        self._stop = asyncio.Event()
        self._receivers: dict[str, Receiver] = {}
        self._completions: Completions | None = None
        self._metrics = _metrics()
        self._store: Store
        self._armour: ArmouredServer
        self._server: asyncio.Server | None = None
        self._gate: TlsGate | None = None

    async def run(self, started: Callable[[Mapping[str, Any]], None]) -> Exit:
        """Serve until `stop`, then drain.

        Args:
            started: Hears once where the listener listens.

        Returns:
            `Exit.OK` if every delivery under way was answered, `Exit.NOT_YET` if some had to be cut off.

        Raises:
            typer.Exit: a socket or the store cannot be had.
        """
        async with AsyncExitStack() as stack:
            try:
                self._store = await self._open_store(stack)
                await self._wire(stack)
                where = await self._listen(stack)
            except (OSError, StoreError, UnicodeError) as problem:  # a host that can be no name is a UnicodeError
                fail(f"could not start: {problem}", Exit.UNAVAILABLE)
            started(where)
            await self._stop.wait()
            return await self._drain()

    def stop(self) -> None:
        """Begin to drain."""
        self._stop.set()

    def reload(self) -> None:
        """Read keys and certificate anew; what cannot be read stays as it was."""
        for source in self._sources:
            try:
                source.reload()
            except ValueError as problem:
                logger.error("the keys of scope %s stay as they were: %s", source.scope, problem)  # noqa: TRY400 - one line
            else:
                logger.info("the keys of scope %s were read anew", source.scope)
        if self._settings.tls is not None and self._tls is not None:
            try:
                self._settings.tls.load_into(self._tls)
            except ValueError as problem:
                logger.error("the certificate stays as it was: %s", problem)  # noqa: TRY400 - one line

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
        from webhooks.cli.metrics import Snapshot  # noqa: PLC0415 - needs the extra, which is there

        try:
            held = await self._store.statistics()
        except StoreError:
            held = None  # what this process counted is shown all the same, and most needed then
        return self._metrics.render(
            Snapshot(
                receivers={path: receiver.statistics for path, receiver in self._receivers.items()},
                refused=self._armour.quiet.total,
                connections=self._armour.open_connections,
                store=held,
                completions=None if self._completions is None else self._completions.statistics,
            )
        )

    async def replay(self, event_ids: Sequence[int]) -> int:
        """Read events again and let their handlers run anew; return how many could be used."""
        return await replay(self._store, self._receivers, self._sources, event_ids)

    async def retry(self, event_ids: Sequence[int]) -> int:
        """Let dead jobs run again; return of how many events."""
        return await self._store.requeue(event_ids)

    async def purge(self, before: float, state: EventState) -> int:
        """Remove events; return how many."""
        return await self._store.purge(before, state=state)

    async def watch(self, refs: Sequence[OperationRef]) -> bool:
        """Poll operations until they settle; return whether anybody polls here."""
        polling, settings = self._completions, self._settings.poll
        if polling is None or settings is None:
            return False
        mine = [ref for ref in refs if ref.scope == settings.scope]
        await self._store.add_pending(mine)
        await polling.adopt_pending()
        return len(mine) == len(refs)

    async def _open_store(self, stack: AsyncExitStack) -> Store:
        store = open_store(self._settings.store)
        for _ in range(_LOOKS_AT_A_WRITER):
            if not store.read_only:
                break
            await store.aclose()  # a command that only looks holds the right to write for a moment
            await asyncio.sleep(_BETWEEN_LOOKS)
            store = open_store(self._settings.store)
        stack.push_async_callback(store.aclose)
        if store.read_only:
            fail(
                f"expected to write {self._settings.store}, got another process writing it; stop that one, or give another store",
                Exit.UNAVAILABLE,
            )
        await store.ping()
        if self._metrics is not None:
            store.subscribe(self._metrics)
        return store

    async def _wire(self, stack: AsyncExitStack) -> None:
        settings = self._settings
        self._receivers = receivers_of(settings, self._store, self._sources)
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
                receiver.on("*", name=forward_name(path))(forwarder)
        for receiver in self._receivers.values():
            await stack.enter_async_context(receiver)
        if settings.poll is not None:
            client = OriginalClient.from_env(scope=settings.poll.scope, allow_insecure=settings.poll.allow_insecure)
            await stack.enter_async_context(client)
            policy = PollPolicy(first_after=settings.poll.first_after, max_per_second=settings.poll.max_per_second)
            completions = await stack.enter_async_context(Completions(client, self._store, polling=policy))
            self._completions = completions
            self._work_at(stack, "the adoption of pending operations", lambda: self._adopt(completions))
        self._work_at(stack, "the purge of old events", self._purge_old)
        self._work_at(stack, "the watch of disk space", lambda: watch_space(self._store, keep_days=settings.keep_days))
        self._armour = ArmouredServer(
            self._receivers,
            limits=settings.limits,
            trusted=self._trusted,
            allowed=self._allowed,
            observe=self._observe,
        )

    def _observe(self, seconds: float) -> None:
        if self._metrics is not None:
            self._metrics.observe(seconds)

    async def _listen(self, stack: AsyncExitStack) -> dict[str, Any]:
        settings, loop = self._settings, asyncio.get_running_loop()
        stages = 1 if self._tls is None else 2  # shaking hands, and open
        _raise_file_limit(stages * settings.limits.connections + _FILES_BESIDE_CONNECTIONS)
        tls: dict[str, Any] = {}
        if self._tls is not None and settings.unix is not None:
            tls = {
                "ssl": self._tls,
                "ssl_handshake_timeout": settings.limits.header_seconds,
                "ssl_shutdown_timeout": settings.limits.linger_seconds,
            }
        where: dict[str, Any] = {"store": settings.store, "paths": sorted(self._receivers)}
        admin = await self._admin(stack)
        if settings.unix is not None:
            self._server = await loop.create_unix_server(self._armour, str(settings.unix), backlog=_BACKLOG, **tls)
            settings.unix.chmod(0o660)
            stack.callback(_unlink, settings.unix)
            where["unix"] = str(settings.unix)
            stack.callback(self._server.close)
        elif self._tls is not None:
            self._gate = TlsGate(self._armour, self._tls, limits=settings.limits, quiet=self._armour.quiet, trusted=self._trusted)
            stack.push_async_callback(self._gate.aclose)
            where["url"] = _url("https", *await self._gate.open(settings.host, settings.port, backlog=_BACKLOG))
        else:
            self._server = await loop.create_server(self._armour, settings.host, settings.port, backlog=_BACKLOG)
            stack.callback(self._server.close)
            where["url"] = _url("http", *self._server.sockets[0].getsockname()[:2])
        return {
            **where,
            **admin,
            "polling": settings.poll is not None,
            "poll_scope": None if settings.poll is None else settings.poll.scope,
            "forward_to": None if settings.forward is None else settings.forward.url,
        }

    async def _admin(self, stack: AsyncExitStack) -> dict[str, Any]:
        settings, where = self._settings, {}
        socket = admin_socket(settings.store, settings.admin_socket)
        if socket is not None:
            runner = await self._run_app(stack, control_app(self))
            await _start(web.UnixSite(runner, str(socket)), socket)
            socket.chmod(0o600)
            stack.callback(_unlink, socket)
            where["admin_socket"] = str(socket)
        if settings.admin is not None:
            health = HealthServer(self, self._token, limits=_ADMIN_LIMITS)
            server = await asyncio.get_running_loop().create_server(health, settings.admin.host, settings.admin.port)
            stack.push_async_callback(health.drain, _ADMIN_LIMITS.linger_seconds)
            stack.callback(server.close)
            host, port = server.sockets[0].getsockname()[:2]
            where["admin"] = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        return where

    async def _run_app(self, stack: AsyncExitStack, app: web.Application) -> web.AppRunner:
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        return runner

    async def _drain(self) -> Exit:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.drain_seconds
        if self._server is not None:
            self._server.close()
        if self._gate is not None:
            await self._gate.close()
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

    async def _adopt(self, completions: Completions) -> None:
        while True:
            await completions.adopt_pending()
            await asyncio.sleep(_ADOPT_EVERY)

    async def _purge_old(self) -> None:
        while True:
            before = self._clock() - self._settings.keep_days * _DAY
            await self._store.purge(before)
            await self._store.purge_outcomes(before)
            await asyncio.sleep(_PURGE_EVERY)


async def replay(store: Store, receivers: Mapping[str, Receiver], sources: Sequence[ReloadableSource], ids: Sequence[int]) -> int:
    """Let the receiver of each event's scope read it again; return how many could be used."""
    by_scope = {source.scope: receivers[source.spec.path] for source in sources}
    count = 0
    for event_id in ids:
        stored = await store.get_event(event_id)
        receiver = None if stored is None else by_scope.get(stored.event.scope)
        if receiver is not None:
            count += await receiver.replay([event_id])
    return count


def _metrics() -> Metrics | None:
    try:
        from webhooks.cli.metrics import Metrics  # noqa: PLC0415 - needs an extra
    except ImportError:
        return None
    return Metrics()


async def _start(site: web.UnixSite, path: Path) -> None:
    try:
        await site.start()
    except OSError as problem:
        raise OSError(
            f"expected to listen on {path}, got {problem.strerror or problem}; give a shorter one as --admin-socket"
        ) from None


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _raise_file_limit(wanted: int) -> None:
    """Let this process have as many files open as it may have connections, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
