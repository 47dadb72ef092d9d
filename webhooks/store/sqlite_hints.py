"""The outcomes that all store objects on a SQLite file record, in the order of their commits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from rewards_core.operations import OperationRef
from webhooks.store.sqlite_outcomes import newest_seq, refs_after, with_contradictions

if TYPE_CHECKING:
    from rewards_core.sqlite.connection import Connection
    from webhooks.store.records import Outcome

OUTCOMES_AT_ONCE = 1_000


class SequenceFeed:
    """An `OutcomeFeed` in the order of `seq`; `read` runs a function on a connection to the file."""

    def __init__(self, read: Callable[[Callable[[Connection], Any]], Awaitable[Any]]) -> None:
        self._read = read

    async def newest(self) -> int:
        return int(await self._read(newest_seq))

    async def after(self, place: int) -> tuple[Sequence[OperationRef], int, bool]:
        rows = await self._read(lambda db: refs_after(db, place, OUTCOMES_AT_ONCE))
        refs = [OperationRef(scope, kind, uid) for _, scope, kind, uid in rows]
        return refs, (rows[-1][0] if rows else place), len(rows) == OUTCOMES_AT_ONCE

    async def with_contradictions(self, refs: Sequence[OperationRef]) -> Sequence[tuple[Outcome, Outcome | None]]:
        found: Sequence[tuple[Outcome, Outcome | None]] = await self._read(lambda db: with_contradictions(db, refs))
        return found
