"""Errors of access tokens; every other error is defined in `rewards_core`."""

from __future__ import annotations

from typing import Any

from rewards_core.errors import ConnectFailed, Unauthorized


class CredentialsRejected(Unauthorized):
    """EnKash rejected a token request. No other one is sent with these credentials, because three rejections lock the account.

    The call that needed the token did nothing. Create a client with the right credentials; to try the same ones again, first
    delete the file of a `FileBreakerStore`.
    """


class TokenUnavailable(ConnectFailed):
    """There is no access token at the moment, so the call that needed one did nothing.

    Either the last token requests were not answered by EnKash (the text says what came instead, such as a redirect), or a token
    provider or a breaker store failed.

    Attributes:
        retry_after: Seconds until a token is requested again; None if one may be requested now.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after
