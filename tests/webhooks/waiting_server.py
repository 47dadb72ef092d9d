"""A server whose requests wait for an operation that never settles: `python -m tests.webhooks.waiting_server KIND`.

It prints its port. `GET /wait` is answered 503 where its wait is closed, `GET /waiting` says how many wait.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import uvicorn
from aiohttp import web
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from tests.webhooks.fakes import FakeSource, FakeVendor
from webhooks import Completions, CompletionsClosed, MemoryStore, Receiver
from webhooks.ingress.aiohttp_app import close_on_shutdown
from webhooks.ingress.asgi import AsgiIngress, Receive, Scope, Send
from webhooks.ingress.signals import close_on_signal

PATH = "/webhooks/fake"


def _listening() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    return listener


def _parts() -> tuple[Receiver, Completions]:
    vendor, store = FakeVendor(), MemoryStore()
    vendor.will("1", "pending")
    return Receiver(FakeSource(), store), Completions(vendor, store)


async def _answer(completions: Completions, path: str) -> tuple[int, str]:
    if path == "/waiting":
        return 200, str(completions.statistics.waiting)
    try:
        await completions.wait("1")
    except CompletionsClosed:
        return 503, "closed"
    raise AssertionError


def aiohttp_app(*, with_receiver: bool) -> None:
    """An aiohttp application under `web.run_app`."""
    receiver, completions = _parts()
    app = web.Application()

    async def get(request: web.Request) -> web.Response:
        status, text = await _answer(completions, request.path)
        return web.Response(status=status, text=text)

    async def live(_: web.Application) -> AsyncIterator[None]:
        async with completions:
            yield

    if with_receiver:
        receiver.register(app, PATH, completions)
    else:
        close_on_shutdown(app, completions)
    app.cleanup_ctx.append(live)
    app.router.add_get("/{name}", get)
    web.run_app(app, sock=_listening(), print=None)


def fastapi_app() -> None:
    """FastAPI under uvicorn, the completions in its lifespan."""
    receiver, completions = _parts()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with receiver, completions, close_on_signal(completions):
            yield

    async def get(request: Request) -> Response:
        status, text = await _answer(completions, request.url.path)
        return PlainTextResponse(text, status)

    app = FastAPI(lifespan=lifespan)
    app.router.routes.append(Route(PATH, AsgiIngress(receiver)))
    app.add_route("/{name}", get)
    _serve(app)


def ingress_app() -> None:
    """The ingress under uvicorn, told of the server's life, and a route beside it."""
    receiver, completions = _parts()
    ingress = AsgiIngress(receiver, completions)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != PATH:
            await completions.start()
            status, text = await _answer(completions, scope["path"])
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": text.encode()})
        else:
            await ingress(scope, receive, send)

    _serve(app)


def _serve(app: FastAPI | Callable[[Scope, Receive, Send], object]) -> None:
    config = uvicorn.Config(app, lifespan="on", log_level="warning")
    uvicorn.Server(config).run(sockets=[_listening()])


KINDS: dict[str, Callable[[], None]] = {
    "aiohttp": lambda: aiohttp_app(with_receiver=True),
    "aiohttp without a receiver": lambda: aiohttp_app(with_receiver=False),
    "fastapi": fastapi_app,
    "ingress": ingress_app,
}

if __name__ == "__main__":
    KINDS[sys.argv[1]]()
