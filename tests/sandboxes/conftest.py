"""Callers that know Original and EnKash by hand, and an endpoint that collects webhooks."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from attrs import define, field

from tests.sandboxes.enkash_partner import Partner, PartnerOf

if TYPE_CHECKING:
    from vendor_sandboxes import OriginalSandbox

HOUR = 3600.0
COLLECTION = "471616646163"
USER = "110985463782"
WALLET = "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045"
LOOK: dict[str, Any] = {
    "name": "Dave",
    "unique_name": False,
    "image_url": "https://example.com/3.png",
    "store_image_on_ipfs": False,
}
CLAIMS = {"user_id": "*", "resource": "*", "action": "*"}


@define
class Answer:
    status: int
    text: str
    headers: Any
    reason: str | None

    @property
    def body(self) -> Any:
        return json.loads(self.text, parse_float=Decimal)

    @property
    def data(self) -> Any:
        return self.body["data"]

    @property
    def error(self) -> Any:
        return self.body["error"]


@define
class Caller:
    """Send single requests, as the documents describe them."""

    session: aiohttp.ClientSession
    url: str
    key: str
    secret: str

    def token(self, **claims: Any) -> str:
        return jwt.encode({**CLAIMS, **claims}, self.secret, "HS256")

    async def call(
        self, method: str, path: str, body: Any = None, *, headers: dict[str, str] | None = None, **options: Any
    ) -> Answer:
        sent = {"X-API-KEY": self.key, "Authorization": f"Bearer {self.token()}", "Content-Type": "application/json"}
        sent.update(headers or {})
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        async with self.session.request(
            method, self.url + path, data=data, headers={name: value for name, value in sent.items() if value}, **options
        ) as reply:
            return Answer(reply.status, await reply.text(), reply.headers, reply.reason)

    async def allocate(self, nonce: str = "nonce_1", **changes: Any) -> Answer:
        body = {"reward_uid": "764893807463", "to_user_uid": "110985463782", "amount": "1.23", "nonce": nonce, **changes}
        return await self.call("POST", "/reward/allocate", {name: value for name, value in body.items() if value is not ...})

    async def claim(self, **changes: Any) -> Answer:
        body = {
            "reward_uid": "764893807463",
            "from_user_uid": "110985463782",
            "to_address": "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045",
            **changes,
        }
        return await self.call("POST", "/reward/claim", body)

    async def mint(self, external_id: str = "asset_1", *, look: Any = LOOK, **changes: Any) -> Answer:
        body = {"user_uid": USER, "collection_uid": COLLECTION, "asset_external_id": external_id, "data": look, **changes}
        return await self.call("POST", "/asset", {name: value for name, value in body.items() if value is not ...})

    async def edit(self, uid: str, **changes: Any) -> Answer:
        look = {name: value for name, value in {**LOOK, **changes}.items() if value is not ...}
        return await self.call("PUT", f"/asset/{uid}", {"data": look})

    async def transfer(self, uid: str, to_address: str = WALLET, user: str = USER) -> Answer:
        body = {"asset_uid": uid, "from_user_uid": user, "to_address": to_address}
        return await self.call("POST", "/transfer", body)

    async def burn(self, uid: str, user: str = USER) -> Answer:
        return await self.call("POST", "/burn", {"asset_uid": uid, "from_user_uid": user})

    async def act(self, kind: str, uid: str) -> Answer:
        """Ask for an edit, a transfer or a burn."""
        match kind:
            case "edit":
                return await self.edit(uid)
            case "transfer":
                return await self.transfer(uid)
            case _:
                return await self.burn(uid)

    async def asset(self, uid: str) -> Any:
        return (await self.call("GET", f"/asset/{uid}")).data

    async def minted(self, sandbox: OriginalSandbox, external_id: str = "asset_1", **changes: Any) -> str:
        """Mint an asset, have it confirmed, and return its uid."""
        uid: str = (await self.mint(external_id, **changes)).data["uid"]
        await sandbox.settle(uid, kind="asset")
        return uid


def complaints(answer: Answer) -> set[tuple[str, str]]:
    """Return field and code of every complaint; a single one is no list."""
    assert (answer.status, answer.error["type"]) == (400, "validation_error")
    detail = answer.error["detail"]
    assert not (isinstance(detail, list) and len(detail) == 1)
    return {(one["field_name"], one["code"]) for one in (detail if isinstance(detail, list) else [detail])}


def refusal(answer: Answer) -> tuple[int, str, str]:
    assert answer.body["success"] is False
    assert answer.error["type"] == "client_error"
    return answer.status, answer.error["detail"]["code"], answer.error["detail"]["message"]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    # A repeated request on a connection the sandbox dropped would spoil the counting: one connection per request.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        yield session


@pytest.fixture
def caller_of(session: aiohttp.ClientSession) -> Callable[[OriginalSandbox], Caller]:
    return lambda sandbox: Caller(session, sandbox.url, sandbox.api_key, sandbox.api_secret)


@pytest.fixture
def partner_of(session: aiohttp.ClientSession) -> PartnerOf:
    return lambda sandbox: Partner(session, sandbox)


@pytest.fixture
def pass_an_hour(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def jump() -> None:
        loop = asyncio.get_running_loop()
        before = loop.time
        monkeypatch.setattr(loop, "time", lambda: before() + HOUR)

    return jump


@define
class Arrival:
    headers: dict[str, str]
    raw: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.raw, parse_float=Decimal)

    def signed_by(self, key_id: str, secret: str) -> bool:
        digest = hmac.new(secret.encode(), self.raw, hashlib.sha256).hexdigest()
        return f"{key_id},{digest}" in self.headers["x-webhook-signature"].split(" ")


@define
class Inbox:
    """Where webhooks arrive; answers with `statuses` in turn, then with 200."""

    url: str = ""
    arrivals: list[Arrival] = field(factory=list)
    statuses: list[int] = field(factory=list)

    async def receive(self, request: web.BaseRequest) -> web.Response:
        self.arrivals.append(Arrival({name.lower(): value for name, value in request.headers.items()}, await request.read()))
        return web.Response(status=self.statuses.pop(0) if self.statuses else 200)


@pytest.fixture
async def inbox() -> AsyncIterator[Inbox]:
    inbox = Inbox()
    runner = web.ServerRunner(web.Server(inbox.receive))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    inbox.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hooks"
    yield inbox
    await runner.cleanup()
