"""An aiohttp service that takes signed events of the company's own shop beside those of the vendor, and rewards paid orders.

The shop posts `{"event": "order.paid", "order": "A-1001", "user": "110985463782", "reward": "1.23"}` to the path of the vendor's
webhooks, with the body's HMAC-SHA256 in a header of its own. SHOP_SECRET holds the secret.
"""

import hashlib
import hmac
import json
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from aiohttp import web

from original_async import OriginalClient, OriginalWebhooks
from rewards_core import Event, SignatureError
from webhooks import Completions, HandlerPolicy, Receiver, open_store

SIGNATURE = "X-Shop-Signature"


class ShopEvents:
    """The `EventSource` of the shop."""

    scope = "shop"
    event_names = frozenset({"order.paid"})

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def admits(self, headers: Mapping[str, str]) -> bool:
        return SIGNATURE in headers  # if no source admits a delivery, its body is not even read

    def verify(self, headers: Mapping[str, str], body: bytes) -> str:
        if SIGNATURE not in headers:
            raise SignatureError(f"The header {SIGNATURE} is missing.", reason="missing")
        if not self._has_signed(body, headers[SIGNATURE]):
            raise SignatureError(f"The signature in {SIGNATURE} does not match the body.", reason="mismatch")
        return "shop"

    def parse(self, body: bytes, headers: Mapping[str, str] | None = None) -> Event:
        identity = hashlib.sha256(body).digest()[:16]  # the shop repeats an event byte for byte
        try:
            return Event(scope=self.scope, name=str(json.loads(body)["event"]), identity=identity, body=body)
        except (ValueError, LookupError, TypeError):
            return Event(scope=self.scope, name="", identity=identity, body=body, problem="the body does not name its event")

    def _has_signed(self, body: bytes, signature: str) -> bool:
        expected = hmac.new(self._secret, body, "sha256").hexdigest()
        return hmac.compare_digest(signature.encode("ascii", "replace"), expected.encode())


def make_app() -> web.Application:
    app, client = web.Application(), OriginalClient.from_env()
    if not (secret := os.environ.get("SHOP_SECRET")):
        raise SystemExit("Set SHOP_SECRET to the secret with which the shop signs.")
    sources = OriginalWebhooks.from_env(), ShopEvents(secret)
    policy = HandlerPolicy(concurrency=100, timeout=100.0, lease=120.0)  # a reward takes as long as the blockchain
    store = open_store("sqlite:///inbox.db")
    receiver = Receiver(sources, store, service="rewards", handlers=policy)
    completions = Completions(client, store)

    @receiver.on("order.paid", name="reward_the_order")
    async def reward_the_order(event: Event) -> None:
        """Run at least once for each order; one that cannot be rewarded becomes a dead letter, for a person."""
        order = json.loads(event.body)
        allocation = await client.create_allocation(
            reward_uid="764893807463",
            to_user_uid=order["user"],
            amount=order["reward"],
            nonce=order["order"],
            repeated=True,  # an earlier run may have sent it
            timeout=10,
        )
        await completions.wait(allocation, timeout=80)  # then it runs again

    async def vendor(_: web.Application) -> AsyncGenerator[None]:
        async with client, aclosing(store), completions:
            yield

    app.cleanup_ctx.append(vendor)  # before the receiver's, so that handlers end before what they use
    receiver.register(app, "/webhooks")
    return app


if __name__ == "__main__":
    web.run_app(make_app(), host="127.0.0.1", port=int(os.environ.get("PORT", "8080")))
