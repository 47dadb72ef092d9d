"""The headers every request carries: the API key, and a token signed with the API secret.

See https://docs.getoriginal.com/docs/api-authentication. The vendor's own clients differ about `api_key` and `exp` in the token;
this one has both, each proven by one of them.
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

SAFE_SECRET_BYTES = 32
RENEW_BEFORE = 300.0
"""Seconds before its end that a token is replaced."""
SHORTEST_LIFETIME, LONGEST_LIFETIME = 60.0, 10 * 365 * 86_400.0
REMEMBERED = 4
"""How many tokens are kept out of messages: the vendor may name one that has just been replaced."""
YOUNG = 60.0
"""Seconds for which a refused token is not replaced: another one would say the same."""

_api_key_shape = re.compile(r"[!-~]{1,255}", re.ASCII).fullmatch


class Tokens:
    """Mint tokens and keep the headers that carry them until they are due for renewal.

    Args:
        api_key: The app's API key.
        api_secret: The secret that belongs to it.
        lifetime: Seconds a token is valid, from 60 to ten years; None for tokens without an end.
        clock: Seconds since the epoch, for the end that a token names. Tokens are renewed by `uptime` as well, because this clock
            can be set.

    Raises:
        ValueError: the key or secret cannot be one, or `lifetime` is too short or too long.
        TypeError: one of them has another type.
    """

    def __init__(self, api_key: str, api_secret: str, *, lifetime: float | None, clock: Callable[[], float]) -> None:
        self._api_key = Secret(api_key, "api_key").reveal()
        if not _api_key_shape(self._api_key):
            raise ValueError("api_key: it is too long, or there is a character beyond ASCII in it. Copy it again.")
        self._secret = Secret(api_secret, "api_secret")
        self._lifetime = _checked_lifetime(lifetime)
        self._clock = check_callable(clock, "clock")
        self._jws = _quiet_jws()
        self._tokens: deque[Secret] = deque(maxlen=REMEMBERED)
        if len(self._secret.reveal().encode("utf-8")) < SAFE_SECRET_BYTES:
            logger.warning("api_secret: shorter than %d bytes, which is weak for HS256; make a new key", SAFE_SECRET_BYTES)
        self._mint()

    def __repr__(self) -> str:
        return f"<Tokens of {self._secret!r}>"

    async def headers(self, timeout: float) -> Headers:  # noqa: ARG002 - nothing is waited for
        """Return the headers of the next attempt; the same object as long as the token stands."""
        if self._age() >= self._longest_use:
            self._mint()
        return self._headers

    async def renew(self, refused: Headers, timeout: float) -> bool:  # noqa: ARG002 - nothing is waited for
        """Say whether another token is to be had, after these headers met a 401; mint it if the refused one is not new."""
        if refused is not self._headers:
            return True
        if self._lifetime is None or self._age() < YOUNG:
            return False
        self._mint()
        return True

    def secrets(self) -> tuple[str, ...]:
        """Return what must not appear in any message."""
        return self._secret.reveal(), *map(Secret.reveal, self._tokens)

    def _age(self) -> float:
        """Return the seconds since the token was minted, by whichever clock says more; one set back says so much as well."""
        return max(uptime() - self._minted_at, abs(self._clock() - self._minted_on))

    def _mint(self) -> None:
        from jwt import InvalidKeyError  # noqa: PLC0415 - see _quiet_jws

        now = self._clock()
        payload: dict[str, object] = {"user_id": "*", "resource": "*", "action": "*", "api_key": self._api_key}
        if self._lifetime is not None:
            payload["exp"] = int(now + self._lifetime)
        token: Secret | None = None
        with suppress(InvalidKeyError):
            token = Secret(self._jws.encode(dumps(payload), self._secret.reveal(), algorithm="HS256"), "token")
        if token is None:
            raise ValueError("api_secret: it is a key or certificate of another kind. Give the API secret.")
        self._tokens.append(token)
        self._headers = Headers.of(
            {
                "X-API-KEY": self._api_key,
                "Authorization": f"Bearer {token.reveal()}",
                "Content-Type": "application/json",
                "Accept": "application/json",
                "User-Agent": "rewards-async",
            }
        )
        self._minted_at, self._minted_on = uptime(), now
        self._longest_use = math.inf if self._lifetime is None else max(self._lifetime - RENEW_BEFORE, self._lifetime / 2)


def _quiet_jws() -> PyJWS:
    """Return what signs tokens; PyJWT warns at each of them about a short key, which is said once, by the log."""
    from jwt import PyJWS  # noqa: PLC0415 - it imports all of cryptography, which only a client needs
    from jwt.algorithms import HMACAlgorithm  # noqa: PLC0415

    class AnyLength(HMACAlgorithm):
        def check_key_length(self, key: bytes) -> None:  # noqa: ARG002
            return None

    jws = PyJWS()
    jws.unregister_algorithm("HS256")
    jws.register_algorithm("HS256", AnyLength(hashlib.sha256))
    return jws


def _checked_lifetime(lifetime: float | None) -> float | None:
    if lifetime is None:
        return None
    check_number(lifetime, "token_lifetime", at_least=SHORTEST_LIFETIME, at_most=LONGEST_LIFETIME)
    return float(lifetime)
