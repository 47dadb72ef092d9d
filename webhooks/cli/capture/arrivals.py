"""Each request that arrives at a server, with everything its HTTP says about it, whether a receiver answers it or not."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any

from aiohttp import web
from attrs import define

from webhooks.cli.capture.attempts import Attempt
from webhooks.cli.capture.redaction import Headers
from webhooks.ingress.armour import ArmouredServer
from webhooks.ingress.base import BodyProblem, Intake, Reply
from webhooks.ingress.paths import path_of

_arrival: ContextVar[Arrival] = ContextVar("the request that is being answered")

Answer = Callable[["Arrival", Reply], Awaitable[Reply]]
"""What a watcher does with a delivery that came whole and the answer it would get; returns the answer it does get."""


@define(kw_only=True)
class Arrival:
    """A request.

    Attributes:
        at: When its headers had come, Unix time.
        peer: The address at the other end of its connection, empty for a unix socket.
        method: Its method.
        target: What it asks for, as it arrived: the path, or a whole URL, with the query.
        http: The version of its HTTP, such as `"1.1"`.
        headers: As they arrived, repeated ones too.
        body: Its raw bytes, None where they were not read.
        reply: What a receiver answered; None where it came to none.
        attempt: What it says, for comparison with others; None where its body was not read.
        earlier: The earlier attempt of the same delivery.
        asked_again: Whether it was kept, and refused so that it is sent again.
    """

    at: float
    peer: str
    method: str
    target: str
    http: str
    headers: Headers
    body: bytes | None = None
    reply: Reply | None = None
    attempt: Attempt | None = None
    earlier: Attempt | None = None
    asked_again: bool = False

    @property
    def path(self) -> str:
        """The path that it asks for, as the paths of receivers are spelled."""
        return path_of(self.target) or self.target


def watched(
    receivers: Mapping[str, Intake], answer: Answer, seen: Callable[[Arrival], Awaitable[None]], **options: Any
) -> ArmouredServer:
    """Return a server whose requests are seen, each once, before its answer leaves.

    Args:
        receivers: Path to what takes its deliveries.
        answer: Hears of each delivery that came whole, and decides.
        seen: Hears of each request at its end.
        options: Those of the server.
    """
    server = ArmouredServer({path: _Watched(receiver, answer) for path, receiver in receivers.items()}, **options)
    serve = server.request_handler

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        arrival = Arrival(
            at=time.time(),
            peer=request.remote or "",
            method=request.method,
            target=request.raw_path,
            http=f"{request.version.major}.{request.version.minor}",
            headers=list(request.headers.items()),
        )
        token = _arrival.set(arrival)
        try:
            response = await serve(request)
        finally:
            _arrival.reset(token)
        await seen(arrival)
        return response

    server.request_handler = handle
    return server


class _Watched:
    """A receiver whose answers are seen."""

    def __init__(self, receiver: Intake, answer: Answer) -> None:
        self._receiver = receiver
        self._answer = answer
        self.start = receiver.start
        self.aclose = receiver.aclose

    @property
    def max_body(self) -> int:
        return self._receiver.max_body

    @property
    def body_timeout(self) -> float:
        return self._receiver.body_timeout

    def refusal(
        self, method: str, headers: Mapping[str, str], content_length: int | None, peer: object = None, *, unread: bool = True
    ) -> Reply | None:
        del unread  # a body is read even if no configured key can have signed it
        reply = self._receiver.refusal(method, headers, content_length, peer, unread=False)
        _arrival.get().reply = reply
        return reply

    def refuse(self, reason: BodyProblem, peer: object = None, headers: Mapping[str, str] | None = None) -> Reply:
        reply = self._receiver.refuse(reason, peer, headers)
        arrival = _arrival.get(None)
        if arrival is not None:  # what cuts a slow body off runs beside its request
            arrival.reply = reply
        return reply

    async def receive(self, headers: Mapping[str, str], body: bytes, peer: object = None) -> Reply:
        reply = await self._receiver.receive(headers, body, peer)
        arrival = _arrival.get()
        arrival.body = body
        arrival.reply = reply = await self._answer(arrival, reply)
        return reply
