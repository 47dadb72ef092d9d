"""Who asks for access tokens, what the request for one says, and what counts as one."""

from __future__ import annotations

import hashlib
import math
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote_plus, urlencode

from attrs import field, frozen

from rewards_core.secrets import Secret

DOCUMENTED_LIFE = 300.0
"""The longest a token is trusted, in seconds: EnKash's prose says five minutes, its samples a day."""
HASH_ROUNDS = 100_000

_header_safe = re.compile(r"[\x21-\x7e]{1,4096}").fullmatch
_control = re.compile(r"[\x00-\x1f\x7f]").search


@frozen(init=False)
class PasswordCredentials:
    """Hold what EnKash issued for the password grant; nothing of it shows in a repr, and it cannot be pickled.

    Args:
        client_id: The company id, such as `"CEK1GZBO6A"`.
        client_secret: The secret that belongs to it.
        username: A mobile number or e-mail address.
        password: The password of that user.

    Raises:
        TypeError: one of them is not a str.
        ValueError: one of them is empty, or the client id holds a colon or a control character.
    """

    client_id: str = field(repr=False)
    client_secret: Secret = field(repr=False)
    username: Secret = field(repr=False)
    password: Secret = field(repr=False)

    def __init__(self, client_id: str, client_secret: str, username: str, password: str) -> None:
        if not isinstance(client_id, str):
            raise TypeError(f"client_id: expected a str, got {type(client_id).__name__}; give the id EnKash issued")
        if not client_id.strip() or ":" in client_id or _control(client_id):
            raise ValueError("client_id: expected an id without colon or control characters, got another text or none")
        client_id = str.__str__(client_id)  # of a member of an enumeration its value, which is what the vendor knows
        self.__attrs_init__(
            client_id, Secret(client_secret, "client_secret"), Secret(username, "username"), Secret(password, "password")
        )

    def secrets(self) -> tuple[str, ...]:
        """Return what must not appear in any message, longest first: as it is, and as the token request writes it."""
        parts = [one.reveal() for one in (self.client_secret, self.username, self.password)]
        every = {*parts, *map(quote_plus, parts), self.basic().removeprefix("Basic ")}
        return tuple(sorted(every, key=len, reverse=True))

    def basic(self) -> str:
        """Return the Authorization header of the token request."""
        pair = f"{self.client_id}:{self.client_secret.reveal()}"
        return f"Basic {b64encode(pair.encode()).decode()}"

    def form(self) -> bytes:
        """Return the body of the token request."""
        fields = {
            "username": self.username.reveal(),
            "password": self.password.reveal(),
            "grant_type": "password",
            "clientId": self.client_id,
        }
        return urlencode(fields).encode()

    def account(self, auth_base_url: str) -> str:
        """Return a salted hash that names these credentials at this address; takes some ten milliseconds."""
        salt = hashlib.sha256(f"{auth_base_url}\0{self.client_id}".encode()).digest()
        text = "\0".join(one.reveal() for one in (self.client_secret, self.username, self.password))
        return hashlib.pbkdf2_hmac("sha256", text.encode(), salt, HASH_ROUNDS).hex()


class TokenProvider(Protocol):
    """Brings access tokens from elsewhere; both methods may be called by many tasks at once.

    What they raise ends the call it was raised in with `TokenUnavailable`, unless it is an `Unauthorized`, `ConnectFailed`,
    `RateLimited` or `ClientClosed`, or, before the first token, a `ConfigurationError`: these end it as themselves.
    """

    async def token(self) -> str:
        """Return an access token; asked before every request, so answer from memory while the last one is valid."""
        ...

    async def renew(self, refused: str) -> str:
        """Return a token other than the one EnKash has just answered with 401, or the same if there is no other."""
        ...


@frozen(init=False)
class StaticToken:
    """Provide one access token that somebody else renews, such as one from the environment.

    Args:
        access_token: The token.

    Raises:
        TypeError: it is not a str.
        ValueError: it is empty, or no header can carry it.
    """

    access_token: Secret = field(repr=False)

    def __init__(self, access_token: str) -> None:
        if not isinstance(access_token, str):
            raise TypeError(f"access_token: expected a str, got {type(access_token).__name__}")
        if not is_token(access_token):
            raise ValueError(
                "access_token: expected a token that a header can carry, got an empty text or one with other characters"
            )
        self.__attrs_init__(Secret(access_token, "access_token"))

    async def token(self) -> str:
        """Return it."""
        return self.access_token.reveal()

    async def renew(self, refused: str) -> str:
        """Return the refused one, because there is no other."""
        return refused


@frozen(kw_only=True)
class AccessToken:
    """One token and how long EnKash says it lives.

    Attributes:
        value: The token.
        expires_in: Seconds, None if EnKash did not say.
    """

    value: Secret
    expires_in: float | None

    def usable_for(self, lifetime: float | None, margin: float) -> float:
        """Return the seconds it may be used for, from the moment it was asked for.

        Args:
            lifetime: What the caller of the library decided, None to go by what is known.
            margin: Seconds before its end from which it is not used; at most half of a short life.
        """
        if lifetime is not None:
            return lifetime
        life = DOCUMENTED_LIFE if self.expires_in is None else min(self.expires_in, DOCUMENTED_LIFE)
        return life - min(margin, life / 2)


def is_token(text: str) -> bool:
    """Return whether a text can stand in an Authorization header."""
    return _header_safe(text) is not None


def read_token(reply: Mapping[str, Any]) -> AccessToken | None:
    """Return the token in a token reply, None if there is none."""
    value = reply.get("access_token", reply.get("accessToken"))  # one EnKash page writes camel case
    if not isinstance(value, str) or not is_token(value):
        return None
    return AccessToken(value=Secret(value, "access_token"), expires_in=_seconds(reply))


def _seconds(reply: Mapping[str, Any]) -> float | None:
    value = reply.get("expires_in", reply.get("expiresIn"))
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = float(value[:12])
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return max(0.0, float(value))
