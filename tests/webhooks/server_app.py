"""An application that several processes serve from one store.

tests.webhooks.server_app:app              FastAPI, for uvicorn and gunicorn; the store is `inbox.db` in the current folder
python -m tests.webhooks.server_app FD     the same on aiohttp, on a listening socket that it inherits

Every process writes lines to its standard output: `up PID` and `down PID` for its life, `ran UID` for each event that its
handler got.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from fastapi import FastAPI
from starlette.routing import Route

from original_async import OriginalWebhooks
from rewards_core.operations import Event
from webhooks import HandlerPolicy, Receiver
from webhooks.ingress.asgi import AsgiIngress

PATH = "/webhooks/original"

receiver = Receiver(
    OriginalWebhooks.from_env(),
    "sqlite:///inbox.db",
    handlers=HandlerPolicy(lease=2.0, timeout=1.0, attempts=1_000, first_delay=0.1, max_delay=1.0),
)


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


@receiver.on("*")
async def remember(event: Event) -> None:
    say("ran", event.ref.uid if event.ref else None)


@asynccontextmanager
async def living(_: object) -> AsyncIterator[None]:
    async with receiver:
        say("up", os.getpid())
        yield
    say("down", os.getpid())


app = FastAPI(lifespan=living)
app.router.routes.append(Route(PATH, AsgiIngress(receiver)))


def on_aiohttp(descriptor: int) -> None:
    application = web.Application()
    receiver.register(application, PATH)

    async def life(_: web.Application) -> AsyncIterator[None]:
        say("up", os.getpid())
        yield
        say("down", os.getpid())

    application.cleanup_ctx.append(life)
    web.run_app(application, sock=socket.socket(fileno=descriptor), print=None)


if __name__ == "__main__":
    on_aiohttp(int(sys.argv[1]))
