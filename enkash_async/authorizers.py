"""Put credentials into request headers: the pair for the token request, the token for all others."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Callable, Mapping

from enkash_async.credentials import PasswordCredentials, TokenProvider, is_token
from enkash_async.errors import TokenUnavailable
from rewards_core.errors import ClientClosed, ConfigurationError, ConnectFailed, RateLimited, Unauthorized, VendorError

_PASSED_ON = (Unauthorized, ConnectFailed, RateLimited, ClientClosed)
"""What a provider may raise that says the same of the call that wanted a token: nothing happened."""
REMEMBERED = 4
"""How many tokens are kept out of messages: EnKash may name one that has just been replaced."""


def _none() -> str | None:
    return None


class BasicAuthorizer:
    """Authorize token requests by client id and secret.

    Args:
        credentials: The pair.
    """

    def __init__(self, credentials: PasswordCredentials) -> None:
        self._credentials = credentials
        self._headers = {
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
            "Authorization": credentials.basic(),
        }

    async def headers(self, timeout: float) -> Mapping[str, str]:  # noqa: ARG002 - nothing to wait for
        """Return the headers of the token request."""
        return self._headers

    async def renew(self, refused: Mapping[str, str], timeout: float) -> bool:  # noqa: ARG002 - there is only one pair
        """Say no: a refused pair is not tried again."""
        return False

    def secrets(self) -> tuple[str, ...]:
        """Return what must not appear in any message."""
        return self._credentials.secrets()


class BearerAuthorizer:
    """Authorize coin requests by an access token.

    Args:
        provider: Where tokens come from.
        ready: Returns a token if one is at hand without waiting; spares the common case a timer.
        extra_headers: Sent along.
        secrets: What else must not appear in any message.
    """

    def __init__(
        self,
        provider: TokenProvider,
        *,
        extra_headers: Mapping[str, str],
        ready: Callable[[], str | None] = _none,
        secrets: tuple[str, ...] = (),
    ) -> None:
        self._provider = provider
        self._ready = ready
        self._extra = dict(extra_headers)
        self._other_secrets = secrets
        self._seen: deque[str] = deque(maxlen=REMEMBERED)
        self._token: str | None = None
        self._headers: Mapping[str, str] = {}

    async def headers(self, timeout: float) -> Mapping[str, str]:
        """Return the headers of the next request.

        Raises:
            TimeoutError: no token was to be had in time.
            VendorError: none is to be had at all.
            ConfigurationError: none is to be had, and none ever was.
        """
        token = self._ready()
        if token is None:
            token = await self._within(timeout, None)
        if token != self._token:
            self._token = token
            self._seen.append(token)
            self._headers = {
                **self._extra,
                "Accept": "application/json",
                "Content-Type": "application/json",
                "Authorization": f"Bearer {token}",
            }
        return self._headers

    async def renew(self, refused: Mapping[str, str], timeout: float) -> bool:
        """Say whether another token than the refused one is to be had."""
        old = refused["Authorization"].removeprefix("Bearer ")
        return await self._within(timeout, old) != old

    def secrets(self) -> tuple[str, ...]:
        """Return what must not appear in any message."""
        return (*self._seen, *self._other_secrets)

    async def _within(self, timeout: float, refused: str | None) -> str:
        try:
            async with asyncio.timeout(timeout):
                token: object = await (self._provider.token() if refused is None else self._provider.renew(refused))
        except TimeoutError:
            raise
        except _PASSED_ON as problem:
            raise copy.copy(problem) from None  # one error may be raised to many callers, and each call writes into its own
        except ConfigurationError as problem:
            if self._token is None:  # so that no call can have been sent before
                raise copy.copy(problem) from None
            why = str(problem)
        except VendorError as problem:
            why = str(problem)  # how a token request ended, which is not how the call ended that wanted the token
        except Exception as problem:  # noqa: BLE001 - whatever a stranger's provider raises must not hide what happened before
            why = type(problem).__name__
        else:
            if isinstance(token, str) and is_token(token):
                return token
            why = "it returned " + ("a text that no header can carry" if isinstance(token, str) else type(token).__name__)
        raise TokenUnavailable(f"The token provider brought no access token: {why}. This call did nothing; fix the provider.")
