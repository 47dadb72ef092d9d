"""Deliveries through a route of an aiohttp application, or any other aiohttp server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from aiohttp import ClientPayloadError, hdrs, web
from aiohttp.http_exceptions import BadHttpMessage

from rewards_core.validation import check_instance, check_methods, check_str, shown
from webhooks.ingress.base import A_CLOSABLE, ACCEPTED, Closable, Reply

if TYPE_CHECKING:
    from webhooks.ingress.base import Intake


def register(receiver: Intake, app: web.Application, path: str, completions: Closable | None = None) -> None:
    """Serve a receiver under a path; its handlers live with the application, and completions end before it."""
    check_instance(app, "app", web.Application)
    if not check_str(path, "path").startswith("/"):
        raise ValueError(f"path: give one that begins with '/', such as '/webhooks/rewards', not {shown(path)}.")
    if completions is not None:
        close_on_shutdown(app, completions)

    async def deliver(request: web.Request) -> web.Response:
        return await serve(receiver, request)

    async def live(_: web.Application) -> AsyncIterator[None]:
        await receiver.start()
        try:
            yield
        finally:
            await receiver.aclose()

    app.router.add_route(hdrs.METH_ANY, path, deliver)
    app.cleanup_ctx.append(live)


def close_on_shutdown(app: web.Application, completions: Closable) -> None:
    """Close `Completions` when an application shuts down, before the server waits for its open requests.

    The waits of those requests raise `CompletionsClosed`, instead of holding the server up.

    Args:
        app: An application that has not started.
        completions: What to close; it stays the application's to start.

    Raises:
        TypeError: `app` is no application, or `completions` cannot be closed.
    """
    check_instance(app, "app", web.Application)
    check_methods(completions, "completions", A_CLOSABLE, Closable)

    async def close(_: web.Application) -> None:
        await completions.aclose()

    app.on_shutdown.append(close)


async def serve(receiver: Intake, request: web.BaseRequest) -> web.Response:
    """Answer one request: limits first, then the raw body, then what the receiver says."""
    headers: Mapping[str, str] = request.headers
    content = request.content
    whole = content.is_eof() and content.exception() is None  # it came with the head: nothing to wait for
    peer = request.remote
    refusal = receiver.refusal(request.method, headers, None if whole else request.content_length, peer, unread=not whole)
    if refusal is not None:
        return _response(refusal)
    if whole:
        reply = await receiver.receive(headers, content.read_nowait(), peer)
    else:
        body = await _body(receiver, request)
        reply = await receiver.receive(headers, body, peer) if isinstance(body, bytes) else body
    return _response(reply)


async def _body(receiver: Intake, request: web.BaseRequest) -> bytes | Reply:
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(receiver.body_timeout):
            while part := await request.content.readany():
                size += len(part)
                if size > receiver.max_body:
                    return receiver.refuse("size", request.remote, request.headers)
                parts.append(part)
    except TimeoutError:
        return receiver.refuse("slow", request.remote, request.headers)
    except (ClientPayloadError, BadHttpMessage, ConnectionError):
        return receiver.refuse("broken", request.remote, request.headers)
    return b"".join(parts)


def _response(reply: Reply) -> web.Response:
    if reply is ACCEPTED:
        return web.Response()
    response = web.Response(status=reply.status, headers=reply.headers, body=reply.body)
    if reply.close:
        response.force_close()
    return response
