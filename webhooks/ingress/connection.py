"""One peer's connection to the listener: aiohttp's protocol behind timers, sizes and a place that it may lose.

aiohttp's own waits for ever for a slow peer's headers and body, and reads on while nobody answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

from aiohttp import web
from aiohttp.http import RawRequestMessage

from webhooks.ingress.answers import PlainAnswer, answer_bytes
from webhooks.ingress.base import Reply
from webhooks.ingress.peers import Address, read_address
from webhooks.ingress.places import Phase

if TYPE_CHECKING:
    from aiohttp import StreamReader

    from webhooks.ingress.base import BodyProblem, Intake
    from webhooks.ingress.limits import ArmourLimits
    from webhooks.refusals import Refusals

logger = logging.getLogger("webhooks.listener")

PIECE = 16_384
"""Bytes that are read at a time, and that wait in a transport's buffers for a peer or for us before one of the two is paused."""


class Armour(Protocol):
    """What all connections of a server share.

    Attributes:
        limits: What one peer may take.
        refusals: Where refusals are counted and kept.
        draining: Whether the server is about to end.
        read_into: Where all connections read to, `PIECE` bytes.
    """

    limits: ArmourLimits
    refusals: Refusals
    draining: bool
    read_into: memoryview

    def admit(self, connection: Connection) -> int | None:
        """Give a new connection a place, or return the status it is refused with."""
        ...

    def evict(self, connection: Connection) -> None:
        """End a connection, for others to have its place and its memory at once."""
        ...

    def forget(self, connection: Connection) -> None:
        """Count a connection no longer."""
        ...


class Connection(web.RequestHandler, asyncio.BufferedProtocol):
    """One peer's connection: knows what it waits for and until when.

    It is a buffered protocol because asyncio would read up to 256 KiB at a time, of each connection, into memory of its own.

    Args:
        armour: What it shares with the others.
        server: aiohttp's server.
        options: Of aiohttp's `RequestHandler`.
    """

    __slots__ = (
        "ahead",
        "armour",
        "arriving",
        "client",
        "deadline",
        "half_closed",
        "headers",
        "latest",
        "peer",
        "phase",
        "received",
        "receiver",
        "since",
        "stopped",
        "time_left",
        "unread",
        "unsigned",
        "untold",
        "wire",
    )

    def __init__(self, armour: Armour, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self.armour = armour
        self.phase = Phase.IDLE
        self.since = self._loop.time()
        self.stopped: float | None = None
        self.deadline = self.latest = self.time_left = float("inf")
        self.received = 0
        self.ahead = False
        self.half_closed = False
        self.peer: Address | None = None
        self.client: Address | None = None
        self.arriving: StreamReader | None = None
        self.unread: StreamReader | None = None
        self.unsigned = False
        self.untold = False
        self.headers: Mapping[str, str]
        self.receiver: Intake
        self.wire: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, or refuse the connection."""
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
        self.wire.set_write_buffer_limits(PIECE)
        if hasattr(transport, "set_read_buffer_limits"):  # TLS would else hold 256 KiB that nobody reads
            transport.set_read_buffer_limits(PIECE)
        self.enter(Phase.IDLE, self.armour.limits.header_seconds)
        super().connection_made(transport)

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp's returns None, asyncio takes both
        """Answer what has arrived whole, over a plain connection: its peer may have closed only its own half. Else close."""
        whole = self.phase in (Phase.BODY, Phase.ANSWER) and (self.arriving is None or self.arriving.is_eof())
        if whole and self.wire.get_extra_info("sslcontext") is None:
            self.half_closed = True
        else:
            self.force_close()
        return self.half_closed

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the place back."""
        self.armour.forget(self)
        super().connection_lost(exc)
        self._messages.clear()  # requests that will not be answered; they hold this connection, which holds them
        self.arriving = self.unread = None  # as above

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
        """Parse what came, and see what the connection waits for now."""
        self.received += len(data)
        if self.phase is Phase.IDLE and data:
            self.enter(Phase.HEADERS, self.armour.limits.header_seconds)
            self.received = len(data)
        elif self.phase is Phase.ANSWER and data:
            self._wait_for_answers()
        before = self._request_count
        super().data_received(data)
        new = self._request_count - before
        if new:
            self.arriving = self._messages[-1][1]
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
        if self.half_closed and self.phase is Phase.IDLE:
            self.force_close()
        elif not self.ahead:
            self._resume_wire()

    def _read_rest(self) -> None:
        """Read on though there are requests to answer: the rest of a body is still to come."""
        if self.ahead:
            self.ahead = False
            self._resume_wire()

    def _resume_wire(self) -> None:
        if not (self._reading_paused or self.wire.is_closing()):  # asyncio may have let go of a TLS connection that is closed
            self.wire.resume_reading()

    def resume_reading(self, *options: Any, **more: Any) -> None:
        """Go on reading if reading was paused; otherwise the base class would run the parser again after every request."""
        if self._reading_paused:
            super().resume_reading(*options, **more)

    def enter(self, phase: Phase, seconds: float) -> None:
        """Begin to wait for something, for so many seconds."""
        self.phase = phase
        self.since = self._loop.time()
        self.deadline = self.since + seconds
        self.stopped = None

    def expect_body(self, receiver: Intake, headers: Mapping[str, str], received: int) -> None:
        """Wait for the rest of a body, of which so many bytes are here."""
        self.receiver, self.headers = receiver, headers
        self.enter(Phase.BODY, receiver.body_timeout)
        self.latest = self.deadline + receiver.body_timeout
        self.received = received
        self._read_rest()

    def stop_reading(self) -> None:
        """Wait for memory, which is not counted against the peer: its own time goes on once it is read from again.

        It may have to wait as long as it has time to send.
        """
        self.stopped = self._loop.time()
        self.time_left = self.deadline - self.stopped
        self.deadline = self.latest

    def go_on_reading(self) -> None:
        """End that wait; nothing happens if there is none."""
        if self.stopped is not None:
            now = self._loop.time()
            self.since += now - self.stopped
            self.deadline = min(now + self.time_left, self.latest)
            self.stopped = None

    def give_way(self) -> int | None:
        """End at once, for another connection; who was about to send something is told 429, to send it again."""
        unheard = self.phase is Phase.IDLE and not self._request_count
        status = 429 if unheard or self.phase in (Phase.HEADERS, Phase.BODY) else None
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
        elif self.phase is Phase.BODY and self.stopped is not None:
            self.armour.evict(self)
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
        """Refuse a body that has not arrived completely, and close; the task that reads it gets an error."""
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
        """Send an answer, and wait for what comes next."""
        if self.armour.draining or (self.half_closed and not (self._messages or self.ahead)):
            resp.force_close()
        if self._upgraded:  # it asked for another protocol, which is not spoken; some aiohttp fails on what came after that
            self._message_tail = b""
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
        """Answer what cannot be parsed, or what met a fault of the listener."""
        if status == 400:
            self.armour.refusals.note("malformed", self.peer, status=status)
        else:
            logger.error("a request could not be answered; this is a fault of the listener", exc_info=exc)
        return PlainAnswer(Reply(status=status, close=True))
