"""What stands between a caller and an access token; every other error is `vendor_http`'s."""

from __future__ import annotations

from typing import Any

from vendor_http.errors import ConnectFailed, Unauthorized


class CredentialsRejected(Unauthorized):
    """EnKash refused a token request; none is made again with these credentials, because three refusals lock the account.

    The call it ends was not sent, or met a 401 and no more: nothing happened. Make a client with the right credentials; to try
    the same ones again, delete the file of a `FileBreakerStore` first and make a new client.
    """


class TokenUnavailable(ConnectFailed):
    """There is no access token at the moment, so the request was not sent, or met a 401 and no more: nothing happened.

    Attributes:
        retry_after: Seconds until a token is asked for again, None if nothing forbids it now.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.retry_after = retry_after
