"""A receiver in every place of FastAPI and Starlette, for uvicorn: `tests.webhooks.framework_app:app`.

Each place has a path of its own. `GET /PLACE/kept` tells how many events its receiver kept and why it refused others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from original_async import OriginalWebhooks
from rewards_core.operations import Event, EventSource
from tests.webhooks.fakes import FakeSource
from webhooks import MemoryStore, Receiver
from webhooks.ingress.asgi import AsgiIngress

PATH = "/webhooks/fake"
SIGNED_BY = {"4o3vfxtcmo7b": "a-webhook-secret"}
receivers: dict[str, Receiver] = {}
handled: dict[str, int] = {}


def ingress(place: str, *, source: EventSource | None = None, body_timeout: float = 60.0) -> AsgiIngress:
    receiver = receivers[place] = Receiver(source or FakeSource(), MemoryStore(), max_body=8_000_000, body_timeout=body_timeout)
    handled[place] = 0

    @receiver.on("*", name="app.count")
    async def count(event: Event) -> None:
        handled[place] += 1

    return AsgiIngress(receiver)


async def reads_the_body(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    await request.body()
    return await call_next(request)


async def reads_nothing(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    return await call_next(request)


async def reads_the_stream(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    async for _ in request.stream():
        pass
    return await call_next(request)


class TakesTheBody:
    """A plain ASGI middleware that consumes the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "POST":
            while (await receive()).get("more_body"):
                pass
        await self.app(scope, receive, send)


def behind(place: str, *middlewares: Middleware, body_timeout: float = 60.0) -> Mount:
    routes = [Route(PATH, ingress(place, body_timeout=body_timeout))]
    return Mount(f"/{place}", Starlette(routes=routes, middleware=middlewares))


@asynccontextmanager
async def living(_: object) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for receiver in receivers.values():
            await stack.enter_async_context(receiver)
        yield


within = FastAPI(routes=[Route(PATH, ingress("sub-application"))])
router = APIRouter(routes=[Route(PATH, ingress("router"))])
app = FastAPI(
    lifespan=living,
    routes=[
        Route(f"/route{PATH}", ingress("route")),
        Mount(f"/mount{PATH}", ingress("mount")),
        behind("middleware", Middleware(BaseHTTPMiddleware, dispatch=reads_nothing)),
        behind("body", Middleware(BaseHTTPMiddleware, dispatch=reads_the_body)),
        behind("gzip", Middleware(GZipMiddleware, minimum_size=1)),
        behind(
            "several",
            Middleware(GZipMiddleware, minimum_size=1),
            Middleware(BaseHTTPMiddleware, dispatch=reads_the_body),
            Middleware(BaseHTTPMiddleware, dispatch=reads_nothing),
            Middleware(BaseHTTPMiddleware, dispatch=reads_the_body),
        ),
        behind("stream", Middleware(BaseHTTPMiddleware, dispatch=reads_the_stream)),
        behind("taken", Middleware(TakesTheBody), body_timeout=0.2),
        Route("/keyed", ingress("keyed", source=OriginalWebhooks(SIGNED_BY))),
    ],
)
app.include_router(router, prefix="/router")
app.mount("/sub-application", within)


@app.get("/kept/{place}")
async def kept(place: str) -> dict[str, object]:
    statistics = receivers[place].statistics
    while handled[place] < statistics.accepted:
        await asyncio.sleep(0)
    return {"kept": statistics.accepted, "handled": handled[place], "rejected": dict(statistics.rejected)}
