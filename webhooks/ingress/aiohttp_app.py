"""Deliveries through a route of an aiohttp application, or any other aiohttp server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

from aiohttp import ClientPayloadError, hdrs, web
from aiohttp.http_exceptions import BadHttpMessage

from rewards_core.validation import check_instance, check_methods, check_str, shown
from webhooks.ingress.base import A_CLOSABLE, ACCEPTED, Closable, Reply

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

    from webhooks.ingress.base import Intake

logger = logging.getLogger(__name__)


def register(receiver: Intake, app: web.Application, path: str, completions: Closable | None = None) -> None:
    """Serve a receiver under a path; its handlers run, and completions stay open, until the application shuts down."""
    check_instance(app, "app", web.Application)
    if not check_str(path, "path").startswith("/"):
        raise ValueError(f"path: give one that begins with '/', such as '/webhooks/rewards', not {shown(path)}.")
    max_body, warned = receiver.max_body, set[int]()
    own_size: int = app._client_max_size  # noqa: SLF001 - public only on requests
    if 0 < own_size < max_body:
        raise ValueError(_too_small(own_size, max_body))
    if completions is not None:
        close_on_shutdown(app, completions)

    async def deliver(request: web.Request) -> web.StreamResponse:
        size = request.client_max_size  # the outermost application's
        if 0 < size < max_body and size not in warned:
            warned.add(size)
            logger.warning(_too_small(size, max_body))
        return await serve(receiver, request)

    async def lifespan(_: web.Application) -> AsyncIterator[None]:
        await receiver.start()
        try:
            yield
        finally:
            await receiver.aclose()

    app.router.add_route(hdrs.METH_ANY, path, deliver)
    app.cleanup_ctx.append(lifespan)


def _too_small(size: int, max_body: int) -> str:
    return (
        f"client_max_size: this application refuses bodies of more than {size} bytes, but the receiver accepts up to {max_body}. "
        f"A larger delivery fails if a middleware reads its body. Use web.Application(client_max_size={max_body}) or "
        f"Receiver(max_body={size})."
    )


def close_on_shutdown(app: web.Application, completions: Closable) -> None:
    """Close `Completions` when an application shuts down, before the server waits for its open requests.

    The waits of those requests raise `CompletionsClosed` instead of delaying the shutdown.

    Args:
        app: An application that has not started.
        completions: The completions to close; the application starts them.

    Raises:
        TypeError: `app` is not an application, or `completions` cannot be closed.
    """
    check_instance(app, "app", web.Application)
    check_methods(completions, "completions", A_CLOSABLE, Closable)

    async def close(_: web.Application) -> None:
        await completions.aclose()

    app.on_shutdown.append(close)


async def serve(receiver: Intake, request: web.BaseRequest) -> web.StreamResponse:
    """Answer one request.

    Middlewares may read the body as well, before or after, with `read`, `text`, `json` or `post`.
    """
    headers: Mapping[str, str] = request.headers
    content = request.content
    complete = content.is_eof() and content.exception() is None
    peer = request.remote
    refusal = receiver.refusal(request.method, headers, None if complete else request.content_length, peer, unread=not complete)
    if refusal is not None:
        return _response(refusal)
    body = content.read_nowait() if complete else await _body(receiver, request)
    if isinstance(body, Reply):
        return _response(body)
    if len(body) == content.total_bytes:
        request._read_bytes = body  # noqa: SLF001 - so that later readers find the body; there is no public way
    else:
        body = b"" if body else await request.read()  # a middleware has read it, and aiohttp has cached it
        if len(body) != content.total_bytes:
            return _response(receiver.refuse("read_before", peer, headers))
    return _response(await receiver.receive(headers, body, peer))


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


class _LastResponse(web.Response):
    """Closes its connection at once, without reading the rest of the request; aiohttp would read on for ten seconds."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send the headers."""
        self._connection = request.protocol
        self.force_close()
        return await super().prepare(request)

    async def write_eof(self, data: bytes = b"") -> None:
        """Send the body, and close the connection."""
        await super().write_eof(data)
        self._connection.force_close()


def _response(reply: Reply) -> web.Response:
    if reply is ACCEPTED:
        return web.Response()
    kind = _LastResponse if reply.close else web.Response
    return kind(status=reply.status, headers=reply.headers, body=reply.body)
