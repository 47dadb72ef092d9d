"""The pending operations of a `MemoryStore`, of all scopes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from webhooks.store.memory_polls import PollTable

if TYPE_CHECKING:
    from rewards_core.operations import OperationRef
    from webhooks.store.records import PendingOperation

_PENDING_PER_EVENT = 10


class PollTables(dict[str, PollTable]):
    """The table of each scope, made when it is first asked for; each holds ten times `max_events` operations."""

    def __init__(self, max_events: int) -> None:
        super().__init__()
        self._max_operations = max_events * _PENDING_PER_EVENT

    def __missing__(self, scope: str) -> PollTable:
        polls = self[scope] = PollTable(scope, self._max_operations)
        return polls

    def listed(
        self, scope: str | None, kind: str | None, uid: str | None, after: OperationRef | None, limit: int, now: float
    ) -> list[PendingOperation]:
        """Return the operations that match, in the order of their refs."""
        found: list[PendingOperation] = []
        for of_scope, polls in sorted(self.items()):
            if scope in {None, of_scope} and (after is None or of_scope >= after.scope):
                start = (after.kind, after.uid) if after is not None and of_scope == after.scope else ("", "")
                found += polls.listed(start, limit - len(found), now, kind=kind, uid=uid)
        return found

    def pending(self, refs: Sequence[OperationRef], now: float) -> list[PendingOperation]:
        """Return those of the given operations that are pending."""
        found = (polls.get(ref.kind, ref.uid, now) for ref in set(refs) if (polls := self.get(ref.scope)) is not None)
        return [one for one in found if one is not None]
