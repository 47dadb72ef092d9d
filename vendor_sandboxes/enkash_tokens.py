"""The sandboxed EnKash's `/oauth/token`: its tokens, and the lock after three rejections."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from attrs import frozen

if TYPE_CHECKING:
    from random import Random

REJECTIONS_UNTIL_LOCKED = 3
_FORM = "application/x-www-form-urlencoded"
_TOKEN_BYTES = 20


@frozen(kw_only=True)
class Rejection:
    """A rejected token call."""

    status: int
    error: str
    description: str


def _equal(given: str, right: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), right.encode())


class Tokens:
    """Issue and check tokens of the one account."""

    def __init__(
        self, client_id: str, client_secret: str, username: str, password: str, *, clock: Callable[[], float], stream: Random
    ) -> None:
        basic = base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()
        self._basic = basic
        self.form = {"username": username, "password": password, "grant_type": "password", "clientId": client_id}
        self._clock = clock
        self._stream = stream
        self._valid_until: dict[str, float] = {}
        self._consecutive_rejections = 0
        self.requests = 0
        self.rejections = 0
        self.issued = 0

    @property
    def locked(self) -> bool:
        """Whether three consecutive rejections have locked the account for good."""
        return self._consecutive_rejections >= REJECTIONS_UNTIL_LOCKED

    def request(self, headers: Mapping[str, str], content_type: str, body: bytes, life: float) -> str | Rejection:
        """Return a token that is valid for `life` seconds, or a rejection."""
        self.requests += 1
        rejection = self._check(headers, content_type, body)
        if rejection is not None:
            self.rejections += 1
            self._consecutive_rejections += 1
            return rejection
        self._consecutive_rejections = 0
        self.issued += 1
        token = base64.urlsafe_b64encode(self._stream.randbytes(_TOKEN_BYTES)).rstrip(b"=").decode()
        self._valid_until[token] = self._clock() + life
        return token

    def _check(self, headers: Mapping[str, str], content_type: str, body: bytes) -> Rejection | None:
        if self.locked:
            return Rejection(status=401, error="invalid_grant", description="User account is locked")
        scheme, _, basic = headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic" or not _equal(basic.strip(), self._basic):
            return Rejection(status=401, error="invalid_client", description="Bad client credentials")
        if content_type != _FORM:
            return Rejection(status=400, error="invalid_request", description=f"Content-Type must be {_FORM}")
        form: dict[str, Any] = dict(parse_qsl(body.decode("utf-8", "surrogateescape"), keep_blank_values=True))
        missing = [name for name in self.form if not form.get(name)]
        if missing:
            return Rejection(status=400, error="invalid_request", description=f"Missing parameter: {', '.join(missing)}")
        if form["grant_type"] != "password":
            return Rejection(status=400, error="unsupported_grant_type", description="Unsupported grant type")
        if not all(_equal(form[name], right) for name, right in self.form.items()):
            return Rejection(status=400, error="invalid_grant", description="Bad credentials")
        return None

    def accepts(self, headers: Mapping[str, str]) -> bool:
        """Whether a request has a valid token."""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        return scheme.lower() == "bearer" and self._valid_until.get(token.strip(), 0.0) > self._clock()

    def expire_all(self) -> None:
        """Expire every token."""
        self._valid_until.clear()
