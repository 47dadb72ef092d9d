"""The interface between a message queue and its ingress: messages, and what a queue must offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from attrs import field, frozen

MAX_BATCH = 10
"""Messages in one request."""
MAX_VISIBILITY = 43_200
MAX_WAIT = 20
"""Seconds."""
MAX_CONCURRENCY = 64


@frozen(kw_only=True)
class QueuedMessage:
    """A message as a queue delivered it.

    Attributes:
        id: The queue's id of the message.
        body: The body, text, whose UTF-8 bytes are signed.
        attributes: The text attributes, which are a delivery's headers.
        handle: What this receipt of the message is deleted by.
        receives: How often it was received, this time included.
        sent_at: Unix time when it was sent, None if the queue does not say.
    """

    id: str
    body: str = field(repr=False)
    attributes: Mapping[str, str] = field(factory=dict, repr=False)
    handle: str = field(repr=False)
    receives: int = 1
    sent_at: float | None = None


@frozen(kw_only=True)
class BatchFailure:
    """One message of a batch for which a change failed.

    Attributes:
        message: The message, as it was received.
        code: The queue's own word for it, such as `"ReceiptHandleIsInvalid"`.
        retryable: Whether the same change may succeed if it is repeated.
    """

    message: QueuedMessage
    code: str
    retryable: bool


class Queue(Protocol):
    """What the ingress needs of a queue. Every method raises `QueueError` if the queue does not answer or refuses the call."""

    @property
    def name(self) -> str:
        """The queue's name, for logs."""
        ...

    async def receive(self, *, wait: int, visibility: int) -> Sequence[QueuedMessage]:
        """Return up to ten messages, after waiting for the first; for `visibility` seconds nobody else receives them."""
        ...

    async def delete(self, messages: Sequence[QueuedMessage]) -> Sequence[BatchFailure]:
        """Delete up to ten messages, and return those that were not deleted."""
        ...

    async def change_visibility(self, messages: Sequence[QueuedMessage], seconds: int) -> Sequence[BatchFailure]:
        """Make up to ten messages visible to others after `seconds`, 0 for now; return those that were not changed."""
        ...
