"""A FastAPI service with a route that allocates and answers once the blockchain has confirmed.

    uvicorn --factory --app-dir examples --workers 2 fastapi_service:make_app

The order number is the nonce: the same order sent again, with "again": true, gets the same allocation and never a second one.
The workers share a SQLite file; on several machines, set STORE to a URL such as postgresql://user@host/database.
"""

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.routing import Route

from original_async import AllocationFailed, OriginalClient, OriginalWebhooks
from rewards_core import Conflict, Event, NotFound, Operation, OperationMismatch, OutcomeUnknown, RequestRejected, RewardsError
from webhooks import Completions, Receiver, StoreError
from webhooks.ingress.asgi import AsgiIngress
from webhooks.ingress.signals import close_on_signal


class Order(BaseModel):
    user: str
    amount: str
    order: str
    again: bool = False  # an earlier request for this order may have been sent


async def get_rewards(request: Request) -> object:
    return request.app.state.rewards


async def grant(order: Order, rewards: Annotated[tuple[OriginalClient, Completions], Depends(get_rewards)]) -> dict[str, str]:
    client, completions = rewards
    sent: Operation | OutcomeUnknown
    try:
        sent = await client.create_allocation(
            reward_uid="764893807463", to_user_uid=order.user, amount=order.amount, nonce=order.order, repeated=order.again
        )
    except OutcomeUnknown as unknown:
        sent = unknown
    except ValueError as error:
        raise HTTPException(400, str(error)) from error
    try:
        done = await completions.wait(sent, timeout=60)
    except NotFound as error:  # that the vendor does not find it again does not say that nothing was paid
        raise RewardsError(str(error)) from error
    return {"uid": done.ref.uid, "status": done.status}


async def explain(_: Request, error: Exception) -> JSONResponse:
    status = 503  # unknown, timed out or never sent: the order number makes it safe to ask again
    if isinstance(error, Conflict | OperationMismatch):
        status = 409  # this order was granted with other content
    elif isinstance(error, RequestRejected | AllocationFailed) and error.status not in {401, 403, 429}:
        status = 422  # nothing was paid; those three statuses say nothing about an earlier request for this order
    told = "our database is away" if isinstance(error, StoreError) else str(error)  # its own text has the address
    return JSONResponse({"error": told, "again": status == 503}, status)


async def tell_the_user(event: Event) -> None:
    print(f"{event.name}: {event.ref}", flush=True)


def make_app() -> FastAPI:
    client = OriginalClient.from_env()
    receiver = Receiver(OriginalWebhooks.from_env(), os.environ.get("STORE", "sqlite:///inbox.db"), service="shop")
    receiver.on("reward.allocated")(tell_the_user)
    completions = Completions(client, receiver.store)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        async with receiver, client, completions, close_on_signal(completions):
            yield

    app = FastAPI(lifespan=lifespan, routes=[Route("/webhooks/original", AsgiIngress(receiver))])
    app.state.rewards = client, completions
    app.post("/rewards")(grant)
    app.exception_handler(RewardsError)(explain)
    return app
