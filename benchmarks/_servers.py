"""Servers for deliveries, each in a process of its own: `python -m benchmarks._servers NAME` prints the port."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Coroutine

import uvicorn
import uvloop
from aiohttp import web
from fastapi import FastAPI, Request, Response

from original_async import OriginalWebhooks
from webhooks import MemoryStore, Receiver
from webhooks.ingress.aiohttp_app import serve

KEY_ID, SECRET = "4o3vfxtcmo7b", "webhook-secret-of-the-benchmarks"
PATH = "/webhooks/original"


def _listening() -> socket.socket:
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(listener.getsockname()[1], flush=True)
    return listener


async def _run(runner: web.BaseRunner) -> None:
    await runner.setup()
    await web.SockSite(runner, _listening()).start()
    await asyncio.Event().wait()


async def bare() -> None:
    """An aiohttp handler that reads the body and answers 204."""

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=204)

    application = web.Application()
    application.router.add_post(PATH, handle)
    await _run(web.AppRunner(application, access_log=None))


async def receiver() -> None:
    """The receiver in an aiohttp application, over a MemoryStore."""
    application = web.Application()
    Receiver(OriginalWebhooks({KEY_ID: SECRET}), MemoryStore()).register(application, PATH)
    await _run(web.AppRunner(application, access_log=None))


async def standalone() -> None:
    """The receiver as an aiohttp server without an application."""
    receiving = Receiver(OriginalWebhooks({KEY_ID: SECRET}), MemoryStore())

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return await serve(receiving, request)

    await _run(web.ServerRunner(web.Server(handle, access_log=None)))


async def fastapi() -> None:
    """FastAPI under uvicorn[standard], one worker, as idle as the bare handler."""
    application = FastAPI()

    async def handle(request: Request) -> Response:
        await request.body()
        return Response(status_code=204)

    handle.__annotations__ = {"request": Request, "return": Response}
    application.post(PATH)(handle)
    config = uvicorn.Config(application, log_level="warning", access_log=False)
    await uvicorn.Server(config).serve(sockets=[_listening()])


SERVERS: dict[str, Callable[[], Coroutine[None, None, None]]] = {
    "bare": bare,
    "receiver": receiver,
    "standalone": standalone,
    "fastapi": fastapi,
}


if __name__ == "__main__":
    (uvloop.run if sys.argv[1] == "fastapi" else asyncio.run)(SERVERS[sys.argv[1]]())
