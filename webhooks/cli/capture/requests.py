"""Requests as they arrive at the server, and a server that records each of them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from aiohttp import web
from attrs import define, frozen

from original_async.signature_readings import SignatureReading
from rewards_core.errors import SignatureError
from rewards_core.operations import Event
from webhooks.cli.capture.redaction import Headers
from webhooks.ingress.base import BodyProblem, Intake, Reply
from webhooks.ingress.hardened_server import HardenedServer
from webhooks.ingress.paths import path_of

_current: ContextVar[CapturedRequest] = ContextVar("the request that is being answered")


@frozen(kw_only=True)
class Attempt:
    """One attempt of a delivery, for comparison with others.

    Attributes:
        number: The number of its request.
        event: The event in its body.
        headers: Its headers.
    """

    number: int
    event: Event
    headers: Headers


@define(kw_only=True)
class CapturedRequest:
    """A request and what is known about it.

    Attributes:
        at: When its headers arrived, Unix time.
        peer: The address of the peer, empty on a unix socket.
        method: Its method.
        target: Its target as it arrived: the path with the query, or a whole URL.
        http: Its HTTP version, such as `"1.1"`.
        headers: Its headers as they arrived, repeated ones too.
        number: Its number in this capture, 0 before it has one.
        body: Its raw body, None if it was not read.
        reply: The receiver's reply, None if no receiver was reached.
        attempt: The request as one attempt of a delivery, None if its body was not read.
        earlier: The previous attempt of the same delivery.
        asked_again: Whether it was stored, but answered 503 so that it is sent again.
        accepted: The id of the key that verified it, None if it did not verify.
        problem: Why it did not verify.
        readings: The ways in which its signature can be read.
    """

    at: float
    peer: str
    method: str
    target: str
    http: str
    headers: Headers
    number: int = 0
    body: bytes | None = None
    reply: Reply | None = None
    attempt: Attempt | None = None
    earlier: Attempt | None = None
    asked_again: bool = False
    accepted: str | None = None
    problem: SignatureError | None = None
    readings: Sequence[SignatureReading] = ()

    @property
    def path(self) -> str:
        """Its path, spelled as the paths of receivers are."""
        return path_of(self.target) or self.target

    @property
    def event(self) -> Event | None:
        """The event in its body, None if the body was not read."""
        return None if self.attempt is None else self.attempt.event

    @property
    def ours(self) -> bool:
        """Whether a configured key signed the request, in the accepted way or any other way."""
        return self.accepted is not None or any(reading.ours for reading in self.readings)

    @property
    def stored(self) -> bool:
        """Whether the event of the request is in the store."""
        return self.accepted is not None and self.reply is not None and (self.reply.status == 200 or self.asked_again)

    @property
    def misread(self) -> bool:
        """Whether a configured key signed the request, but in a way that is not accepted."""
        return self.ours and self.accepted is None


Answer = Callable[[CapturedRequest, Reply], Awaitable[Reply]]
"""Takes a complete delivery and the receiver's reply; returns the reply to send."""


def recording_server(
    receivers: Mapping[str, Intake], answer: Answer, record: Callable[[CapturedRequest], Awaitable[None]], **options: Any
) -> HardenedServer:
    """Return a server that records requests.

    `answer` is called with each complete delivery, `record` with each request at its end, before its answer leaves.
    """
    server = HardenedServer({path: _RecordingReceiver(receiver, answer) for path, receiver in receivers.items()}, **options)
    serve = server.request_handler

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        captured = CapturedRequest(
            at=time.time(),
            peer=request.remote or "",
            method=request.method,
            target=request.raw_path,
            http=f"{request.version.major}.{request.version.minor}",
            headers=list(request.headers.items()),
        )
        token = _current.set(captured)
        try:
            response = await serve(request)
        finally:
            _current.reset(token)
        await record(captured)
        return response

    server.request_handler = handle
    return server


class _RecordingReceiver:
    def __init__(self, receiver: Intake, answer: Answer) -> None:
        self._receiver = receiver
        self._answer = answer
        self.start = receiver.start
        self.aclose = receiver.aclose
        self.max_body = receiver.max_body
        self.body_timeout = receiver.body_timeout

    def refusal(
        self, method: str, headers: Mapping[str, str], content_length: int | None, peer: object = None, *, unread: bool = True
    ) -> Reply | None:
        del unread  # the body is read even if no configured key can have signed it
        reply = self._receiver.refusal(method, headers, content_length, peer, unread=False)
        _current.get().reply = reply
        return reply

    def refuse(self, reason: BodyProblem, peer: object = None, headers: Mapping[str, str] | None = None) -> Reply:
        reply = self._receiver.refuse(reason, peer, headers)
        captured = _current.get(None)
        if captured is not None:  # the timeout of a slow body runs outside its request's context
            captured.reply = reply
        return reply

    async def receive(self, headers: Mapping[str, str], body: bytes, peer: object = None) -> Reply:
        reply = await self._receiver.receive(headers, body, peer)
        captured = _current.get()
        captured.body = body
        captured.reply = reply = await self._answer(captured, reply)
        return reply
