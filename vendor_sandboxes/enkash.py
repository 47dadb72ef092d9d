"""EnKash coins played on aiohttp: tokens that can lock the account, events, allocations and balances, with faults."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from vendor_sandboxes.enkash_cipher import BodyCipher
from vendor_sandboxes.enkash_coins import Coins, Failed
from vendor_sandboxes.enkash_switches import EnkashSwitches
from vendor_sandboxes.enkash_tokens import Rejection, Tokens
from vendor_sandboxes.serving import Sandbox, json_reply, no_such_route

CLIENT_ID = "CEKSANDBOX"
CLIENT_SECRET = "0123456789abcdef0123456789abcdef01234567"  # noqa: S105 - opens nothing but the sandbox
USERNAME = "9000000000"
PASSWORD = "sandbox-password"  # noqa: S105 - opens nothing but the sandbox

TOKEN_PATH = "/oauth/token"  # noqa: S105 - a path
_TOKEN_KEYS = {
    "snake": ("access_token", "token_type", "refresh_token", "expires_in"),
    "camel": ("accessToken", "tokenType", "refreshToken", "expiresIn"),
}
_EVENTS = "/api/v0/enkash-coins/"
_BALANCE = "/api/v0/coins/balance"


class EnkashSandbox(Sandbox):
    """EnKash on a port of its own; `url` serves as both of its base URLs.

    Args:
        host: Address to listen on.
        port: Port, 0 for any free one.
        client_id: The company's id.
        client_secret: What Basic must say with it; also the secret of encrypted bodies.
        username: Who logs in.
        password: With what.
        funds: Coins the company can give, None for no end; `sandbox.funds` may be set while it runs.
        seed: Equal seeds give equal ids, tokens and faults.
        clock: Seconds since the epoch.
        switches: Any attribute of `EnkashSwitches` and `Faults`; change them later on `sandbox.switches`.

    Raises:
        ModuleNotFoundError: bodies are to be encrypted and `cryptography` is not installed.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        client_id: str = CLIENT_ID,
        client_secret: str = CLIENT_SECRET,
        username: str = USERNAME,
        password: str = PASSWORD,
        funds: int | None = None,
        seed: int = 0,
        clock: Callable[[], float] = time.time,
        **switches: Any,
    ) -> None:
        self.switches = EnkashSwitches(**switches)
        super().__init__(self.switches, host=host, port=port, seed=seed, clock=clock)
        self.client_id = client_id
        self.client_secret = client_secret
        self.username = username
        self.password = password
        self.coins = Coins(self.plan.stream("configs").randrange(100_000, 900_000), clock, funds)
        self.tokens = Tokens(client_id, client_secret, username, password, clock=clock, stream=self.plan.stream("tokens"))
        self._cipher: BodyCipher | None = None
        if self.switches.encrypted:
            self._secrecy()

    @property
    def funds(self) -> int | None:
        """Coins the company can still give, None for no end."""
        return self.coins.funds

    @funds.setter
    def funds(self, funds: int | None) -> None:
        self.coins.funds = funds

    @property
    def locked(self) -> bool:
        """Whether three rejected token calls in a row have locked the account."""
        return self.tokens.locked

    @property
    def token_requests(self) -> int:
        """How many token calls arrived."""
        return self.tokens.requests

    @property
    def token_rejections(self) -> int:
        """How many token calls were rejected, answered or not."""
        return self.tokens.rejections

    def expire_tokens(self) -> None:
        """End every token given so far."""
        self.tokens.expire_all()

    def books(self) -> dict[str, Any]:
        """Return what the vendor knows, as plain JSON values: the body of `GET /_sandbox/books`."""
        return {
            **self.coins.report(),
            "tokens": {
                "requests": self.tokens.requests,
                "rejections": self.tokens.rejections,
                "issued": self.tokens.issued,
                "locked": self.tokens.locked,
            },
            "faults": dict(self.plan.counts),
            "requests": dict(self.request_counts),
        }

    def overloaded(self) -> web.Response:
        """Return a 503 of what stands before the vendor."""
        return _page(503, "503 Service Temporarily Unavailable")

    def throttled(self, retry_after: str) -> web.Response:
        """Return a 429 of what stands before the vendor."""
        reply = _page(429, "429 Too Many Requests")
        reply.headers["Retry-After"] = retry_after
        return reply

    async def answer(self, method: str, path: str, request: web.BaseRequest, body: bytes) -> web.Response:
        """Do what the request asks and say so."""
        if path == TOKEN_PATH:
            return await self._token(method, request, body)
        if path != _BALANCE and not path.startswith(_EVENTS):
            return no_such_route()
        if not self.tokens.accepts(request.headers):
            return _oauth_error(401, "invalid_token", "The access token is missing, unknown or expired")
        try:
            payload, status = self._coins(method, path, request, body), 200
            code, message = 0, "Success"
        except Failed as failure:
            payload = message = failure.message
            code, status = 1, failure.status
        return self._enveloped(payload, code, message, status)

    def _enveloped(self, payload: Any, code: int, message: str, status: int) -> web.Response:
        prefix = "" if self.switches.envelope == "code" else "response_"
        written = str(code) if self.switches.code_as == "string" else code
        text = json.dumps({"payload": payload, f"{prefix}code": written, f"{prefix}message": message}).encode()
        return json_reply(self._secrecy().encrypt(text) if self.switches.encrypted else text, status)

    def _secrecy(self) -> BodyCipher:
        if self._cipher is None:
            self._cipher = BodyCipher(self.client_secret)
        return self._cipher

    async def _token(self, method: str, request: web.BaseRequest, body: bytes) -> web.Response:
        if method != "POST":
            return _oauth_error(405, "method_not_allowed", f"Request method '{method}' not supported")
        answer = self.switches.token_answer
        if answer != "normal":
            return await self._token_astray(answer)
        life = self.switches.token_life
        outcome = self.tokens.request(request.headers, request.content_type, body, life)
        self.changed()
        await self.pause(self.switches.token_hang)
        if isinstance(outcome, Rejection):
            if self.switches.rejection == "envelope":
                said = {"response_code": 1, "response_message": outcome.description, "payload": outcome.description}
                return json_reply(json.dumps(said))
            return _oauth_error(outcome.status, outcome.error, outcome.description)
        values = (outcome, "bearer", outcome[::-1], int(self.switches.expires_in or life))
        keys = _TOKEN_KEYS[self.switches.token_keys]
        return json_reply(json.dumps({**dict(zip(keys, values, strict=True)), "scope": "read write trust"}))

    async def _token_astray(self, answer: str) -> web.Response:
        self.tokens.requests += 1
        self.plan.counts["token_answer"] += 1
        self.changed()
        await self.pause(self.switches.token_hang)
        if answer == "redirect":
            return web.Response(status=302, headers={"Location": f"{self.origin}/login"})
        return web.Response(status=204) if answer == "empty" else _page(200, "Sign in")

    def _coins(self, method: str, path: str, request: web.BaseRequest, body: bytes) -> Any:
        if path == _BALANCE:
            self._only(method, "GET")
            return self.coins.balance(request.rel_url.query.get("userId"))
        last = path.removeprefix(_EVENTS)
        if last == "create-coins-config" and method == "POST":
            return self.coins.create_event(self._read(request, body))
        if last == "allocate-coin" and method == "POST":
            return self.coins.allocate(
                self._read(request, body),
                duplicates=self.switches.duplicate_request,
                failing=lambda: self.plan.happens("fail_rate"),
            )
        event = self.coins.event(last)
        if method == "GET":
            return event.payload()
        self._only(method, "PATCH")
        return self.coins.update_event(event, self._read(request, body))

    def _only(self, method: str, right: str) -> None:
        if method != right:
            raise Failed(405, f"Request method '{method}' not supported")

    def _read(self, request: web.BaseRequest, body: bytes) -> dict[str, Any]:
        if request.content_type != "application/json":
            raise Failed(415, f"Content type '{request.content_type}' not supported")
        try:
            value = json.loads(self._secrecy().decrypt(body) if self.switches.encrypted else body)
        except (ValueError, RecursionError):
            raise Failed(422 if self.switches.encrypted else 400, "Invalid request body") from None
        if not isinstance(value, dict):
            raise Failed(400, "Invalid request body")
        return value


def _page(status: int, text: str) -> web.Response:
    page = f"<html><head><title>{text}</title></head><body><h1>{text}</h1></body></html>"
    return web.Response(text=page, status=status, content_type="text/html")


def _oauth_error(status: int, error: str, description: str) -> web.Response:
    return json_reply(json.dumps({"error": error, "error_description": description}), status)
