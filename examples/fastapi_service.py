"""A FastAPI service that stores deliveries before it acknowledges them, and passes each to a handler.

Run it with ORIGINAL_WEBHOOK_KEYS (id:secret) in the environment: `uvicorn --app-dir examples fastapi_service:app`.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.routing import Route

from original_async import OriginalWebhooks
from rewards_core import Event
from webhooks import Receiver
from webhooks.ingress.asgi import AsgiIngress

receiver = Receiver(OriginalWebhooks.from_env(), "sqlite:///inbox.db")


@receiver.on("reward.allocated")
async def tell_the_user(event: Event) -> None:
    print(f"{event.name}: {event.ref}", flush=True)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    async with receiver:
        yield


app = FastAPI(lifespan=lifespan, routes=[Route("/webhooks/original", AsgiIngress(receiver))])
