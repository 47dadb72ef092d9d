"""One peer's connection to the listener: aiohttp's protocol with timeouts, size limits and a slot that may be taken away.

aiohttp's own protocol waits for ever for a slow peer's headers and body, and reads on while nothing is answered.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol, cast

from aiohttp import web
from aiohttp.http import RawRequestMessage

from webhooks.ingress.base import Reply
from webhooks.ingress.peers import Address, read_address
from webhooks.ingress.responses import PlainResponse, response_bytes
from webhooks.ingress.slots import Phase

if TYPE_CHECKING:
    from aiohttp import StreamReader

    from webhooks.ingress.base import BodyProblem, Intake
    from webhooks.ingress.limits import ServerLimits
    from webhooks.refusals import Refusals

logger = logging.getLogger("webhooks.listener")

READ_SIZE = 16_384
"""Bytes per read, and the size of a transport's buffers at which reading or writing pauses."""


_STREAM_BUFFER = 131_072
"""Bytes that the system keeps of a stream for a peer that is slow to read: some frames, not minutes of them."""


class _Owner(Protocol):
    """The server of a connection; all its connections share `read_buffer`, which has `READ_SIZE` bytes."""

    limits: ServerLimits
    refusals: Refusals
    draining: bool
    read_buffer: memoryview

    def admit(self, connection: Connection) -> int | None: ...
    def evict(self, connection: Connection) -> None: ...
    def remove(self, connection: Connection) -> None: ...


class Connection(web.RequestHandler, asyncio.BufferedProtocol):
    """One peer's connection, with its phase and deadline.

    It is a buffered protocol because asyncio would read up to 256 KiB at a time into memory of each connection.
    """

    __slots__ = (
        "client",
        "deadline",
        "deadline_cap",
        "half_closed",
        "headers",
        "last_body",
        "owner",
        "paused_since",
        "peer",
        "phase",
        "pipelined",
        "proxy_unchecked",
        "received",
        "receiver",
        "since",
        "streaming",
        "time_left",
        "unread_body",
        "unsigned",
        "wire",
    )

    def __init__(self, owner: _Owner, server: web.Server, **options: Any) -> None:
        super().__init__(server, **options)
        self.owner = owner
        self.phase = Phase.IDLE
        self.since = self._loop.time()
        self.paused_since: float | None = None
        self.deadline = self.deadline_cap = self.time_left = float("inf")
        self.received = 0
        self.pipelined = False
        self.half_closed = False
        self.peer: Address | None = None
        self.client: Address | None = None
        self.last_body: StreamReader | None = None
        self.unread_body: StreamReader | None = None
        self.unsigned = False
        self.streaming: asyncio.Task[Any] | None = None
        self.proxy_unchecked = False
        self.headers: Mapping[str, str]
        self.receiver: Intake
        self.wire: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a slot, or refuse the connection."""
        self.wire = cast("asyncio.Transport", transport)
        name = transport.get_extra_info("peername")
        self.peer = self.client = read_address(name[0]) if isinstance(name, tuple) else None
        refusal = self.owner.admit(self)
        if refusal is not None:
            self._manager = None  # the base class then ignores the end of a connection that it never started
            self._force_close = True
            self._write_status(refusal)
            self.enter(Phase.CLOSING, self.owner.limits.linger_seconds)
            transport.close()
            return
        self.wire.set_write_buffer_limits(READ_SIZE)
        if hasattr(transport, "set_read_buffer_limits"):  # a TLS transport would hold 256 KiB of unread data
            transport.set_read_buffer_limits(READ_SIZE)
        self.enter(Phase.IDLE, self.owner.limits.header_seconds)
        super().connection_made(transport)

    def eof_received(self) -> bool:  # type: ignore[override]  # aiohttp's returns None, asyncio takes both
        """Answer complete requests of a plain connection whose peer has closed only its own half; otherwise close."""
        complete = self.phase in (Phase.BODY, Phase.ANSWER) and (self.last_body is None or self.last_body.is_eof())
        if complete and self.streaming is None and self.wire.get_extra_info("sslcontext") is None:
            self.half_closed = True
        else:
            self.force_close()
        return self.half_closed

    def connection_lost(self, exc: BaseException | None) -> None:
        """Give the slot back."""
        self.owner.remove(self)
        super().connection_lost(exc)
        if self.streaming is not None:
            self.streaming.cancel()
        self._messages.clear()  # unanswered requests, which form reference cycles with this connection
        self.last_body = self.unread_body = None  # likewise

    def force_close(self) -> None:
        """Close, and stop reading: aiohttp would wait for the rest of a refused body."""
        super().force_close()
        if self.unread_body is not None:
            self.unread_body.feed_eof()

    def abort(self) -> None:
        """Abort the connection.

        The transport is aborted first: asyncio detaches from a TLS transport that is closed twice, after which `abort` does
        nothing, and a connection whose peer left while reading was paused would stay open for ever.
        """
        self.wire.abort()
        self.force_close()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return the buffer that all connections share; `buffer_updated` copies from it at once."""
        return self.owner.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Handle received bytes."""
        self.data_received(bytes(self.owner.read_buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Parse received bytes, and update the phase."""
        self.received += len(data)
        if self.phase is Phase.IDLE and data:
            self.enter(Phase.HEADERS, self.owner.limits.header_seconds)
            self.received = len(data)
        elif self.phase is Phase.ANSWER and data:
            self._hold_reading()
        before = self._request_count
        super().data_received(data)
        new = self._request_count - before
        if new:
            self.last_body = self._messages[-1][1]
        if new and self.phase is Phase.BODY:
            if self._messages and not isinstance(self._messages[-1][0], RawRequestMessage):
                # the parser failed inside the body that is being read, and would report it only to the next request
                self.refuse_body("broken")
            else:
                self._hold_reading()
        elif new:
            if new > 1:
                self._hold_reading()
            if self.phase in (Phase.HEADERS, Phase.IDLE):
                self.enter(Phase.ANSWER, self.owner.limits.answer_seconds)
        elif self.phase is Phase.HEADERS and self.received > self.owner.limits.header_bytes:
            self.refuse_headers(431, "headers_too_large")

    def _hold_reading(self) -> None:
        """Pause reading while pipelined requests wait for their answers.

        aiohttp pauses at 32 requests, but miscounts when a request starts before its body is complete: it then buffers without
        limit what a peer sends that reads no answers, and never answers what it buffered.
        """
        self.pipelined = True
        if not self.wire.is_closing():
            self.wire.pause_reading()

    def _resume_after_responses(self) -> None:
        """Handle pipelined requests, then resume reading."""
        self.pipelined = False
        self.data_received(b"")
        if self.half_closed and self.phase is Phase.IDLE:
            self.force_close()
        elif not self.pipelined:
            self._resume_wire()

    def _resume_for_body(self) -> None:
        """Resume reading although requests wait: the rest of a body is still to come."""
        if self.pipelined:
            self.pipelined = False
            self._resume_wire()

    def _resume_wire(self) -> None:
        if not (self._reading_paused or self.wire.is_closing()):  # asyncio may have detached from a closed TLS connection
            self.wire.resume_reading()

    def resume_reading(self, *options: Any, **more: Any) -> None:
        """Resume reading only if it is paused; otherwise the base class would run the parser again after every request."""
        if self._reading_paused:
            super().resume_reading(*options, **more)

    def enter(self, phase: Phase, seconds: float) -> None:
        """Begin a phase with this timeout."""
        self.phase = phase
        self.since = self._loop.time()
        self.deadline = self.since + seconds
        self.paused_since = None

    def expect_body(self, receiver: Intake, headers: Mapping[str, str], received: int) -> None:
        """Wait for the rest of a body, of which `received` bytes have arrived."""
        self.receiver, self.headers = receiver, headers
        self.enter(Phase.BODY, receiver.body_timeout)
        self.deadline_cap = self.deadline + receiver.body_timeout
        self.received = received
        self._resume_for_body()

    def pause_body(self) -> None:
        """Wait for memory. The peer's timeout is suspended, for at most as long as the timeout itself."""
        self.paused_since = self._loop.time()
        self.time_left = self.deadline - self.paused_since
        self.deadline = self.deadline_cap

    def resume_body(self) -> None:
        """End that wait, if there is one."""
        if self.paused_since is not None:
            now = self._loop.time()
            self.since += now - self.paused_since
            self.deadline = min(now + self.time_left, self.deadline_cap)
            self.paused_since = None

    def evict(self) -> int | None:
        """Close at once to free the slot; a peer that was about to send a request gets 429, so that it sends it again."""
        unused = self.phase is Phase.IDLE and not self._request_count
        status = 429 if unused or self.phase in (Phase.HEADERS, Phase.BODY) else None
        if status is not None:
            self._write_status(status)
        self.enter(Phase.CLOSING, self.owner.limits.linger_seconds)
        self.abort()
        return status

    def expire(self) -> None:
        """Handle the phase's timeout."""
        if self.phase is Phase.IDLE:
            self.enter(Phase.CLOSING, self.owner.limits.linger_seconds)
            self.force_close()
        elif self.phase is Phase.HEADERS:
            self.refuse_headers(408, "header_timeout")
        elif self.phase is Phase.BODY and self.paused_since is not None:
            self.owner.evict(self)
        elif self.phase is Phase.BODY:
            self.refuse_body("slow")
        else:
            if self.phase is Phase.ANSWER:
                self.owner.refusals.note("answer_timeout" if self.streaming is None else "console_slow", self.peer)
            self.deadline = float("inf")
            self.abort()

    def refuse_headers(self, status: int, reason: str) -> None:
        """Refuse a request with incomplete headers, and close."""
        self.owner.refusals.note(reason, self.peer, status=status)
        self._refuse_and_close(status)

    def refuse_body(self, reason: BodyProblem) -> None:
        """Refuse an incomplete body, and close the connection; the task that reads the body gets an error."""
        self._refuse_and_close(self.receiver.refuse(reason, self.client, self.headers).status)

    def _refuse_and_close(self, status: int) -> None:
        self._write_status(status)
        self.enter(Phase.CLOSING, self.owner.limits.linger_seconds)
        self.force_close()

    def _write_status(self, status: int) -> None:
        headers = {"Retry-After": "1"} if status == 429 else {}
        self.wire.write(response_bytes(Reply(status=status, headers=headers), keep_alive=False))

    async def send_bytes(self, data: bytes) -> None:
        """Send bytes, and wait while the peer is slow to read them; raises `ConnectionResetError` if it has disconnected."""
        if self.transport is None:
            raise ConnectionResetError
        self.wire.write(data)
        if self.writing_paused:
            await self._drain_helper()

    async def send_stream(self, frames: AsyncGenerator[bytes, None]) -> None:
        """Send a body frame by frame, each with its own time to be read, until they or the connection ends."""
        self.streaming = asyncio.current_task()
        notice_soon(self.wire.get_extra_info("socket"), self.owner.limits.answer_seconds)
        try:
            async with aclosing(frames):
                async for frame in frames:
                    self.enter(Phase.ANSWER, self.owner.limits.answer_seconds)
                    await self.send_bytes(frame)
        except asyncio.CancelledError:
            if self.transport is not None or self.streaming is None:
                raise
            self.streaming.uncancel()
            raise ConnectionResetError from None
        finally:
            self.streaming = None

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response, and enter the next phase."""
        if self.owner.draining or (self.half_closed and not (self._messages or self.pipelined)):
            resp.force_close()
        if self._upgraded:  # the requested protocol is not supported; some versions of aiohttp fail on the bytes that follow
            self._message_tail = b""
            resp.force_close()
        finished = await super().finish_response(request, resp, start_time)
        limits = self.owner.limits
        if self._force_close:
            request.content.feed_eof()
        if self.phase is Phase.CLOSING:
            return finished
        if not resp.keep_alive:
            self.unread_body = request.content
            self.enter(Phase.CLOSING, 2 * limits.linger_seconds)
        elif self._messages:
            self.enter(Phase.ANSWER, limits.answer_seconds)
        else:
            self.enter(Phase.IDLE, limits.idle_seconds)
            if self.pipelined:
                self._resume_after_responses()
        return finished

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - the base class's signature
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - as above
    ) -> web.StreamResponse:
        """Answer a request that cannot be parsed, or that hit a fault of the listener."""
        if status == 400:
            self.owner.refusals.note("malformed", self.peer, status=status)
        else:
            logger.error("could not answer a request because of a bug in the listener; the sender gets HTTP 500", exc_info=exc)
        return PlainResponse(Reply(status=status, close=True))


def notice_soon(wire: Any, seconds: float) -> None:
    """Make the kernel notice within about `seconds` that a peer reads nothing or has vanished."""
    wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _STREAM_BUFFER)
    if hasattr(socket, "TCP_USER_TIMEOUT") and wire.family != socket.AF_UNIX:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1_000))
