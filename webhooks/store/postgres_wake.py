"""Notify the processes of other store objects of what this one records, and read their notifications."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rewards_core.errors import StoreError
from rewards_core.log_limit import LogLimit
from rewards_core.operations import OperationRef
from webhooks.store.hints import EVERYTHING, OUTCOMES, Notification
from webhooks.store.postgres_outcomes import Place, after, newest, with_contradictions
from webhooks.store.postgres_rows import GIVEN_REFS, refs_of

if TYPE_CHECKING:
    from rewards_core.postgres.connection import Connection
    from rewards_core.postgres.engine import Engine
    from rewards_core.postgres.listen import Listener
    from webhooks.store.members import Member
    from webhooks.store.records import Outcome

logger = logging.getLogger(__name__)

_SEND = f"""
WITH sent AS MATERIALIZED (SELECT pg_notify(channel, hint) FROM unnest($4::text[], $5::text[]) AS hints (channel, hint))
SELECT ARRAY(SELECT DISTINCT ARRAY[process, scope, kind, uid] FROM {GIVEN_REFS} JOIN interest USING (scope, kind, uid)),
  (SELECT count(*) FROM sent)
"""
_MAX_HINT = 7_900
"""Bytes of a hint; PostgreSQL takes less than 8,000."""


def channel_of(process: str) -> str:
    return f"rewards_{process}"


def hint_of(look: bytes, refs: Iterable[OperationRef]) -> str:
    """Return what a process is sent: what to look for, and which operations settled unless these are too many."""
    flags = "".join(sorted(set(look.decode())))
    listed = json.dumps([(ref.scope, ref.kind, ref.uid) for ref in refs], separators=(",", ":"))
    return flags + listed if len(listed) <= _MAX_HINT else flags + OUTCOMES.decode()


def notification_of(hint: str) -> Notification:
    """Return what a hint says; an unreadable hint means to look for everything."""
    flags, bracket, listed = hint.partition("[")
    try:
        refs = [OperationRef(*ref) for ref in json.loads(bracket + listed or "[]")]
    except (TypeError, ValueError):
        return Notification(look=EVERYTHING)
    return Notification(look=flags.encode(), refs=refs)


class Waker:
    """Notify other processes of durable changes.

    A notification within the transaction of a change would hold a lock of the whole server during its fsync, so it is a
    transaction of its own. One that fails is not repeated: each process looks for itself at its next renewal.
    """

    def __init__(self, engine: Engine, member: Member) -> None:
        self._engine = engine
        self._member = member
        self._hints: dict[str, bytes] = {}
        self._waiting: dict[str, list[OperationRef]] = {}
        self._settled: list[OperationRef] = []
        self._task: asyncio.Task[None] | None = None
        self._log_limit = LogLimit()

    def wake(
        self, hints: Mapping[str, bytes], waiting: Iterable[tuple[str, OperationRef]], settled: Iterable[OperationRef]
    ) -> None:
        """Send hints to processes, and to those that waited, or came to wait while these operations settled."""
        self._settled += settled
        for process, hint in hints.items():
            self._hints[process] = self._hints.get(process, b"") + hint
        for process, ref in waiting:
            self._waiting.setdefault(process, []).append(ref)
        if (self._hints or self._settled) and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._send(), name="wake other processes")

    async def finish(self) -> None:
        """Wait until all is sent."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _send(self) -> None:
        while self._hints or self._waiting or self._settled:
            try:
                await self._send_once()
            except StoreError as problem:
                if self._log_limit.allows("wake"):
                    logger.warning("other processes were not woken; they look for themselves every 10 s: %s", problem)

    async def _send_once(self) -> None:
        """Send the hints, and look for interest that was committed after the change had looked for it."""
        hints, self._hints = self._hints, {}
        waiting, self._waiting = self._waiting, {}
        settled, self._settled = refs_of(self._settled), []
        processes = sorted({*hints, *waiting})
        channels = [channel_of(process) for process in processes]
        given = [hint_of(hints.get(process, b""), waiting.get(process, ())) for process in processes]
        for process, *ref in await self._engine.run(lambda db: db.fetchval(_SEND, *settled, channels, given)):
            if process != self._member.id:
                self._waiting.setdefault(process, []).append(OperationRef(*ref))


class SnapshotFeed:
    """An `OutcomeFeed` in the order of the commits, on the connection of a listener: its snapshots follow one another.

    Args:
        listener: Returns the listener.
        own: The transactions of which this store object has notified its subscribers, until they are seen here.
    """

    def __init__(self, listener: Callable[[], Listener], own: set[int]) -> None:
        self._listener = listener
        self._own = own

    async def newest(self) -> Place:
        place = await self._listener().run(newest)
        self._own.clear()  # a standby that was promoted, or a restored server, uses the numbers again that it did not receive
        return place

    async def after(self, place: Place) -> tuple[Sequence[OperationRef], Place, bool]:
        found, reached = await self._listener().run(lambda db: after(db, place))
        refs = [ref for ref, transaction in found if transaction not in self._own]
        xmax, running = reached
        self._own.difference_update([one for one in self._own if one < xmax and one not in running])
        return refs, reached, False

    async def with_contradictions(self, refs: Sequence[OperationRef]) -> Sequence[tuple[Outcome, Outcome | None]]:
        async def look(db: Connection) -> Sequence[tuple[Outcome, Outcome | None]]:
            return await with_contradictions(db, refs)

        return await self._listener().run(look)
