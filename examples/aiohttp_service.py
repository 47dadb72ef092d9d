"""An aiohttp service with a route that allocates and answers once the blockchain has confirmed.

    curl -X POST localhost:8080/rewards -d '{"user": "110985463782", "amount": "1.23", "order": "A-1001"}'

The order number is the nonce: the same order sent again, with "again": true, gets the same allocation and never a second one.
"""

import os
from collections.abc import AsyncGenerator
from typing import Any

from aiohttp import web

from original_async import AllocationFailed, OriginalClient, OriginalWebhooks
from rewards_core import Conflict, NotFound, Operation, OperationMismatch, OutcomeUnknown, RequestRejected, RewardsError
from webhooks import Completions, Receiver, StoreError

original = web.AppKey("original", OriginalClient)
completions = web.AppKey("completions", Completions)


async def settle(app: web.Application, order: dict[str, Any]) -> Operation:
    """Allocate, and wait until the blockchain has confirmed; if the answer is lost, wait for what became of the request."""
    sent: Operation | OutcomeUnknown
    try:
        sent = await app[original].create_allocation(
            reward_uid="764893807463",
            to_user_uid=order["user"],
            amount=order["amount"],
            nonce=order["order"],
            repeated=order.get("again", False),  # an earlier request for this order may have been sent
            timeout=10,  # never asyncio.timeout: a cancelled call cannot say whether it was carried out
        )
    except OutcomeUnknown as unknown:
        sent = unknown
    try:
        return await app[completions].wait(sent, timeout=60)
    except NotFound as error:  # that the vendor does not find it again does not say that nothing was paid
        raise RewardsError(str(error)) from error


async def grant(request: web.Request) -> web.Response:
    try:
        done = await settle(request.app, await request.json())
    except RewardsError as error:
        status = status_of(error)
        told = "our database is away" if isinstance(error, StoreError) else str(error)  # its own text has the address
        return web.json_response({"error": told, "again": status == 503}, status=status)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return web.json_response({"error": str(error)}, status=400)
    return web.json_response({"uid": done.ref.uid, "status": done.status})


def status_of(error: RewardsError) -> int:
    if isinstance(error, Conflict | OperationMismatch):
        return 409  # this order was granted with other content
    if isinstance(error, RequestRejected | AllocationFailed) and error.status not in {401, 403, 429}:
        return 422  # nothing was paid; those three statuses say nothing about an earlier request for this order
    return 503  # unknown, timed out or never sent: the order number makes it safe to ask again


def make_app() -> web.Application:
    app, client = web.Application(), OriginalClient.from_env()
    receiver = Receiver(OriginalWebhooks.from_env(), "sqlite:///inbox.db")
    app[original], app[completions] = client, Completions(client, receiver.store)
    receiver.register(app, "/webhooks/original", app[completions])  # SIGTERM ends open waits; callers send the order again

    async def vendor(app: web.Application) -> AsyncGenerator[None]:
        async with client, app[completions]:
            yield

    app.cleanup_ctx.append(vendor)
    app.router.add_post("/rewards", grant)
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
