"""The Authorization header of EnKash's requests: Basic for the token endpoint, Bearer for the coin endpoints."""

from __future__ import annotations

import asyncio
import copy
import re
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from enkash_async.credentials import hide_token
from enkash_async.envelope import is_foreign, read_refusal, read_token
from enkash_async.errors import TokenUnavailable
from rewards_core.errors import ClientClosed, ConfigurationError, ConnectFailed, RateLimited, Unauthorized, VendorError
from rewards_core.http.failures import Failure, FailureKind
from rewards_core.http.messages import Answer, Effect, Headers, Request
from rewards_core.http.transport import Transport
from rewards_core.secrets import Secret, shielded

if TYPE_CHECKING:
    from enkash_async.credentials import AccessToken, PasswordCredentials, TokenProvider
    from enkash_async.tokens import PasswordTokens

REDACTED_TOKENS = 4
"""How many of the latest tokens are redacted from messages: an error may quote one that has just been replaced."""
MIN_REDACTED = 8
"""Characters of the shortest part of an extra header that is redacted: a shorter part occurs in ordinary words."""

_PASSED_ON = (Unauthorized, ConnectFailed, RateLimited, ClientClosed)
"""Errors of a provider that are just as true of the call that needed the token: it did nothing."""
_split_header = re.compile(r"[;,=\s]+").split


class TokenEndpoint(Transport):
    """Request tokens with one set of credentials.

    Args:
        credentials: The credentials that EnKash issued.
        settings: Arguments of the transport.
    """

    def __init__(self, credentials: PasswordCredentials, **settings: Any) -> None:
        super().__init__(authorizer=_BasicAuthorizer(credentials), refusal=read_refusal, **settings)
        self._credentials = credentials

    async def ask(self) -> AccessToken:
        """Send one token request; it is not retried once it may have arrived.

        Raises:
            OutcomeUnknown: the token endpoint did not answer; the request may have counted. `status` is that of another answer.
            RequestRejected: the request was rejected.
            ConnectFailed: nothing was sent.
            RateLimited: EnKash asked for a longer pause than there was time.
            ConfigurationError: the borrowed session cannot send the request.
        """
        return await self.call(
            Request(
                operation="token",
                method="POST",
                url=self.url("oauth", "token"),
                effect=Effect.BARE,
                read=lambda answer: read_token(answer, self._credentials.secrets),
                body=self._credentials.form(),
                deadline=self.deadline(),
            )
        )

    async def exchange(self, request: Request[Any], headers: Headers, timeout: float) -> Answer | Failure:
        """Send one attempt; an answer that does not come from the token endpoint leaves it unanswered."""
        answer = await super().exchange(request, headers, timeout)
        if isinstance(answer, Answer) and is_foreign(answer):
            return Failure(
                FailureKind.UNREADABLE, f"HTTP {answer.status}, which is not an answer of a token endpoint", answer.status
            )
        return answer


class _BasicAuthorizer:
    def __init__(self, credentials: PasswordCredentials) -> None:
        fields = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
        self._headers = Headers.of({**fields, "Authorization": credentials.basic()})
        self.secrets = credentials.secrets

    async def headers(self, timeout: float) -> Headers:  # noqa: ARG002 - never waits
        return self._headers

    async def renew(self, refused: Headers, timeout: float) -> bool:  # noqa: ARG002 - rejected credentials are not tried again
        return False


class ProvidedTokens:
    """The tokens of a `TokenProvider`, hidden."""

    def __init__(self, provider: TokenProvider) -> None:
        self._provider = provider
        self._last: Secret | None = None

    def ready(self) -> Secret | None:
        """Return None: the provider is asked before every request."""
        return None

    async def token(self) -> Secret:
        """Return the provider's token.

        Raises:
            TokenUnavailable: the provider returned something else.
        """
        return self._hidden(await self._provider.token())

    async def renew(self, refused: Secret) -> Secret:
        """Return the provider's answer to a 401.

        Raises:
            TokenUnavailable: the provider returned something else than a token.
        """
        return self._hidden(await self._provider.renew(refused.reveal()))

    @shielded
    def _hidden(self, token: str) -> Secret:
        if self._last is None or token != self._last.reveal():
            try:
                self._last = hide_token(token)
            except (TypeError, ValueError) as problem:
                raise _unavailable(str(problem)) from None
        return self._last


class BearerAuthorizer:
    """Authorize coin requests by an access token.

    Args:
        tokens: The source of tokens.
        extra_headers: Sent as well; their values, such as a cookie, are redacted from messages.
        secrets: Returns further values to redact.
    """

    def __init__(
        self, tokens: PasswordTokens | ProvidedTokens, *, extra_headers: Mapping[str, str], secrets: Callable[[], tuple[str, ...]]
    ) -> None:
        self._tokens = tokens
        self._base = Headers.of({**extra_headers, "Accept": "application/json", "Content-Type": "application/json"})
        self._extra = tuple(extra_headers)
        self._other_secrets = secrets
        self._sent: deque[tuple[Headers, Secret]] = deque(maxlen=REDACTED_TOKENS)

    async def headers(self, timeout: float) -> Headers:
        """Return the headers of the next attempt; the same object until the token is replaced.

        Raises:
            TimeoutError: no token arrived in time.
            VendorError: no token is available.
            ConfigurationError: no token is available, and none ever was.
        """
        token = self._tokens.ready() or await self._within(timeout, None)
        if not self._sent or self._sent[-1][1] is not token:
            headers = Headers.of({**self._base.fields, "Authorization": f"Bearer {token.reveal()}"})
            self._sent.append((headers, token))
        return self._sent[-1][0]

    async def renew(self, refused: Headers, timeout: float) -> bool:
        """Return whether a token other than the rejected token is available."""
        old = next((token for headers, token in self._sent if headers is refused), None)
        return old is None or await self._within(timeout, old) != old

    def secrets(self) -> tuple[str, ...]:
        """Return the values to redact from messages."""
        extra = {part for value in map(self._base.fields.__getitem__, self._extra) for part in (value, *_split_header(value))}
        long = sorted((part for part in extra if len(part) >= MIN_REDACTED), key=len, reverse=True)
        return (*(token.reveal() for _, token in self._sent), *long, *self._other_secrets())

    async def _within(self, timeout: float, refused: Secret | None) -> Secret:
        try:
            async with asyncio.timeout(timeout):
                return await (self._tokens.token() if refused is None else self._tokens.renew(refused))
        except TimeoutError:
            raise
        except _PASSED_ON as problem:
            raise copy.copy(problem) from None  # one error may reach many callers, and each call adds its own facts
        except ConfigurationError as problem:
            if not self._sent:  # so no call can have been sent before
                raise copy.copy(problem) from None
            why = str(problem)
        except VendorError as problem:
            why = str(problem)  # how the token request ended, not the call that needed the token
        except Exception as problem:  # noqa: BLE001 - whatever a provider raises must not hide the outcome of earlier attempts
            why = type(problem).__name__
        raise _unavailable(why)


def _unavailable(why: str) -> TokenUnavailable:
    return TokenUnavailable(
        f"The token provider returned no access token: {why.rstrip('.')}. This call did nothing; fix the provider."
    )
