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
    """An ASGI application that passes deliveries on any path to a receiver.

    In FastAPI and Starlette give it a route: `FastAPI(routes=[Route("/webhooks/rewards", AsgiIngress(receiver))])`, with the
    `Route` of `starlette.routing`; routers and sub-applications work as well. Avoid `app.mount`: it answers a path without a
    trailing slash with a redirect, which the sender of a delivery need not follow.

    Served alone, it starts the receiver with the server, and closes it by `aclose()`. Inside another application it cannot,
    because servers send lifespan events only to the outermost application: put `async with receiver:` into that application's
    lifespan, and `close_on_signal(completions)` (see `webhooks.ingress.signals`) if its requests wait.

    Args:
        receiver: Processes the deliveries.
        completions: Closed as soon as a signal tells the server to stop, so that no `wait` delays the shutdown. The application
            starts it.

    Raises:
        TypeError: `receiver` is not a receiver, or `completions` cannot be closed.
    """

    def __init__(self, receiver: Intake, completions: Closable | None = None) -> None:
        self._receiver = check_methods(receiver, "receiver", "Receiver(...)", Intake)
        if completions is not None:
            check_methods(completions, "completions", A_CLOSABLE, Closable)
        self._completions = () if completions is None else (completions,)
        self._awaits_lifespan = completions is not None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or handle the server's lifespan."""
        if scope["type"] == "http":
            if self._awaits_lifespan:
                self._awaits_lifespan = False
                logger.warning(
                    "AsgiIngress received no lifespan events, so completions are not closed when the server stops; put "
                    "close_on_signal(completions) into the application's lifespan"
                )
            reply = await self._reply(scope, receive)
            if reply is not None:
                await _send(reply, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})

    async def _reply(self, scope: Scope, receive: Receive) -> Reply | None:
        """Return the reply, None if the peer has disconnected."""
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

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        async with AsyncExitStack() as stack:
            while True:
                message = await receive()
                step = message["type"].rpartition(".")[2]
                try:
                    if step == "startup":
                        await self._receiver.start()
                        self._awaits_lifespan = False
                        if self._completions:
                            await stack.enter_async_context(close_on_signal(*self._completions))
                    else:
                        for each in self._completions:
                            await each.aclose()
                        await self._receiver.aclose()
                except Exception as problem:  # noqa: BLE001 - the server expects it as a message
                    await send({"type": f"lifespan.{step}.failed", "message": f"{type(problem).__name__}: {problem}"})
                    return
                await send({"type": f"lifespan.{step}.complete"})
                if step == "shutdown":
                    return


def _headers(raw: Iterable[tuple[bytes, bytes]]) -> CIMultiDict[str]:
    return CIMultiDict((name.decode("latin-1"), value.decode("latin-1")) for name, value in raw)


async def _send(reply: Reply, send: Send) -> None:
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in reply.headers.items()]
    headers.append((b"content-length", str(len(reply.body)).encode()))
    if reply.close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
