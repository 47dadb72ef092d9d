"""Why there is no access token; every other error is defined in `rewards_core`."""

from __future__ import annotations

from typing import Any

from rewards_core.errors import ConnectFailed, Unauthorized


class CredentialsRejected(Unauthorized):
    """EnKash refused a token request; no other is sent with these credentials, because three refusals lock the account.

    The call it ends was not sent, or met a 401: it did nothing. Make a client with the right credentials; to try the same ones
    again, delete the file of a `FileBreakerStore` first and make a new client.
    """


class TokenUnavailable(ConnectFailed):
    """There is no access token at the moment, so the call was not sent, or met a 401: it did nothing.

    Either the last token requests brought no proper answer (the text says what came, such as a redirect), or a token provider or
    a breaker store failed.

    Attributes:
        retry_after: Seconds until a token is asked for again, None if nothing forbids it now.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after
