"""Deliveries through any ASGI server: on a route of FastAPI or Starlette, or served alone."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from multidict import CIMultiDict

from rewards_core.validation import check_methods
from webhooks.ingress.base import A_CLOSABLE, Closable, Intake, content_length
from webhooks.ingress.signals import close_on_signal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from webhooks.ingress.base import Reply

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class AsgiIngress:
    """An ASGI application that hands deliveries to a receiver, whatever the path.

    In FastAPI and Starlette give it a route: `FastAPI(routes=[Route("/webhooks/rewards", AsgiIngress(receiver))])`, with the
    `Route` of `starlette.routing`; routers and sub-applications take it as well. Under `app.mount` they answer a path without a
    slash at its end by a redirect, which the sender of a delivery need not follow.

    Served alone it starts and closes the receiver with the server. Inside another application it does not, because servers tell
    only the outermost application of their life: put `async with receiver:` into that application's lifespan, and
    `close_on_signal(completions)` (see `webhooks.ingress.signals`) where its requests wait.

    Args:
        receiver: Takes the deliveries.
        completions: What requests wait with, closed as soon as a signal tells the server to stop, so that no `wait` holds it up.
            It stays the application's to start.

    Raises:
        TypeError: `receiver` is no receiver, or `completions` cannot be closed.
    """

    def __init__(self, receiver: Intake, completions: Closable | None = None) -> None:
        self._receiver = check_methods(receiver, "receiver", "Receiver(...)", Intake)
        if completions is not None:
            check_methods(completions, "completions", A_CLOSABLE, Closable)
        self._completions = () if completions is None else (completions,)
        self._unguarded = completions is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or live through the life of the server."""
        if scope["type"] == "http":
            if self._unguarded:
                self._unguarded = False
                logger.warning(
                    "the server does not tell AsgiIngress of its life, so completions are not closed when it stops; put "
                    "close_on_signal(completions) into the application's lifespan"
                )
            reply = await self._reply(scope, receive)
            if reply is not None:
                await _answer(reply, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def _reply(self, scope: Scope, receive: Receive) -> Reply | None:
        """Return what to answer, None if nobody is left to hear it."""
        headers = _headers(scope["headers"])
        client = scope.get("client")
        peer = client[0] if client else None
        length = content_length(headers)
        refusal = self._receiver.refusal(scope["method"], headers, length, peer)
        if refusal is not None:
            return refusal
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._receiver.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        self._receiver.refuse("broken", peer, headers)
                        return None
                    part: bytes = message.get("body", b"")
                    size += len(part)
                    if size > self._receiver.max_body:
                        return self._receiver.refuse("size", peer, headers)
                    parts.append(part)
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            return self._receiver.refuse("slow" if parts else "absent", peer, headers)
        if size < (length or 0) or (not size and "transfer-encoding" in headers):
            return self._receiver.refuse("read_before", peer, headers)
        return await self._receiver.receive(headers, b"".join(parts), peer)

    async def _live(self, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as stack:
            while True:
                message = await receive()
                step = message["type"].rpartition(".")[2]
                try:
                    if step == "startup":
                        await self._receiver.start()
                        self._unguarded = False
                        if self._completions:
                            await stack.enter_async_context(close_on_signal(*self._completions))
                    else:
                        for one in self._completions:
                            await one.aclose()
                        await self._receiver.aclose()
                except Exception as problem:  # noqa: BLE001 - the server must hear of it in its own words
                    await send({"type": f"lifespan.{step}.failed", "message": f"{type(problem).__name__}: {problem}"})
                    return
                await send({"type": f"lifespan.{step}.complete"})
                if step == "shutdown":
                    return


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> CIMultiDict[str]:
    return CIMultiDict((name.decode("latin-1"), value.decode("latin-1")) for name, value in raw)


async def _answer(reply: Reply, send: Send) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers.items()]
    headers.append((b"content-length", str(len(reply.body)).encode()))
    if reply.close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
