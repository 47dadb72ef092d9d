"""What recent events mentioned, kept for operations that are added to a `MemoryStore` later."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING

from rewards_core.clock import loop_time
from rewards_core.operations import subject_of
from webhooks.store.queries import LATELY

if TYPE_CHECKING:
    from rewards_core.operations import OperationRef

_MAX = 10_000


class Mentions:
    """The subjects of events and when they were mentioned last, the oldest first; at most 10,000."""

    def __init__(self) -> None:
        self._at: dict[tuple[str, str], float] = {}

    def note(self, ref: OperationRef) -> None:
        """Keep that an event mentioned something."""
        known, at = self._at, loop_time()
        subject = ref.scope, subject_of(ref.kind, ref.uid)
        known.pop(subject, None)
        known[subject] = at
        while len(known) > _MAX or next(iter(known.values())) <= at - LATELY:
            del known[next(iter(known))]

    def lately(self, refs: Sequence[OperationRef]) -> list[OperationRef]:
        """Return the operations whose subject was mentioned lately."""
        if not self._at:
            return []
        since = loop_time() - LATELY
        return [ref for ref in refs if ref.about is not None and self._at.get((ref.scope, ref.about), -inf) > since]
