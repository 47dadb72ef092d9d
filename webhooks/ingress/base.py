"""What a receiver and every ingress in front of it share: what can be answered, and what an ingress asks of a receiver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from attrs import field, frozen


@frozen(kw_only=True)
class Reply:
    """What to answer to a delivery.

    Attributes:
        status: The HTTP status.
        headers: The headers to send.
        body: The body to send, plain text.
        close: Whether the connection is to be closed, because the request was not read to its end.
    """

    status: int
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes = b""
    close: bool = False


_TEXT = {"Content-Type": "text/plain; charset=utf-8"}

ACCEPTED = Reply(status=200)
BROKEN = Reply(status=400, headers=_TEXT, body=b"The body did not arrive whole.\n", close=True)
UNSIGNED = Reply(status=401, headers=_TEXT, body=b"The signature was not accepted.\n")
WRONG_METHOD = Reply(status=405, headers={**_TEXT, "Allow": "POST"}, body=b"Deliveries come by POST.\n", close=True)
TOO_SLOW = Reply(status=408, headers=_TEXT, body=b"The body took too long.\n", close=True)
TOO_LARGE = Reply(status=413, headers=_TEXT, body=b"The body is too large.\n", close=True)
ENCODED = Reply(status=415, headers=_TEXT, body=b"The body must not be encoded.\n", close=True)
NOT_KEPT = Reply(status=503, headers={**_TEXT, "Retry-After": "5"}, body=b"The delivery could not be kept. Send it again.\n")


A_CLOSABLE = "Completions(...)"
"""What to give as completions, for messages."""


class Closable(Protocol):
    """What an ingress needs of `Completions`: their waits end when they are closed."""

    async def aclose(self) -> None:
        """Stop; idempotent."""
        ...


class Intake(Protocol):
    """What an ingress needs of a `Receiver`."""

    @property
    def max_body(self) -> int:
        """Bytes a body may have."""
        ...

    @property
    def body_timeout(self) -> float:
        """Seconds a body may take to arrive."""
        ...

    async def start(self) -> None:
        """Begin to run handlers; idempotent."""
        ...

    async def aclose(self) -> None:
        """Stop running handlers, and close what the receiver opened; idempotent."""
        ...

    def refusal(self, method: str, content_length: int | None, content_encoding: str | None) -> Reply | None:
        """Return what to answer without reading the body, None if it may be read."""
        ...

    def too_slow(self) -> Reply:
        """Return what to answer when the body did not arrive in `body_timeout` seconds."""
        ...

    def too_large(self) -> Reply:
        """Return what to answer when more than `max_body` bytes arrived."""
        ...

    def broken(self) -> Reply:
        """Return what to answer when the body broke off or was framed wrongly."""
        ...

    async def receive(self, headers: Mapping[str, str], body: bytes) -> Reply:
        """Return what to answer to a delivery; an answer of 200 means that it is kept."""
        ...
