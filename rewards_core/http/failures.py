"""Why an attempt failed, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from rewards_core.http.messages import Effect

if TYPE_CHECKING:
    from rewards_core.errors import VendorError


class FailureKind(Enum):
    """Why an attempt failed."""

    UNUSABLE = "the client is closed, or belongs to another loop or process"
    NOT_SENT = "the request never left"
    TOO_LATE = "the request never left, because the call's time was over"
    MISCONFIGURED = "a local mistake, found before connecting"
    THROTTLED = "429"
    REJECTED = "the vendor refused"
    UNANSWERED = "no answer, or one that does not say what happened"
    UNREADABLE = "the answer cannot be read"
    REDIRECTED = "a redirect"


REPEATED: Mapping[Effect, frozenset[FailureKind]] = {
    Effect.READ: frozenset({FailureKind.NOT_SENT, FailureKind.THROTTLED, FailureKind.UNANSWERED}),
    Effect.KEYED: frozenset({FailureKind.NOT_SENT, FailureKind.THROTTLED, FailureKind.UNANSWERED, FailureKind.UNREADABLE}),
    Effect.BARE: frozenset({FailureKind.NOT_SENT, FailureKind.THROTTLED}),
}
"""The failures after which another attempt is made."""

AMBIGUOUS = frozenset({FailureKind.UNANSWERED, FailureKind.UNREADABLE})
"""The failures after which a write may have been carried out."""


class Failure(NamedTuple):
    """An attempt without a usable answer, with the reason in words for the error."""

    kind: FailureKind
    reason: str
    status: int | None = None
    retry_after: float | None = None
    error: VendorError | None = None
