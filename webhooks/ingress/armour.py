"""The HTTP server of the standalone listener: aiohttp's low-level server behind timers, sizes and counts.

aiohttp's own server waits for ever for a slow peer's headers and body, inflates bodies before a signature can be checked, and
logs a traceback for every hostile request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.http import RawRequestMessage

from rewards_core.validation import check_callable, check_instance, check_mapping, setting
from webhooks.advice import ADVICE
from webhooks.ingress.answers import PlainAnswer, answer_bytes
from webhooks.ingress.base import Reply
from webhooks.ingress.limits import ArmourLimits
from webhooks.ingress.paths import normal_path, path_of
from webhooks.ingress.peers import Address, Client, Networks, PeerCounts, peer_key, read_address, resolve_client
from webhooks.ingress.proxies import WRITTEN_BY_PROXIES, UntoldProxies
from webhooks.refusals import Refusals

if TYPE_CHECKING:
    from webhooks.ingress.base import BodyProblem, Intake

logger = logging.getLogger("webhooks.listener")

_UNHEARD = Reply(status=400, close=True)
"""Answers a request whose connection has ended already."""

_CAME_BEFORE_THE_STORE = frozenset({200, 503})
_SWEEPS_PER_TIMER = 8
_SLOWEST_SWEEP = 1.0
_MAX_HEADERS = 64


class _Phase(Enum):
    IDLE = auto()
    HEADERS = auto()
    BODY = auto()
    ANSWER = auto()
    CLOSING = auto()


class _Refused(Exception):
    """The request gets this answer instead of being delivered."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None, *, advice: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers or {}
        self.advice = advice


class _Connection(web.RequestHandler):
    """One peer's connection: knows what it waits for and until when."""

    __slots__ = ("armour", "client", "deadline", "headers", "key", "peer", "phase", "received", "receiver", "untold", "wire")

    def __init__(self, armour: ArmouredServer, **options: Any) -> None:
        super().__init__(armour, **options)
        self.armour = armour
        self.phase = _Phase.IDLE
        self.deadline = float("inf")
        self.received = 0
        self.peer: Address | None = None
        self.client: Address | None = None
        self.key: int | None = None
        self.untold = False
        self.headers: Mapping[str, str]
        self.receiver: Intake
        self.wire: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("peername")
        self.peer = self.client = read_address(name[0]) if isinstance(name, tuple) else None
        refusal = self.armour.admit(self)
        if refusal is not None:
            self._manager = None  # the base class then ignores the end of a connection it never began
            self._force_close = True
            self._tell(refusal)
            self.enter(_Phase.CLOSING, self.armour.limits.linger_seconds)
            transport.close()
            return
        self.enter(_Phase.IDLE, self.armour.limits.header_seconds)
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self.armour.forget(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.phase is _Phase.IDLE:
            self.received = 0
            self.enter(_Phase.HEADERS, self.armour.limits.header_seconds)
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            if self.phase is _Phase.HEADERS:
                self.enter(_Phase.ANSWER, self.armour.limits.answer_seconds)
            if self.phase is _Phase.BODY and self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
                # the parser gave up inside the body that a request is reading, and would tell only the next request
                self.refuse_body("broken")
        elif self.phase is _Phase.HEADERS:
            self.received += len(data)
            if self.received > self.armour.limits.header_bytes:
                self.cut(431, "headers_too_large")

    def resume_reading(self, *options: Any, **more: Any) -> None:
        """Go on reading where reading was paused; elsewhere the base class would run the parser in vain for every request."""
        if self._reading_paused:
            super().resume_reading(*options, **more)

    def enter(self, phase: _Phase, seconds: float) -> None:
        """Begin to wait for something, for so many seconds."""
        self.phase = phase
        self.deadline = self._loop.time() + seconds

    def expire(self) -> None:
        """End the wait that took too long."""
        if self.phase is _Phase.IDLE:
            self.enter(_Phase.CLOSING, self.armour.limits.linger_seconds)
            self.force_close()
        elif self.phase is _Phase.HEADERS:
            self.cut(408, "header_timeout")
        elif self.phase is _Phase.BODY:
            self.refuse_body("slow")
        else:
            if self.phase is _Phase.ANSWER:
                self.armour.refusals.note("answer_timeout", self.peer)
            self.deadline = float("inf")
            self.force_close()
            self.wire.abort()

    def cut(self, status: int, reason: str) -> None:
        """Refuse a request whose headers have not arrived whole, and close."""
        self.armour.refusals.note(reason, self.peer, status=status)
        self._end(status)

    def refuse_body(self, reason: BodyProblem) -> None:
        """Refuse a body that has not arrived whole, and close; whoever reads it meets the end of the connection."""
        self._end(self.receiver.refuse(reason, self.client, self.headers).status)

    def _end(self, status: int) -> None:
        self._tell(status)
        self.enter(_Phase.CLOSING, self.armour.limits.linger_seconds)
        self.force_close()

    def _tell(self, status: int) -> None:
        headers = {"Retry-After": "1"} if status == 429 else {}
        self.wire.write(answer_bytes(Reply(status=status, headers=headers), keep_alive=False))

    async def take(self, data: bytes) -> None:
        """Send bytes, and wait where the peer is slow to read them.

        Raises:
            ConnectionResetError: the peer is gone.
        """
        if self.transport is None:
            raise ConnectionResetError
        self.wire.write(data)
        if self.writing_paused:
            await self._drain_helper()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if self.armour.draining:
            resp.force_close()
        finished = await super().finish_response(request, resp, start_time)
        limits = self.armour.limits
        if self.phase is _Phase.CLOSING:
            return finished
        if not resp.keep_alive:
            self.enter(_Phase.CLOSING, 2 * limits.linger_seconds)
        elif self._messages:
            self.enter(_Phase.ANSWER, limits.answer_seconds)
        else:
            self.enter(_Phase.IDLE, limits.idle_seconds)
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - the base class's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - as above
    ) -> web.StreamResponse:
        if status == 400:
            self.armour.refusals.note("malformed", self.peer, status=status)
        else:
            logger.error("a request could not be answered; this is a fault of the listener", exc_info=exc)
        return PlainAnswer(Reply(status=status, close=True))


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
        self._open: dict[_Connection, None] = {}
        self._peers = PeerCounts()
        self._untold_proxies = UntoldProxies(self.limits.connections_per_peer)
        self._in_flight = 0
        self._emptied: asyncio.Future[None] | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self._sweep_every = min(_SLOWEST_SWEEP, self.limits.shortest / _SWEEPS_PER_TIMER)
        super().__init__(self._serve)

    def __call__(self) -> web.RequestHandler:
        """Make the protocol of one connection."""
        return _Connection(
            self,
            loop=self._loop,
            access_log=None,
            auto_decompress=False,
            lingering_time=self.limits.linger_seconds,
            keepalive_timeout=self.limits.idle_seconds,  # aiohttp's own is shorter
            max_line_size=4096,
            max_field_size=8190,
            max_headers=_MAX_HEADERS,
        )

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._open)

    def admit(self, connection: _Connection) -> int | None:
        """Count a new connection, or return the status it is refused with."""
        peer = connection.peer
        trusted = peer in self._trusted
        if self._allowed is not None and not trusted and peer not in self._allowed:
            self.refusals.note("address", peer, status=403)
            self._watch(connection)
            return 403
        if not trusted and peer is not None:
            key = peer_key(peer)
            if not self._peers.enter(key, self.limits.connections_per_peer):
                self.refusals.note("connections_per_peer", peer, status=429)
                self._watch(connection)
                return 429
            connection.key = key
        if len(self._open) >= self.limits.connections and not self._make_room():
            self.refusals.note("connections", peer, status=429)
            self._watch(connection)
            return 429
        if not trusted:
            connection.untold = True
            self._untold_proxies.look(peer, self._peers.held(connection.key))
        self._watch(connection)
        return None

    def forget(self, connection: _Connection) -> None:
        """Count a connection no longer."""
        del self._open[connection]
        if connection.key is not None:
            self._peers.leave(connection.key)
        self._tell_if_empty()

    async def drain(self, timeout: float) -> bool:
        """Answer what is under way with `Connection: close`, close what is idle, and end.

        Args:
            timeout: Seconds after which what is left is cut off; its deliveries were not acknowledged.

        Returns:
            Whether everything was answered in time.
        """
        self.draining = True
        grace = self._loop.time() + self.limits.drain_grace_seconds
        for connection in self._open:
            if connection.phase is _Phase.IDLE:
                connection.deadline = min(connection.deadline, grace)
        answered = True
        if self._open or self._in_flight:
            self._emptied = self._loop.create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._emptied
            except TimeoutError:
                answered = False
            self._emptied = None
        await self.shutdown(self.limits.linger_seconds)
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        return answered

    def _watch(self, connection: _Connection) -> None:
        self._open[connection] = None
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(self._sweep_every, self._sweep)

    def _sweep(self) -> None:
        """Look over all connections: one timer instead of two for every request."""
        now = self._loop.time()
        for connection in [connection for connection in self._open if connection.deadline <= now]:
            connection.expire()
        self._sweeping = self._loop.call_later(self._sweep_every, self._sweep) if self._open else None

    def _make_room(self) -> bool:
        waiting = [connection for connection in self._open if connection.phase in (_Phase.IDLE, _Phase.HEADERS)]
        if not waiting:
            return False
        longest = min(waiting, key=lambda connection: connection.deadline)
        self.refusals.note("evicted", longest.peer)
        longest.enter(_Phase.CLOSING, self.limits.linger_seconds)
        longest.force_close()
        return True

    def _tell_if_empty(self) -> None:
        if self._emptied is not None and not self._open and not self._in_flight and not self._emptied.done():
            self._emptied.set_result(None)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast("_Connection", request.protocol)
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
            self._tell_if_empty()

    async def _answer(self, request: web.BaseRequest, connection: _Connection) -> web.StreamResponse:
        key: int | None = None
        if connection.untold:
            connection.untold = False
            if any(name in request.headers for name in WRITTEN_BY_PROXIES):
                self._untold_proxies.look(connection.peer, self._peers.held(connection.key), request.headers)
        if self._behind_proxies:
            client = self._client(request, connection)
            connection.client = client.address
            if client.forwarded:
                if self._allowed is not None and (client.address is None or client.address not in self._allowed):
                    raise _Refused(403, "address")
                if client.address is not None and client.address not in self._trusted:
                    key = peer_key(client.address)
                    if not self._peers.enter(key, self.limits.connections_per_peer):
                        raise _Refused(429, "connections_per_peer", {"Retry-After": "1"})
        try:
            receiver = self._routes.get(request.raw_path) or self._routes.get(path_of(request.raw_path) or "")
            if receiver is None:
                raise _Refused(404, "path", advice=self._paths_advice)
            reply = await self._deliver(receiver, request, connection)
        finally:
            if key is not None:
                self._peers.leave(key)
        return PlainAnswer(reply)

    async def _deliver(self, receiver: Intake, request: web.BaseRequest, connection: _Connection) -> Reply:
        headers, payload = request.headers, request.content
        body = payload.read_nowait() if payload.is_eof() else None
        client = connection.client
        refusal = receiver.refusal(request.method, headers, request.content_length, client, unread=body is None)
        if refusal is not None:
            return refusal
        if body is None:
            if headers.get("Expect", "").lower() == "100-continue":
                connection.wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            connection.receiver, connection.headers = receiver, headers
            connection.enter(_Phase.BODY, receiver.body_timeout)
            blocks: list[bytes] = []
            size = 0
            try:
                while block := await payload.readany():
                    size += len(block)
                    if size > receiver.max_body:
                        return receiver.refuse("size", client, headers)
                    blocks.append(block)
            except Exception:  # noqa: BLE001 - aiohttp has many words for a body whose connection ended
                return _UNHEARD if connection.phase is _Phase.CLOSING else receiver.refuse("broken", client, headers)
            connection.enter(_Phase.ANSWER, self.limits.answer_seconds)
            body = b"".join(blocks)
        started = self._loop.time()
        reply = await receiver.receive(headers, body, client)
        if reply.status in _CAME_BEFORE_THE_STORE:
            self._observe(self._loop.time() - started)
        return reply

    def _client(self, request: web.BaseRequest, connection: _Connection) -> Client:
        return resolve_client(connection.peer, request.headers.getall("X-Forwarded-For", ()), self._trusted)
