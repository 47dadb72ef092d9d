"""A partner that knows EnKash by hand."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import aiohttp
from attrs import define, field

from vendor_sandboxes import EnkashSandbox

EVENT = {"configuration": "DEFAULT", "companyId": "CEKEKCARDS", "event": "MEAL_CARD_PAYMENT", "amount": 6}
GRANT = {"companyId": "CEKEKCARDS", "event": "MEAL_CARD_PAYMENT", "requestId": "COIN_REQ1234567", "userId": "EKQZVMQK"}
EVENTS = "/api/v0/enkash-coins/create-coins-config"
ALLOCATE = "/api/v0/enkash-coins/allocate-coin"
Answer = tuple[int, Any]


def failure(message: str) -> dict[str, Any]:
    return {"response_code": 1, "response_message": message, "payload": message}


@define
class Partner:
    """Call EnKash as its documents describe it."""

    session: aiohttp.ClientSession
    sandbox: EnkashSandbox
    headers: dict[str, str] = field(factory=dict)

    async def token(self, **changes: Any) -> Answer:
        reply = await self.token_reply(**changes)
        return reply.status, await reply.json()

    async def token_reply(
        self, *, basic: str | None = None, content_type: str = "application/x-www-form-urlencoded", **changes: Any
    ) -> aiohttp.ClientResponse:
        sandbox = self.sandbox
        pair = base64.b64encode(f"{sandbox.client_id}:{sandbox.client_secret}".encode()).decode()
        form = {
            "username": sandbox.username,
            "password": sandbox.password,
            "grant_type": "password",
            "clientId": sandbox.client_id,
        }
        async with self.session.post(
            sandbox.url + "/oauth/token",
            data=aiohttp.FormData({name: value for name, value in {**form, **changes}.items() if value is not None})(),
            headers={"Authorization": basic if basic is not None else f"Basic {pair}", "Content-Type": content_type},
            allow_redirects=False,
        ) as reply:
            await reply.read()
            return reply

    async def log_in(self) -> None:
        status, reply = await self.token()
        assert status == 200
        self.headers["Authorization"] = f"Bearer {reply.get('access_token') or reply['accessToken']}"

    async def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **self.headers, **headers}
        async with self.session.request(method, self.sandbox.url + path, data=data, headers=sent) as reply:
            return reply.status, await (reply.json() if reply.content_type == "application/json" else reply.text())

    async def create(self, **changes: Any) -> Answer:
        return await self.call("POST", EVENTS, {**EVENT, **changes})

    async def allocate(self, request_id: str = "COIN_REQ1234567", **changes: Any) -> Answer:
        return await self.call("POST", ALLOCATE, {**GRANT, "requestId": request_id, **changes})

    async def balance(self, user_id: str = "EKQZVMQK") -> Any:
        status, reply = await self.call("GET", f"/api/v0/coins/balance?userId={user_id}")
        assert (status, reply["response_code"], reply["response_message"]) == (200, 0, "Success")
        return reply["payload"]


PartnerOf = Callable[[EnkashSandbox], Partner]


async def logged_in(partner_of: PartnerOf, sandbox: EnkashSandbox) -> Partner:
    partner = partner_of(sandbox)
    await partner.log_in()
    return partner
