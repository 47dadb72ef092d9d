"""The interface between receivers and ingresses: replies, and what an ingress needs of a receiver."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Literal, Protocol

from attrs import evolve, field, frozen


@frozen(kw_only=True)
class Reply:
    """The reply to a delivery.

    Attributes:
        status: The HTTP status.
        headers: The headers.
        body: The body, plain text.
        close: Whether to close the connection, because the request was not read to its end.
    """

    status: int
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes = b""
    close: bool = False


@frozen(kw_only=True)
class StreamReply(Reply):
    """A reply whose body follows in pieces, until `frames` ends or the client disconnects; it closes the connection.

    Attributes:
        frames: The pieces. A client that does not read one within the server's `answer_seconds` is disconnected.
    """

    frames: AsyncGenerator[bytes, None] = field(repr=False)
    close: bool = True


_TEXT = {"Content-Type": "text/plain; charset=utf-8"}

ACCEPTED = Reply(status=200)
BROKEN = Reply(status=400, headers=_TEXT, body=b"The body did not arrive whole.\n", close=True)
UNSIGNED = Reply(status=401, headers=_TEXT, body=b"The signature was not accepted.\n")
UNADMITTED = evolve(UNSIGNED, close=True)
WRONG_METHOD = Reply(status=405, headers={**_TEXT, "Allow": "POST"}, body=b"Send deliveries with POST.\n", close=True)
TOO_SLOW = Reply(status=408, headers=_TEXT, body=b"The body took too long.\n", close=True)
TOO_LARGE = Reply(status=413, headers=_TEXT, body=b"The body is too large.\n", close=True)
ENCODED = Reply(status=415, headers=_TEXT, body=b"The body must not be encoded.\n", close=True)
READ_BEFORE = Reply(status=500, headers=_TEXT, body=b"The application read the body before its receiver.\n", close=True)
NOT_KEPT = Reply(status=503, headers={**_TEXT, "Retry-After": "5"}, body=b"The delivery could not be stored. Send it again.\n")


BodyProblem = Literal["slow", "size", "broken", "absent", "read_before"]
"""Why a body could not be read.

`"slow"`: it took longer than `body_timeout` seconds. `"absent"`: none of it arrived in that time. `"size"`: it is longer than
`max_body` bytes. `"broken"`: the connection ended before its end. `"read_before"`: something in front of the receiver has read it
in whole or in part.
"""

BODY_PROBLEMS: Mapping[BodyProblem, Reply] = {
    "slow": TOO_SLOW,
    "size": TOO_LARGE,
    "broken": BROKEN,
    "absent": TOO_SLOW,
    "read_before": READ_BEFORE,
}


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return the Content-Length of case-insensitive headers; None if it is missing or invalid."""
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


A_CLOSABLE = "Completions(...)"
"""The expected argument, for error messages."""


class Closable(Protocol):
    """What an ingress needs of `Completions`."""

    async def aclose(self) -> None:
        """End all waits; idempotent."""
        ...


class Intake(Protocol):
    """What an ingress needs of a `Receiver`."""

    @property
    def max_body(self) -> int:
        """Maximum size of a body in bytes."""
        ...

    @property
    def body_timeout(self) -> float:
        """Seconds in which a body must arrive."""
        ...

    async def start(self) -> None:
        """Start running handlers; idempotent."""
        ...

    async def aclose(self) -> None:
        """Stop running handlers, and close what the receiver opened; idempotent."""
        ...

    def refusal(
        self, method: str, headers: Mapping[str, str], content_length: int | None, peer: object = None, *, unread: bool = True
    ) -> Reply | None:
        """Return the reply to a request that is refused without reading its body; None if the body may be read.

        Args:
            method: The request's method.
            headers: The request's headers, case-insensitive.
            content_length: The body's length; None if it is unknown.
            peer: The sender, for logs.
            unread: Whether the body has yet to arrive; if so, a refusal closes the connection.
        """
        ...

    def refuse(self, reason: BodyProblem, peer: object = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Count a delivery whose body could not be read, and return the reply to it."""
        ...

    async def receive(self, headers: Mapping[str, str], body: bytes, peer: object = None) -> Reply:
        """Process a delivery, and return the reply to it; 200 means that it is stored."""
        ...
