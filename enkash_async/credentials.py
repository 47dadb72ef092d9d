"""Credentials of EnKash and the access tokens that they bring; every secret is hidden as soon as it arrives."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Protocol
from urllib.parse import quote_plus, urlencode

from attrs import field, frozen

from rewards_core.secrets import Secret, shielded

DOCUMENTED_LIFE = 300.0
"""Seconds for which a token is trusted, at most: EnKash's prose says five minutes, its samples say a day."""
HASH_ROUNDS = 100_000

_header_safe = re.compile(r"[\x21-\x7e]{1,4096}").fullmatch


@frozen(init=False)
class PasswordCredentials:
    """The credentials that EnKash issued for the password grant; no repr shows them, and they cannot be pickled.

    See https://docs.enkash.com/api-9796904.

    Args:
        client_id: The client id, which is also the company id, such as `"CEK1GZBO6A"`.
        client_secret: The secret of that client id.
        username: A mobile number or an e-mail address.
        password: The password of that user.

    Raises:
        TypeError: an argument is not a str.
        ValueError: an argument is empty or was damaged by copying (a line break, an invisible character, quotes, or spaces
            outside username and password), or the client id holds a colon.
    """

    client_id: str = field(repr=False)
    client_secret: Secret = field(repr=False)
    username: Secret = field(repr=False)
    password: Secret = field(repr=False)

    @shielded
    def __init__(self, client_id: str, client_secret: str, username: str, password: str) -> None:
        values = {"client_id": client_id, "client_secret": client_secret, "username": username, "password": password}
        self.__attrs_init__(*hide_credentials(values))

    def secrets(self) -> tuple[str, ...]:
        """Return the values to redact from messages, longest first: as they are, and as the token request encodes them."""
        parts = [one.reveal() for one in (self.client_secret, self.username, self.password)]
        every = {*parts, *map(quote_plus, parts), self.basic().removeprefix("Basic ")}
        return tuple(sorted(every, key=len, reverse=True))

    def basic(self) -> str:
        """Return the Authorization header of the token request."""
        return f"Basic {b64encode(f'{self.client_id}:{self.client_secret.reveal()}'.encode()).decode()}"

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
        """Return a salted hash that names these credentials at this address; it takes tens of milliseconds."""
        salt = hashlib.sha256(f"{auth_base_url}\0{self.client_id}".encode()).digest()
        text = "\0".join(one.reveal() for one in (self.client_secret, self.username, self.password))
        return hashlib.pbkdf2_hmac("sha256", text.encode(), salt, HASH_ROUNDS).hex()


def hide_credentials(values: Mapping[str, str]) -> tuple[str, Secret, Secret, Secret]:
    """Return client id, client secret, username and password, hidden; call it only from a `shielded` function.

    Args:
        values: These four in this order, by the names to use in messages.

    Raises:
        TypeError: a value is not a str.
        ValueError: a value is empty or was damaged by copying, or the client id holds a colon.
    """
    client_id, secret, username, password = values
    shown = Secret(values[client_id], client_id).reveal()  # not a secret, but one may be given in its place by mistake
    if ":" in shown:
        raise ValueError(f"{client_id}: there is a colon in it. Give the id that EnKash issued, such as 'CEK1GZBO6A'.")
    return (
        shown,
        Secret(values[secret], secret),
        Secret(values[username], username, spaces=True),
        Secret(values[password], password, spaces=True),
    )


class TokenProvider(Protocol):
    """A source of access tokens outside this package; many tasks may call both methods at the same time.

    An error that a method raises ends the call that needed the token with `TokenUnavailable`; only `Unauthorized`,
    `ConnectFailed`, `RateLimited`, `ClientClosed` and, before the first token, `ConfigurationError` are raised as they are.
    """

    async def token(self) -> str:
        """Return an access token. It is called before every request, so return a cached token while that is valid."""
        ...

    async def renew(self, refused: str) -> str:
        """Return a token other than the one that EnKash has just answered with 401, or the same token if there is no other."""
        ...


@frozen(init=False)
class StaticToken:
    """A `TokenProvider` of one access token that is renewed elsewhere, such as one from an environment variable.

    Args:
        access_token: The token.

    Raises:
        TypeError: the token is not a str.
        ValueError: the token is empty, was damaged by copying, or cannot be sent in a header.
    """

    access_token: Secret = field(repr=False)

    @shielded
    def __init__(self, access_token: str) -> None:
        self.__attrs_init__(hide_token(access_token))

    async def token(self) -> str:
        """Return the token."""
        return self.access_token.reveal()

    async def renew(self, refused: str) -> str:
        """Return the rejected token, because there is no other."""
        return refused


@frozen(kw_only=True)
class AccessToken:
    """A token, and for how many seconds it is valid; None if EnKash did not say."""

    value: Secret
    expires_in: float | None

    def usable_for(self, lifetime: float | None, margin: float) -> float:
        """Return the seconds for which to use the token, counted from its request.

        Args:
            lifetime: The seconds that the user of the client set; None to derive them.
            margin: Seconds before expiry at which the token is no longer used, at most half of its life.
        """
        if lifetime is not None:
            return lifetime
        life = DOCUMENTED_LIFE if self.expires_in is None else min(self.expires_in, DOCUMENTED_LIFE)
        return life - min(margin, life / 2)


def hide_token(text: str, name: str = "access_token") -> Secret:
    """Return an access token, hidden; call it only from a `shielded` function.

    Raises:
        TypeError: the token is not a str.
        ValueError: the token is empty, was damaged by copying, or cannot be sent in a header.
    """
    token = Secret(text, name)
    if not _header_safe(token.reveal()):
        raise ValueError(f"{name}: it cannot be sent in a header. Give a token of at most 4096 ASCII characters.")
    return token
