"""The hardened HTTP server of the standalone listener: aiohttp's low-level server with timeouts, size limits and quotas.

aiohttp's own server waits for ever for a slow peer's headers and body, decompresses bodies before a signature can be checked, and
logs a traceback for every hostile request.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

from aiohttp import HttpVersion11, web

from rewards_core.clock import loop_time
from rewards_core.tracing import recording
from rewards_core.validation import check_callable, check_instance, check_mapping, setting
from webhooks.ingress.base import UNSIGNED, Reply
from webhooks.ingress.body_memory import BodyMemory
from webhooks.ingress.connection import READ_SIZE, Connection
from webhooks.ingress.limits import ServerLimits
from webhooks.ingress.paths import normal_path, path_of
from webhooks.ingress.peers import Client, Networks, quota_keys, resolve_client
from webhooks.ingress.proxies import PROXY_HEADERS, ProxyDetector
from webhooks.ingress.request_spans import note_route, note_status, request_span
from webhooks.ingress.responses import PlainResponse
from webhooks.ingress.slots import ConnectionSlots, Phase
from webhooks.ingress.sweeper import Sweeper
from webhooks.refusals import ADVICE, Refusals

if TYPE_CHECKING:
    from rewards_core.tracing import Span
    from webhooks.ingress.base import Intake

logger = logging.getLogger("webhooks.listener")

_CLOSED = Reply(status=400, close=True)
"""Returned for a request whose connection has already closed."""

_REACHED_THE_STORE = frozenset({200, 503})
_MAX_HEADERS = 64
_AIOHTTP_BODY_BUFFER = 2_048
"""Bytes of an unread body at which aiohttp pauses reading; it holds up to twice as many."""


class _Refused(Exception):
    """Ends a request with this response instead of delivering it."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None, *, advice: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers or {}
        self.advice = advice


class HardenedServer(web.Server):
    """Receive deliveries by path, and prevent any peer from taking the capacity that others need.

    Pass it as the protocol factory to `loop.create_server` or `loop.create_unix_server`.

    Args:
        routes: Receivers by path.
        limits: Timeouts, sizes and quotas.
        trusted: Proxies whose `X-Forwarded-For` is trusted; they have no quota themselves.
        allowed: Addresses that may deliver; None for all.
        refusals: Records refusals, except those that the receivers record.
        observe: Called with the seconds that each delivery took to be verified and stored, or to fail in the store.

    Raises:
        TypeError: an argument is of another type.
    """

    def __init__(
        self,
        routes: Mapping[str, Intake],
        *,
        limits: ServerLimits | None = None,
        trusted: Networks | None = None,
        allowed: Networks | None = None,
        refusals: Refusals | None = None,
        observe: Callable[[float], None] = lambda _: None,
    ) -> None:
        self.limits = setting(limits, "limits", ServerLimits)
        self.refusals = check_instance(Refusals(logger) if refusals is None else refusals, "refusals", Refusals)
        self.draining = False
        checked = check_mapping(routes, "routes", "a mapping of paths to receivers")
        self._routes = {normal_path(path): receiver for path, receiver in checked.items()}
        self._paths_advice = f"{ADVICE['path']} Deliveries are taken at {', '.join(sorted(self._routes))}."
        self._trusted = setting(trusted, "trusted", Networks)
        self._behind_proxies = bool(self._trusted)
        self._allowed = None if allowed is None else check_instance(allowed, "allowed", Networks)
        self._observe = check_callable(observe, "observe")
        self.read_buffer = memoryview(bytearray(READ_SIZE))
        self._slots = ConnectionSlots(self.limits, self.refusals, loop_time)
        self._body_memory = BodyMemory(self.limits.buffered_bytes)
        self._proxy_detector = ProxyDetector(self.limits.connections_per_peer, self.refusals.instead)
        self._in_flight = 0
        self._sweeper = Sweeper(self.limits, lambda: self._in_flight, self._free_memory)
        recording()  # loads OpenTelemetry's propagators before the first request
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
            read_bufsize=_AIOHTTP_BODY_BUFFER,
            max_line_size=4096,
            max_field_size=8190,
            max_headers=_MAX_HEADERS,
        )

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._sweeper)

    def admit(self, connection: Connection) -> int | None:
        """Give a new connection a slot, or return the status to refuse it with."""
        self._sweeper.add(connection)
        peer = connection.peer
        trusted = peer in self._trusted
        if self._allowed is not None and not trusted and peer not in self._allowed:
            self.refusals.note("address", peer, status=403)
            return 403
        reason = self._slots.acquire(connection, () if trusted or peer is None else quota_keys(peer))
        if reason is None:
            if not trusted:
                connection.proxy_unchecked = True
                self._proxy_detector.check(peer, self._slots.connections_of_peer(connection))
            return None
        self.refusals.note(reason, peer, status=429)
        return 429

    def evict(self, connection: Connection) -> None:
        """Close a connection to free its slot and memory."""
        self._slots.evict(connection)

    def remove(self, connection: Connection) -> None:
        """Stop counting a closed connection."""
        self._slots.release(connection)
        self._body_memory.release(connection)
        self._sweeper.remove(connection)

    async def drain(self, timeout: float) -> bool:
        """Answer requests in progress with `Connection: close`, close idle connections, and shut down.

        Args:
            timeout: Seconds after which remaining connections are aborted; their deliveries were not acknowledged.

        Returns:
            Whether every request was answered in time.
        """
        self.draining = True
        answered = await self._sweeper.drain(timeout)
        await self.shutdown(self.limits.linger_seconds)
        self._sweeper.close()
        return answered

    def _free_memory(self, now: float) -> None:
        for connection in self._body_memory.waiting if self.draining else self._body_memory.blocking(now):
            if connection.phase is Phase.BODY:  # otherwise it has just closed
                self._slots.evict(connection)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast("Connection", request.protocol)
        self._in_flight += 1
        try:
            return PlainResponse(await self._answer(request, connection))
        finally:
            self._in_flight -= 1
            self._sweeper.notify_if_drained()

    async def _answer(self, request: web.BaseRequest, connection: Connection) -> Reply:
        with request_span(request) as span:
            try:
                reply = await self._process(request, connection, span)
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
                reply = Reply(status=refusal.status, headers=refusal.headers, close=True)
            note_status(span, reply.status)
        return reply

    async def _process(self, request: web.BaseRequest, connection: Connection, span: Span) -> Reply:
        if connection.proxy_unchecked:
            connection.proxy_unchecked = False
            if any(name in request.headers for name in PROXY_HEADERS):
                self._proxy_detector.check(connection.peer, self._slots.connections_of_peer(connection), request.headers)
        keys: tuple[int, ...] = ()
        if self._behind_proxies:
            client = self._client(request, connection)
            connection.client = client.address
            if client.forwarded:
                if self._allowed is not None and (client.address is None or client.address not in self._allowed):
                    raise _Refused(403, "address")
                if client.address is not None and client.address not in self._trusted:
                    keys = quota_keys(client.address)
                    if not self._slots.acquire_client(connection, keys):
                        raise _Refused(429, "connections_per_peer", {"Retry-After": "1"})
        try:
            path = request.raw_path if request.raw_path in self._routes else path_of(request.raw_path) or ""
            receiver = self._routes.get(path)
            if receiver is None:
                raise _Refused(404, "path", advice=self._paths_advice)
            note_route(span, request, path)
            return await self._deliver(receiver, request, connection)
        finally:
            if keys:
                self._slots.release_client(connection, keys)

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
            if reply.status in _REACHED_THE_STORE:
                self._observe(self._loop.time() - started)
            # a trusted proxy sends the deliveries of many clients over one connection
            connection.unsigned = reply.status == UNSIGNED.status and connection.peer not in self._trusted
            return reply
        finally:
            if unread:
                self._body_memory.release(connection)

    async def _read(self, receiver: Intake, request: web.BaseRequest, connection: Connection) -> bytes | Reply:
        """Return the body of a request, or the reply if it cannot be read."""
        headers, payload = request.headers, request.content
        if headers.get("Expect", "").lower() == "100-continue" and request.version >= HttpVersion11:
            connection.wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.expect_body(receiver, headers, payload.total_bytes)
        try:
            body = await self._body_memory.read(connection, payload, receiver.max_body)
        except Exception as problem:  # noqa: BLE001 - aiohttp raises many errors for a body whose connection ended
            problem.with_traceback(None)  # the stream keeps the error, whose frames keep the body until garbage is collected
            return _CLOSED if connection.phase is Phase.CLOSING else receiver.refuse("broken", connection.client, headers)
        if body is None:
            return receiver.refuse("size", connection.client, headers)
        connection.enter(Phase.ANSWER, self.limits.answer_seconds)
        return body

    def _client(self, request: web.BaseRequest, connection: Connection) -> Client:
        return resolve_client(connection.peer, request.headers.getall("X-Forwarded-For", ()), self._trusted)
