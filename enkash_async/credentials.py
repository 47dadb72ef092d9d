"""Credentials, access tokens and those who bring them, and the header that carries a token; every secret hidden at once."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import re
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import quote_plus, urlencode

from attrs import field, frozen

from enkash_async.errors import TokenUnavailable
from rewards_core.errors import ClientClosed, ConfigurationError, ConnectFailed, RateLimited, Unauthorized, VendorError
from rewards_core.http.messages import Headers
from rewards_core.secrets import Secret, shielded

DOCUMENTED_LIFE = 300.0
"""The longest a token is trusted, in seconds: EnKash's prose says five minutes, its samples a day."""
HASH_ROUNDS = 100_000
REMEMBERED = 4
"""How many tokens are kept out of messages: EnKash may name one that has just been replaced."""
SHORTEST_HIDDEN = 8
"""Characters from which a part of an extra header is kept out of messages; a shorter one stands in every second word."""

_PASSED_ON = (Unauthorized, ConnectFailed, RateLimited, ClientClosed)
"""What a provider may raise that says the same of the call that wanted a token: nothing happened."""
_between_marks = re.compile(r"[;,=\s]+").split
_header_safe = re.compile(r"[\x21-\x7e]{1,4096}").fullmatch


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
        ValueError: one of them is empty or was spoilt on its way here, such as by a line break, an invisible character or quotes;
            spaces may only be inside username and password. The client id holds a colon.
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
        """Return what must not appear in any message, longest first: as it is, and as the token request writes it."""
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
        """Return a salted hash that names these credentials at this address; takes some ten milliseconds."""
        salt = hashlib.sha256(f"{auth_base_url}\0{self.client_id}".encode()).digest()
        text = "\0".join(one.reveal() for one in (self.client_secret, self.username, self.password))
        return hashlib.pbkdf2_hmac("sha256", text.encode(), salt, HASH_ROUNDS).hex()


def hide_credentials(values: Mapping[str, str]) -> tuple[str, Secret, Secret, Secret]:
    """Return client id, client secret, username and password, hidden; the caller must not let what this raises leave unshielded.

    Args:
        values: These four in this order, each under the name that messages give it.

    Raises:
        TypeError: one is not a str.
        ValueError: one is empty or was spoilt on its way here, or there is a colon in the client id.
    """
    client_id, secret, username, password = values
    shown = Secret(values[client_id], client_id).reveal()  # no secret, but a mistaken caller may give one in its place
    if ":" in shown:
        raise ValueError(f"{client_id}: there is a colon in it. Give the id that EnKash issued, such as 'CEK1GZBO6A'.")
    return (
        shown,
        Secret(values[secret], secret),
        Secret(values[username], username, spaces=True),
        Secret(values[password], password, spaces=True),
    )


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
        ValueError: it is empty, was spoilt on its way here, or no header can carry it.
    """

    access_token: Secret = field(repr=False)

    @shielded
    def __init__(self, access_token: str) -> None:
        self.__attrs_init__(as_token(access_token))

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


def as_token(text: str, name: str = "access_token") -> Secret:
    """Return an access token, hidden; the caller must not let what this raises leave without a shield.

    Raises:
        TypeError: it is not a str.
        ValueError: it is empty, was spoilt on its way here, or no header can carry it.
    """
    token = Secret(text, name)
    if not _header_safe(token.reveal()):
        raise ValueError(f"{name}: no header can carry it. Give a token of at most 4096 ASCII characters.")
    return token


class TokenSource(Protocol):
    """Where the client's tokens come from, hidden all the way."""

    def ready(self) -> Secret | None:
        """Return a token if one is at hand without waiting, which spares the common case a timer."""
        ...

    async def token(self) -> Secret:
        """Return a token."""
        ...

    async def renew(self, refused: Secret) -> Secret:
        """Return a token other than the refused one, or the same if there is no other."""
        ...


class ProvidedTokens:
    """Hide what a provider brings.

    Args:
        provider: Somebody's own.
    """

    def __init__(self, provider: TokenProvider) -> None:
        self._provider = provider
        self._last: Secret | None = None

    def ready(self) -> Secret | None:
        """Return None: the provider is asked before every request."""
        return None

    async def token(self) -> Secret:
        """Return the provider's token.

        Raises:
            TokenUnavailable: it is none.
        """
        return self._hidden(await self._provider.token())

    async def renew(self, refused: Secret) -> Secret:
        """Return the provider's answer to a 401.

        Raises:
            TokenUnavailable: it is no token.
        """
        return self._hidden(await self._provider.renew(refused.reveal()))

    @shielded
    def _hidden(self, token: str) -> Secret:
        if self._last is None or token != self._last.reveal():
            try:
                self._last = as_token(token)
            except (TypeError, ValueError) as problem:
                raise _unavailable(str(problem)) from None
        return self._last


class BearerAuthorizer:
    """Authorize coin requests by an access token.

    Args:
        source: Where tokens come from.
        extra_headers: Sent along; what they say, such as a cookie, must not appear in any message.
        secrets: Returns what else must not appear in any message.
    """

    def __init__(self, source: TokenSource, *, extra_headers: Mapping[str, str], secrets: Callable[[], tuple[str, ...]]) -> None:
        self._source = source
        self._base = Headers.of({**extra_headers, "Accept": "application/json", "Content-Type": "application/json"})
        self._extra = tuple(extra_headers)
        self._other_secrets = secrets
        self._sent: deque[tuple[Headers, Secret]] = deque(maxlen=REMEMBERED)

    async def headers(self, timeout: float) -> Headers:
        """Return the headers of the next attempt; the same object as long as the token stands.

        Raises:
            TimeoutError: no token was to be had in time.
            VendorError: none is to be had at all.
            ConfigurationError: none is to be had, and none ever was.
        """
        token = self._source.ready() or await self._within(timeout, None)
        if not self._sent or self._sent[-1][1] is not token:
            headers = Headers.of({**self._base.fields, "Authorization": f"Bearer {token.reveal()}"})
            self._sent.append((headers, token))
        return self._sent[-1][0]

    async def renew(self, refused: Headers, timeout: float) -> bool:
        """Say whether another token than the refused one is to be had."""
        old = next((token for headers, token in self._sent if headers is refused), None)
        return old is None or await self._within(timeout, old) != old

    def secrets(self) -> tuple[str, ...]:
        """Return what must not appear in any message."""
        extra = {part for value in map(self._base.fields.__getitem__, self._extra) for part in (value, *_between_marks(value))}
        long = sorted((part for part in extra if len(part) >= SHORTEST_HIDDEN), key=len, reverse=True)
        return (*(token.reveal() for _, token in self._sent), *long, *self._other_secrets())

    async def _within(self, timeout: float, refused: Secret | None) -> Secret:
        try:
            async with asyncio.timeout(timeout):
                return await (self._source.token() if refused is None else self._source.renew(refused))
        except TimeoutError:
            raise
        except _PASSED_ON as problem:
            raise copy.copy(problem) from None  # one error may be raised to many callers, and each call writes into its own
        except ConfigurationError as problem:
            if not self._sent:  # so that no call can have been sent before
                raise copy.copy(problem) from None
            why = str(problem)
        except VendorError as problem:
            why = str(problem)  # how a token request ended, which is not how the call ended that wanted the token
        except Exception as problem:  # noqa: BLE001 - whatever a stranger's provider raises must not hide what happened before
            why = type(problem).__name__
        raise _unavailable(why)


def _unavailable(why: str) -> TokenUnavailable:
    return TokenUnavailable(
        f"The token provider brought no access token: {why.rstrip('.')}. This call did nothing; fix the provider."
    )
