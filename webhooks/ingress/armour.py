"""The HTTP server of the standalone listener: aiohttp's low-level server behind timers, sizes and counts.

aiohttp's own server waits for ever for a slow peer's headers and body, inflates bodies before a signature can be checked, and
logs a traceback for every hostile request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from aiohttp import HttpVersion11, web

from rewards_core.clock import loop_time
from rewards_core.validation import check_callable, check_instance, check_mapping, setting
from webhooks.ingress.answers import PlainAnswer
from webhooks.ingress.base import UNSIGNED, Reply
from webhooks.ingress.body import Bodies
from webhooks.ingress.connection import PIECE, Connection
from webhooks.ingress.limits import ArmourLimits
from webhooks.ingress.paths import normal_path, path_of
from webhooks.ingress.peers import Client, Networks, peer_keys, resolve_client
from webhooks.ingress.places import Phase, Places
from webhooks.ingress.proxies import WRITTEN_BY_PROXIES, UntoldProxies
from webhooks.ingress.watch import Watch
from webhooks.refusals import ADVICE, Refusals

if TYPE_CHECKING:
    from webhooks.ingress.base import Intake

logger = logging.getLogger("webhooks.listener")

_UNHEARD = Reply(status=400, close=True)
"""Answers a request whose connection has ended already."""

_CAME_BEFORE_THE_STORE = frozenset({200, 503})
_MAX_HEADERS = 64
_WAITING_BODY = 2_048
"""Bytes of a body that aiohttp holds for one who does not read it, before it reads no more from the peer; twice that at most."""


class _Refused(Exception):
    """The request gets this answer instead of being delivered."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None, *, advice: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers or {}
        self.advice = advice


class ArmouredServer(web.Server):
    """Take deliveries on paths, and let no peer hold what others need.

    Give it to `loop.create_server` or `loop.create_unix_server` as the protocol factory.

    Args:
        routes: Path to what takes its deliveries.
        limits: What one peer may take.
        trusted: Proxies whose `X-Forwarded-For` is believed; their own connections are not counted against them.
        allowed: Who may deliver at all, None for everybody.
        refusals: Where refusals are counted and kept, but for those the receivers count themselves.
        observe: Hears of each delivery that came before the store how many seconds it took to be verified and kept, or not kept.

    Raises:
        TypeError: an argument is of another type.
    """

    def __init__(
        self,
        routes: Mapping[str, Intake],
        *,
        limits: ArmourLimits | None = None,
        trusted: Networks | None = None,
        allowed: Networks | None = None,
        refusals: Refusals | None = None,
        observe: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.limits = setting(limits, "limits", ArmourLimits)
        self.refusals = check_instance(Refusals(logger) if refusals is None else refusals, "refusals", Refusals)
        self.draining = False
        checked = check_mapping(routes, "routes", "a mapping of paths to receivers")
        self._routes = {normal_path(path): receiver for path, receiver in checked.items()}
        self._paths_advice = f"{ADVICE['path']} Deliveries are taken at {', '.join(sorted(self._routes))}."
        self._trusted = setting(trusted, "trusted", Networks)
        self._behind_proxies = bool(self._trusted)
        self._allowed = None if allowed is None else check_instance(allowed, "allowed", Networks)
        self._observe = check_callable(observe, "observe")
        self.read_into = memoryview(bytearray(PIECE))
        self._places = Places(self.limits, self.refusals, loop_time)
        self._bodies = Bodies(self.limits.buffered_bytes)
        self._untold_proxies = UntoldProxies(self.limits.connections_per_peer)
        self._in_flight = 0
        self._watch = Watch(self.limits, lambda: self._in_flight, self._free_memory)
        super().__init__(self._serve)

    def __call__(self) -> web.RequestHandler:
        """Make the protocol of one connection."""
        return Connection(
            self,
            self,
            loop=self._loop,
            access_log=None,
            auto_decompress=False,
            lingering_time=self.limits.linger_seconds,
            keepalive_timeout=self.limits.idle_seconds,  # aiohttp's own is shorter
            read_bufsize=_WAITING_BODY,
            max_line_size=4096,
            max_field_size=8190,
            max_headers=_MAX_HEADERS,
        )

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._watch)

    def admit(self, connection: Connection) -> int | None:
        """Give a new connection a place, or return the status it is refused with."""
        self._watch.add(connection)
        peer = connection.peer
        trusted = peer in self._trusted
        if self._allowed is not None and not trusted and peer not in self._allowed:
            self.refusals.note("address", peer, status=403)
            return 403
        reason = self._places.enter(connection, () if trusted or peer is None else peer_keys(peer))
        if reason is None:
            if not trusted:
                connection.untold = True
                self._untold_proxies.look(peer, self._places.beside(connection))
            return None
        self.refusals.note(reason, peer, status=429)
        return 429

    def evict(self, connection: Connection) -> None:
        """End a connection, for others to have its place and its memory at once."""
        self._places.evict(connection)

    def forget(self, connection: Connection) -> None:
        """Count a connection no longer."""
        self._places.leave(connection)
        self._bodies.release(connection)
        self._watch.remove(connection)

    async def drain(self, timeout: float) -> bool:
        """Answer what is under way with `Connection: close`, close what is idle, and end.

        Args:
            timeout: Seconds after which what is left is cut off; its deliveries were not acknowledged.

        Returns:
            Whether everything was answered in time.
        """
        self.draining = True
        answered = await self._watch.drain(timeout)
        await self.shutdown(self.limits.linger_seconds)
        self._watch.end()
        return answered

    def _free_memory(self, now: float) -> None:
        for connection in self._bodies.waiting if self.draining else self._bodies.in_the_way(now):
            if connection.phase is Phase.BODY:  # else it has just been ended
                self._places.evict(connection)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast("Connection", request.protocol)
        self._in_flight += 1
        try:
            return await self._answer(request, connection)
        except _Refused as refusal:
            self.refusals.note(
                refusal.reason,
                self._client(request, connection).address,
                status=refusal.status,
                method=request.method,
                path=request.raw_path,
                length=request.content_length,
                advice=refusal.advice,
            )
            return PlainAnswer(Reply(status=refusal.status, headers=refusal.headers, close=True))
        finally:
            self._in_flight -= 1
            self._watch.tell_if_empty()

    async def _answer(self, request: web.BaseRequest, connection: Connection) -> web.StreamResponse:
        if connection.untold:
            connection.untold = False
            if any(name in request.headers for name in WRITTEN_BY_PROXIES):
                self._untold_proxies.look(connection.peer, self._places.beside(connection), request.headers)
        keys: tuple[int, ...] = ()
        if self._behind_proxies:
            client = self._client(request, connection)
            connection.client = client.address
            if client.forwarded:
                if self._allowed is not None and (client.address is None or client.address not in self._allowed):
                    raise _Refused(403, "address")
                if client.address is not None and client.address not in self._trusted:
                    keys = peer_keys(client.address)
                    if not self._places.enter_client(connection, keys):
                        raise _Refused(429, "connections_per_peer", {"Retry-After": "1"})
        try:
            receiver = self._routes.get(request.raw_path) or self._routes.get(path_of(request.raw_path) or "")
            if receiver is None:
                raise _Refused(404, "path", advice=self._paths_advice)
            reply = await self._deliver(receiver, request, connection)
        finally:
            if keys:
                self._places.leave_client(connection, keys)
        return PlainAnswer(reply)

    async def _deliver(self, receiver: Intake, request: web.BaseRequest, connection: Connection) -> Reply:
        headers, payload = request.headers, request.content
        body = payload.read_nowait() if payload.is_eof() else None
        client, unread = connection.client, body is None
        refusal = receiver.refusal(request.method, headers, request.content_length, client, unread=unread)
        if refusal is not None:
            return refusal
        try:
            if body is None:
                read = await self._read(receiver, request, connection)
                if isinstance(read, Reply):
                    return read
                body = read
            started = self._loop.time()
            reply = await receiver.receive(headers, body, client)
            if reply.status in _CAME_BEFORE_THE_STORE:
                self._observe(self._loop.time() - started)
            # a trusted proxy sends the deliveries of many over one connection
            connection.unsigned = reply.status == UNSIGNED.status and connection.peer not in self._trusted
            return reply
        finally:
            if unread:
                self._bodies.release(connection)

    async def _read(self, receiver: Intake, request: web.BaseRequest, connection: Connection) -> bytes | Reply:
        """Return the body that a request has yet to send, or what to answer if it cannot be had."""
        headers, payload = request.headers, request.content
        if headers.get("Expect", "").lower() == "100-continue" and request.version >= HttpVersion11:
            connection.wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.expect_body(receiver, headers, payload.total_bytes)
        try:
            body = await self._bodies.read(connection, payload, receiver.max_body)
        except Exception as problem:  # noqa: BLE001 - aiohttp has many words for a body whose connection ended
            problem.with_traceback(None)  # it is kept by the stream that it holds, with what came, until garbage is collected
            return _UNHEARD if connection.phase is Phase.CLOSING else receiver.refuse("broken", connection.client, headers)
        if body is None:
            return receiver.refuse("size", connection.client, headers)
        connection.enter(Phase.ANSWER, self.limits.answer_seconds)
        return body

    def _client(self, request: web.BaseRequest, connection: Connection) -> Client:
        return resolve_client(connection.peer, request.headers.getall("X-Forwarded-For", ()), self._trusted)
