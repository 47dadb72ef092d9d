"""EnKash coins on aiohttp: tokens that can lock the account, events, allocations and balances, with faults."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from vendor_sandboxes.enkash_state import Coins, Failed
from vendor_sandboxes.enkash_tokens import Rejection, Tokens
from vendor_sandboxes.options import EnkashOptions
from vendor_sandboxes.received_json import read_json
from vendor_sandboxes.server import Sandbox, json_reply, no_such_route

CLIENT_ID = "CEKSANDBOX"
CLIENT_SECRET = "0123456789abcdef0123456789abcdef01234567"  # noqa: S105 - opens nothing but the sandbox
USERNAME = "9000000000"
PASSWORD = "sandbox-password"  # noqa: S105 - opens nothing but the sandbox

TOKEN_PATH = "/oauth/token"  # noqa: S105 - a path
_TOKEN_KEYS = {
    "snake": ("access_token", "token_type", "refresh_token", "expires_in"),
    "camel": ("accessToken", "tokenType", "refreshToken", "expiresIn"),
}
_BLOCK = 16
_EVENTS = "/api/v0/enkash-coins/"
_BALANCE = "/api/v0/coins/balance"


class EnkashSandbox(Sandbox):
    """EnKash on its own port; `url` serves as both base URLs.

    Args:
        host: Address to listen on.
        port: Port, 0 for any free one.
        client_id: The company's id.
        client_secret: Its secret for Basic, and for encrypted bodies.
        username: The user who logs in.
        password: The user's password; `sandbox.password` may be set while it runs, and tokens stay valid.
        funds: Coins that the company can give, None for no limit; `sandbox.funds` may be set while it runs.
        seed: Equal seeds give equal ids, tokens and faults.
        clock: Returns Unix time.
        options: Any attribute of `EnkashOptions`; change them later on `sandbox.options`.

    Raises:
        ModuleNotFoundError: bodies are to be encrypted, and `cryptography` is not installed.

    Attributes:
        options: The options, which may be changed while it runs.
        requests: The latest requests; credentials are not kept.
    """

    options_type = EnkashOptions

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
        **options: Any,
    ) -> None:
        self.options = EnkashOptions(**options)
        super().__init__(self.options, host=host, port=port, seed=seed, clock=clock)
        self.client_id = client_id
        self.client_secret = client_secret
        self.username = username
        self.coins = Coins(self.plan.stream("configs").randrange(100_000, 900_000), clock, funds)
        self.tokens = Tokens(client_id, client_secret, username, password, clock=clock, stream=self.plan.stream("tokens"))
        self._cipher: BodyCipher | None = None
        if self.options.encrypted:
            self._body_cipher()

    @property
    def password(self) -> str:
        """The user's password, which every request for a token must contain."""
        return self.tokens.form["password"]

    @password.setter
    def password(self, password: str) -> None:
        self.tokens.form["password"] = password

    @property
    def funds(self) -> int | None:
        """Coins that the company can still give, None for no limit."""
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
        """Number of token calls."""
        return self.tokens.requests

    @property
    def token_rejections(self) -> int:
        """Number of rejected token calls, answered or not."""
        return self.tokens.rejections

    def expire_tokens(self) -> None:
        """Expire every token."""
        self.tokens.expire_all()

    def books(self) -> dict[str, Any]:
        """Return the vendor's state as plain JSON values: the body of `GET /_sandbox/books`."""
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
        """Return the 503 of a proxy before the vendor."""
        return _page(503, "503 Service Temporarily Unavailable")

    def throttled(self, retry_after: str) -> web.Response:
        """Return the 429 of a proxy before the vendor."""
        reply = _page(429, "429 Too Many Requests")
        reply.headers["Retry-After"] = retry_after
        return reply

    async def answer(self, method: str, path: str, request: web.BaseRequest, body: bytes) -> web.Response:
        """Handle a request."""
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
        prefix = "" if self.options.envelope == "code" else "response_"
        written = str(code) if self.options.code_as == "string" else code
        text = json.dumps({"payload": payload, f"{prefix}code": written, f"{prefix}message": message}).encode()
        return json_reply(self._body_cipher().encrypt(text) if self.options.encrypted else text, status)

    def _body_cipher(self) -> BodyCipher:
        if self._cipher is None:
            self._cipher = BodyCipher(self.client_secret)
        return self._cipher

    async def _token(self, method: str, request: web.BaseRequest, body: bytes) -> web.Response:
        if method != "POST":
            return _oauth_error(405, "method_not_allowed", f"Request method '{method}' not supported")
        answer = self.options.token_answer
        if answer != "normal":
            return await self._token_unanswered(answer)
        life = self.options.token_life
        outcome = self.tokens.request(request.headers, request.content_type, body, life)
        self.changed()
        await self.pause(self.options.token_hang)
        if isinstance(outcome, Rejection):
            if self.options.rejection == "envelope":
                said = {"response_code": 1, "response_message": outcome.description, "payload": outcome.description}
                return json_reply(json.dumps(said))
            return _oauth_error(outcome.status, outcome.error, outcome.description)
        values = (outcome, "bearer", outcome[::-1], int(self.options.expires_in or life))
        keys = _TOKEN_KEYS[self.options.token_keys]
        return json_reply(json.dumps({**dict(zip(keys, values, strict=True)), "scope": "read write trust"}))

    async def _token_unanswered(self, answer: str) -> web.Response:
        self.tokens.requests += 1
        self.plan.counts["token_answer"] += 1
        self.changed()
        await self.pause(self.options.token_hang)
        if answer == "redirect":
            return web.Response(status=302, headers={"Location": f"{self.origin}/login"})
        return web.Response(status=204) if answer == "empty" else _page(200, "Sign in")

    def _coins(self, method: str, path: str, request: web.BaseRequest, body: bytes) -> Any:
        if path == _BALANCE:
            self._check_method(method, "GET")
            return self.coins.balance(request.rel_url.query.get("userId"))
        last = path.removeprefix(_EVENTS)
        if last == "create-coins-config" and method == "POST":
            return self.coins.create_event(self._read(request, body))
        if last == "allocate-coin" and method == "POST":
            return self.coins.allocate(
                self._read(request, body),
                duplicates=self.options.duplicate_request,
                failing=lambda: self.plan.happens("fail_rate"),
            )
        event = self.coins.event(last)
        if method == "GET":
            return event.payload()
        self._check_method(method, "PATCH")
        return self.coins.update_event(event, self._read(request, body))

    def _check_method(self, method: str, right: str) -> None:
        if method != right:
            raise Failed(405, f"Request method '{method}' not supported")

    def _read(self, request: web.BaseRequest, body: bytes) -> dict[str, Any]:
        if request.content_type != "application/json":
            raise Failed(415, f"Content type '{request.content_type}' not supported")
        try:
            value = read_json(self._body_cipher().decrypt(body) if self.options.encrypted else body)
        except ValueError:
            raise Failed(422 if self.options.encrypted else 400, "Invalid request body") from None
        if not isinstance(value, dict):
            raise Failed(400, "Invalid request body")
        return value


def _page(status: int, text: str) -> web.Response:
    page = f"<html><head><title>{text}</title></head><body><h1>{text}</h1></body></html>"
    return web.Response(text=page, status=status, content_type="text/html")


def _oauth_error(status: int, error: str, description: str) -> web.Response:
    return json_reply(json.dumps({"error": error, "error_description": description}), status)


class BodyCipher:
    """The vendor's body encryption: `{"request": "<base64>"}` with AES-128 in ECB mode and PKCS7 padding, keyed by the secret."""

    def __init__(self, secret: str) -> None:
        try:
            from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            from rewards_core.install_hint import install_hint  # noqa: PLC0415

            raise ModuleNotFoundError(
                f"Encrypted bodies need the package cryptography. Run {install_hint('encryption')}."
            ) from error

        key = hashlib.sha256(secret.encode()).digest()[:_BLOCK]
        self._cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 - as the vendor documents

    def encrypt(self, plain: bytes) -> bytes:
        """Return the envelope around the encrypted body."""
        missing = _BLOCK - len(plain) % _BLOCK
        encryptor = self._cipher.encryptor()
        secret = encryptor.update(plain + bytes([missing]) * missing) + encryptor.finalize()
        return json.dumps({"request": base64.b64encode(secret).decode()}).encode()

    def decrypt(self, envelope: bytes) -> bytes:
        """Return the body in an envelope. Raises `ValueError` if it is not an envelope, or was encrypted under another secret."""
        match read_json(envelope):
            case {"request": str(text)}:
                secret = base64.b64decode(text, validate=True)
            case _:
                raise ValueError('the body is not {"request": "<base64>"}')
        decryptor = self._cipher.decryptor()
        padded = decryptor.update(secret) + decryptor.finalize()
        if not padded or not 1 <= padded[-1] <= _BLOCK or padded[-padded[-1] :] != bytes([padded[-1]]) * padded[-1]:
            raise ValueError("the padding is wrong")
        return padded[: -padded[-1]]
