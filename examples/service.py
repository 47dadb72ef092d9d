"""An aiohttp service with a route that allocates and answers when the chain has confirmed.

    curl -X POST localhost:8080/rewards -d '{"user": "110985463782", "amount": "1.23", "order": "A-1001"}'

The order's number is the nonce: whoever repeats the request after a lost answer gets the same allocation, never a second one.
"""

import os
from collections.abc import AsyncIterator

from aiohttp import web

from original_async import AllocationFailed, OriginalClient, OriginalWebhooks
from vendor_http import Conflict, OperationMismatch, RequestRejected, RewardsError
from webhooks import Completions, MemoryStore, Receiver

original = web.AppKey("original", OriginalClient)
completions = web.AppKey("completions", Completions)


async def grant(request: web.Request) -> web.Response:
    try:
        order = await request.json()
        allocation = await request.app[original].create_allocation(
            reward_uid="764893807463", to_user_uid=order["user"], amount=order["amount"], nonce=order["order"]
        )
        allocation = await request.app[completions].wait(allocation, timeout=60)
    except (KeyError, TypeError, ValueError) as error:
        return web.json_response({"error": str(error)}, status=400)
    except (Conflict, OperationMismatch) as error:
        return web.json_response({"error": str(error)}, status=409)
    except (RequestRejected, AllocationFailed) as error:
        return web.json_response({"error": str(error)}, status=422)
    except RewardsError as error:  # not settled in time, unknown, never sent: the nonce makes asking again safe
        return web.json_response({"error": str(error), "again": "with the same order"}, status=503)
    return web.json_response({"uid": allocation.uid, "amount": str(allocation.amount), "status": allocation.status})


def make_app() -> web.Application:
    app = web.Application()
    store = MemoryStore()
    keys = dict(pair.split(":") for pair in os.environ["ORIGINAL_WEBHOOK_KEYS"].split(","))
    Receiver(OriginalWebhooks(keys), store).register(app, "/webhooks/original")

    async def vendor(app: web.Application) -> AsyncIterator[None]:
        async with OriginalClient.from_env() as client, Completions(client, store) as waiting:
            app[original], app[completions] = client, waiting
            yield

    app.cleanup_ctx.append(vendor)
    app.router.add_post("/rewards", grant)
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
