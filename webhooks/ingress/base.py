"""What a receiver and every ingress in front of it share: what can be answered, and what an ingress asks of a receiver."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from attrs import evolve, field, frozen


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
UNADMITTED = evolve(UNSIGNED, close=True)
WRONG_METHOD = Reply(status=405, headers={**_TEXT, "Allow": "POST"}, body=b"Deliveries come by POST.\n", close=True)
TOO_SLOW = Reply(status=408, headers=_TEXT, body=b"The body took too long.\n", close=True)
TOO_LARGE = Reply(status=413, headers=_TEXT, body=b"The body is too large.\n", close=True)
ENCODED = Reply(status=415, headers=_TEXT, body=b"The body must not be encoded.\n", close=True)
READ_BEFORE = Reply(status=500, headers=_TEXT, body=b"The application read the body before its receiver.\n", close=True)
NOT_KEPT = Reply(status=503, headers={**_TEXT, "Retry-After": "5"}, body=b"The delivery could not be kept. Send it again.\n")


BodyProblem = Literal["slow", "size", "broken", "absent", "read_before"]
"""Why a body could not be read.

`"slow"`: it took longer than `body_timeout` seconds. `"absent"`: in that time nothing of it reached the receiver. `"size"`: it
has more than `max_body` bytes. `"broken"`: it broke off. `"read_before"`: something in front of the receiver took all of it or a
part, and did not hand it on.
"""

BODY_PROBLEMS: Mapping[BodyProblem, Reply] = {
    "slow": TOO_SLOW,
    "size": TOO_LARGE,
    "broken": BROKEN,
    "absent": TOO_SLOW,
    "read_before": READ_BEFORE,
}


def content_length(headers: Mapping[str, str]) -> int | None:
    """Return what headers, in a mapping that folds the case of names, say of the body's length; None if nothing that counts."""
    text = headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


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

    def refusal(
        self, method: str, headers: Mapping[str, str], content_length: int | None, peer: object = None, *, unread: bool = True
    ) -> Reply | None:
        """Return what to answer without reading the body, None if it may be read.

        Args:
            method: The request's method.
            headers: The request's headers, in a mapping that folds the case of names.
            content_length: What they say of the body's length, None if they do not.
            peer: Whose request it is, for people to read.
            unread: Whether the body has yet to arrive, so that it matters that nobody sends one in vain.
        """
        ...

    def refuse(self, reason: BodyProblem, peer: object = None, headers: Mapping[str, str] | None = None) -> Reply:
        """Return what to answer to a delivery whose body could not be read, and count it; its headers say more about it."""
        ...

    async def receive(self, headers: Mapping[str, str], body: bytes, peer: object = None) -> Reply:
        """Return what to answer to a delivery; an answer of 200 means that it is kept."""
        ...
