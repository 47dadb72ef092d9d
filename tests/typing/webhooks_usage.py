"""What a person's editor says about a receiver inside FastAPI, Starlette and aiohttp; read by type checkers, run by nobody."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from aiohttp import web
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from original_async import OriginalWebhooks
from rewards_core import Event
from webhooks import Completions, Receiver
from webhooks.ingress.asgi import AsgiIngress
from webhooks.ingress.signals import close_on_signal

receiver = Receiver(OriginalWebhooks.from_env(), "sqlite:///inbox.db", service="shop")


@receiver.on("reward.allocated")
async def handle(event: Event) -> None:
    print(event.ref)


def in_fastapi(completions: Completions) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with receiver, completions, close_on_signal(completions):
            yield

    app = FastAPI(lifespan=lifespan, routes=[Route("/webhooks/original", AsgiIngress(receiver))])
    app.router.routes.append(Route("/another", AsgiIngress(receiver)))
    app.include_router(APIRouter(routes=[Route("/original", AsgiIngress(receiver))]), prefix="/webhooks")
    app.mount("/mounted", AsgiIngress(receiver))
    return app


def in_starlette() -> Starlette:
    return Starlette(routes=[Route("/webhooks/original", AsgiIngress(receiver)), Mount("/mounted", AsgiIngress(receiver))])


def alone() -> ASGIApp:
    return AsgiIngress(receiver)


def in_aiohttp(completions: Completions) -> web.Application:
    app = web.Application(client_max_size=receiver.max_body)
    receiver.register(app, "/webhooks/original", completions)
    return app
