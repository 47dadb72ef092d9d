"""The HTTP server of the standalone listener: aiohttp's low-level server behind timers, sizes and counts.

aiohttp's own server waits for ever for a slow peer's headers and body, inflates bodies before a signature can be checked, and
logs a traceback for every hostile request.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from aiohttp import HttpVersion11, web
from aiohttp.http import RawRequestMessage

from rewards_core.clock import loop_time
from rewards_core.validation import check_callable, check_instance, check_mapping, setting
from webhooks.advice import ADVICE
from webhooks.ingress.answers import PlainAnswer, answer_bytes
from webhooks.ingress.base import UNSIGNED, Reply
from webhooks.ingress.body import Bodies
from webhooks.ingress.limits import ArmourLimits
from webhooks.ingress.paths import normal_path, path_of
from webhooks.ingress.peers import Address, Client, Networks, peer_keys, read_address, resolve_client
from webhooks.ingress.places import Phase, Places
from webhooks.ingress.proxies import WRITTEN_BY_PROXIES, UntoldProxies
from webhooks.ingress.watch import Watch
from webhooks.refusals import Refusals

if TYPE_CHECKING:
    from aiohttp import StreamReader

    from webhooks.ingress.base import BodyProblem, Intake

logger = logging.getLogger("webhooks.listener")

_UNHEARD = Reply(status=400, close=True)
"""Answers a request whose connection has ended already."""

_CAME_BEFORE_THE_STORE = frozenset({200, 503})
_MAX_HEADERS = 64
_PIECE = 16_384
"""Bytes that are read at a time, and that wait in a transport's buffers for a peer or for us before one of the two is paused."""
_WAITING_BODY = 8_192
"""Bytes of a body that aiohttp holds for one who does not read it, before it reads no more from the peer; twice that at most."""


class _Refused(Exception):
    """The request gets this answer instead of being delivered."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None, *, advice: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.headers = headers or {}
        self.advice = advice


class _Connection(web.RequestHandler, asyncio.BufferedProtocol):
    """One peer's connection: knows what it waits for and until when.

    It is a buffered protocol because asyncio would read up to 256 KiB at a time, of each connection, into memory of its own.
    """

    __slots__ = (
        "ahead",
        "armour",
        "client",
        "deadline",
        "headers",
        "peer",
        "phase",
        "received",
        "receiver",
        "since",
        "unread",
        "unsigned",
        "untold",
        "wire",
    )

    def __init__(self, armour: ArmouredServer, **options: Any) -> None:
        super().__init__(armour, **options)
        self.armour = armour
        self.phase = Phase.IDLE
        self.since = self._loop.time()
        self.deadline = float("inf")
        self.received = 0
        self.ahead = False
        self.peer: Address | None = None
        self.client: Address | None = None
        self.unread: StreamReader | None = None
        self.unsigned = False
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
            self.enter(Phase.CLOSING, self.armour.limits.linger_seconds)
            transport.close()
            return
        self.wire.set_write_buffer_limits(_PIECE)
        if hasattr(transport, "set_read_buffer_limits"):  # TLS would else hold 256 KiB that nobody reads
            transport.set_read_buffer_limits(_PIECE)
        self.enter(Phase.IDLE, self.armour.limits.header_seconds)
        super().connection_made(transport)

    def eof_received(self) -> None:
        """Answer no more: the peer has left, and asyncio would log each answer that cannot be sent."""
        self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.armour.forget(self)
        super().connection_lost(exc)
        self._messages.clear()  # requests that will not be answered; they hold this connection, which holds them

    def force_close(self) -> None:
        """Close, and read no further; the rest of a refused body, for which aiohttp would wait, can come no more."""
        super().force_close()
        if self.unread is not None:
            self.unread.feed_eof()

    def abort(self) -> None:
        """Cut the connection off.

        The transport is aborted first: asyncio lets go of a TLS transport closed twice, and its `abort` then does nothing.
        A connection whose peer left while it was not read from would stay open for ever.
        """
        self.wire.abort()
        self.force_close()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where asyncio reads to; all connections share it, because what was read is taken from there at once."""
        return self.armour.read_into

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        self.data_received(bytes(self.armour.read_into[:nbytes]))

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        if self.phase is Phase.IDLE and data:
            self.enter(Phase.HEADERS, self.armour.limits.header_seconds)
            self.received = len(data)
        elif self.phase is Phase.ANSWER and data:
            self._wait_for_answers()
        before = self._request_count
        super().data_received(data)
        new = self._request_count - before
        if new and self.phase is Phase.BODY:
            if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
                # the parser gave up inside the body that a request is reading, and would tell only the next request
                self.refuse_body("broken")
            else:
                self._wait_for_answers()
        elif new:
            if new > 1:
                self._wait_for_answers()
            if self.phase in (Phase.HEADERS, Phase.IDLE):
                self.enter(Phase.ANSWER, self.armour.limits.answer_seconds)
        elif self.phase is Phase.HEADERS and self.received > self.armour.limits.header_bytes:
            self.cut(431, "headers_too_large")

    def _wait_for_answers(self) -> None:
        """Read no further while requests wait for their answers.

        aiohttp pauses at 32 requests, but counts wrong where one was begun before its body was whole, and then holds without end
        what a peer sends who reads no answers, and leaves unanswered what it holds.
        """
        self.ahead = True
        if not self.wire.is_closing():
            self.wire.pause_reading()

    def _read_on(self) -> None:
        """Answer what came while there were other requests to answer, then read on."""
        self.ahead = False
        self.data_received(b"")
        if not self.ahead:
            self._resume_wire()

    def _resume_wire(self) -> None:
        if not self.wire.is_closing():  # asyncio may have let go of a TLS connection that is closed
            self.wire.resume_reading()

    def resume_reading(self, *options: Any, **more: Any) -> None:
        """Go on reading where reading was paused; elsewhere the base class would run the parser in vain for every request."""
        if self._reading_paused:
            super().resume_reading(*options, **more)

    def enter(self, phase: Phase, seconds: float) -> None:
        """Begin to wait for something, for so many seconds."""
        self.phase = phase
        self.since = self._loop.time()
        self.deadline = self.since + seconds

    def expect_body(self, receiver: Intake, headers: Mapping[str, str], received: int) -> None:
        """Wait for the rest of a body, of which so many bytes are here."""
        self.receiver, self.headers = receiver, headers
        self.enter(Phase.BODY, receiver.body_timeout)
        self.received = received
        if self.ahead:
            self._resume_wire()

    def give_way(self) -> int | None:
        """End at once, for another connection; who was about to send something is told 429, to send it again."""
        status = 429 if self.phase in (Phase.HEADERS, Phase.BODY) else None
        if status is not None:
            self._tell(status)
        self.enter(Phase.CLOSING, self.armour.limits.linger_seconds)
        self.abort()
        return status

    def expire(self) -> None:
        """End the wait that took too long."""
        if self.phase is Phase.IDLE:
            self.enter(Phase.CLOSING, self.armour.limits.linger_seconds)
            self.force_close()
        elif self.phase is Phase.HEADERS:
            self.cut(408, "header_timeout")
        elif self.phase is Phase.BODY:
            self.refuse_body("slow")
        else:
            if self.phase is Phase.ANSWER:
                self.armour.refusals.note("answer_timeout", self.peer)
            self.deadline = float("inf")
            self.abort()

    def cut(self, status: int, reason: str) -> None:
        """Refuse a request whose headers have not arrived whole, and close."""
        self.armour.refusals.note(reason, self.peer, status=status)
        self._end(status)

    def refuse_body(self, reason: BodyProblem) -> None:
        """Refuse a body that has not arrived whole, and close; whoever reads it meets the end of the connection."""
        self._end(self.receiver.refuse(reason, self.client, self.headers).status)

    def _end(self, status: int) -> None:
        self._tell(status)
        self.enter(Phase.CLOSING, self.armour.limits.linger_seconds)
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
        if self._force_close:
            request.content.feed_eof()
        if self.phase is Phase.CLOSING:
            return finished
        if not resp.keep_alive:
            self.unread = request.content
            self.enter(Phase.CLOSING, 2 * limits.linger_seconds)
        elif self._messages:
            self.enter(Phase.ANSWER, limits.answer_seconds)
        else:
            self.enter(Phase.IDLE, limits.idle_seconds)
            if self.ahead:
                self._read_on()
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
        self.read_into = memoryview(bytearray(_PIECE))
        self._places = Places(self.limits, self.refusals, loop_time)
        self._bodies = Bodies(self.limits.buffered_bytes)
        self._untold_proxies = UntoldProxies(self.limits.connections_per_peer)
        self._in_flight = 0
        self._watch = Watch(self.limits, lambda: self._in_flight, self._free_memory)
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
            read_bufsize=_WAITING_BODY,
            max_line_size=4096,
            max_field_size=8190,
            max_headers=_MAX_HEADERS,
        )

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._watch)

    def admit(self, connection: _Connection) -> int | None:
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

    def forget(self, connection: _Connection) -> None:
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
        for connection in self._bodies.in_the_way(now):
            self._places.evict(connection)

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
            self._watch.tell_if_empty()

    async def _answer(self, request: web.BaseRequest, connection: _Connection) -> web.StreamResponse:
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

    async def _deliver(self, receiver: Intake, request: web.BaseRequest, connection: _Connection) -> Reply:
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

    async def _read(self, receiver: Intake, request: web.BaseRequest, connection: _Connection) -> bytes | Reply:
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

    def _client(self, request: web.BaseRequest, connection: _Connection) -> Client:
        return resolve_client(connection.peer, request.headers.getall("X-Forwarded-For", ()), self._trusted)
