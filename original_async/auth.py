"""The headers of every request: the API key, and a JWT signed with the API secret.

See https://docs.getoriginal.com/docs/api-authentication. The vendor's own clients disagree on `api_key` and `exp` in the token;
this token has both, because the API accepts each of them from one of those clients.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from rewards_core.clock import uptime
from rewards_core.http.messages import Headers
from rewards_core.json import dumps
from rewards_core.secrets import Secret
from rewards_core.validation import check_callable, check_number

if TYPE_CHECKING:
    from jwt import PyJWS

logger = logging.getLogger("original_async")

MIN_SECRET_BYTES = 32
RENEW_BEFORE = 300.0
"""Seconds before a token expires at which it is replaced."""
MIN_LIFETIME, MAX_LIFETIME = 60.0, 10 * 365 * 86_400.0
REDACTED_TOKENS = 4
"""How many of the latest tokens are redacted from messages: an error may quote one that has just been replaced."""
MIN_AGE = 60.0
"""Seconds before a rejected token may be replaced: a newer one would be rejected for the same reason."""

_api_key_shape = re.compile(r"[!-~]{1,255}", re.ASCII).fullmatch


class TokenAuthorizer:
    """Mint tokens, and keep the headers that carry the current one until it is due for renewal."""

    def __init__(self, api_key: str, api_secret: str, *, lifetime: float | None, clock: Callable[[], float]) -> None:
        self._api_key = Secret(api_key, "api_key").reveal()
        if not _api_key_shape(self._api_key):
            raise ValueError("api_key: longer than 255 characters, or not all ASCII. Copy it again.")
        self._secret = Secret(api_secret, "api_secret")
        self._lifetime = (
            lifetime
            if lifetime is None
            else check_number(lifetime, "token_lifetime", at_least=MIN_LIFETIME, at_most=MAX_LIFETIME)
        )
        self._clock = check_callable(clock, "clock")
        self._jws = _signer()
        self._tokens: deque[Secret] = deque(maxlen=REDACTED_TOKENS)
        if len(self._secret.reveal().encode("utf-8")) < MIN_SECRET_BYTES:
            logger.warning("api_secret: shorter than %d bytes, which is weak for HS256; create a new key", MIN_SECRET_BYTES)
        self._mint()

    def __repr__(self) -> str:
        return f"<TokenAuthorizer with {self._secret!r}>"

    async def headers(self, timeout: float) -> Headers:  # noqa: ARG002 - never waits
        """Return the headers of the next attempt; the same object until the token is replaced."""
        if self._age() >= self._max_age:
            self._mint()
        return self._headers

    async def renew(self, refused: Headers, timeout: float) -> bool:  # noqa: ARG002 - never waits
        """Return whether another token is available after a 401 to these headers; mint one unless the rejected one is new."""
        if refused is not self._headers:
            return True
        if self._lifetime is None or self._age() < MIN_AGE:
            return False
        self._mint()
        return True

    def secrets(self) -> tuple[str, ...]:
        """Return the values to redact from messages."""
        return self._secret.reveal(), *map(Secret.reveal, self._tokens)

    def _age(self) -> float:
        """Return the seconds since the token was minted, by whichever clock shows more: the wall clock can be set either way."""
        return max(uptime() - self._minted_uptime, abs(self._clock() - self._minted_wall))

    def _mint(self) -> None:
        from jwt import InvalidKeyError  # noqa: PLC0415 - see _signer

        now = self._clock()
        payload: dict[str, object] = {"user_id": "*", "resource": "*", "action": "*", "api_key": self._api_key}
        if self._lifetime is not None:
            payload["exp"] = int(now + self._lifetime)
        token: Secret | None = None
        with suppress(InvalidKeyError):
            token = Secret(self._jws.encode(dumps(payload), self._secret.reveal(), algorithm="HS256"), "token")
        if token is None:
            raise ValueError("api_secret: this is an SSH key or a certificate. Give the API secret.")
        self._tokens.append(token)
        self._headers = Headers.of(
            {
                "X-API-KEY": self._api_key,
                "Authorization": f"Bearer {token.reveal()}",
                "Content-Type": "application/json",
                "Accept": "application/json",
            }
        )
        self._minted_uptime, self._minted_wall = uptime(), now
        self._max_age = math.inf if self._lifetime is None else max(self._lifetime - RENEW_BEFORE, self._lifetime / 2)


def _signer() -> PyJWS:
    from jwt import PyJWS  # noqa: PLC0415 - it imports all of cryptography, which only a client needs
    from jwt.algorithms import HMACAlgorithm  # noqa: PLC0415

    class AnyLength(HMACAlgorithm):
        def check_key_length(self, key: bytes) -> None:  # noqa: ARG002 - PyJWT warns per token; a short secret is logged once
            return None

    jws = PyJWS()
    jws.unregister_algorithm("HS256")
    jws.register_algorithm("HS256", AnyLength(hashlib.sha256))
    return jws
