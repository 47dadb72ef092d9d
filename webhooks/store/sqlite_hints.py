"""Notify the subscribers of a `SQLiteStore` of its commits and of outcomes that other store objects record."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from rewards_core.errors import StoreError
from rewards_core.operations import OperationRef
from rewards_core.sqlite.engine import TICK
from webhooks.store.sqlite_outcomes import newest_seq, refs_after, with_contradictions
from webhooks.store.sqlite_session import JOBS, OUTCOMES, POLLS, Notification
from webhooks.store.subscribers import Subscribers

if TYPE_CHECKING:
    from rewards_core.sqlite.connection import Connection

logger = logging.getLogger(__name__)

_OUTCOMES_AT_ONCE = 1_000


class Hints:
    """The notifications of one store object; `read` runs a function on a connection to the file."""

    def __init__(self, read: Callable[[Callable[[Connection], Any]], Awaitable[Any]]) -> None:
        self.subscribers = Subscribers()
        self._read = read
        self._seen: int | None = None
        self._look: asyncio.Task[None] | None = None
        self._look_again = False
        self._missed = False
        self._stopped = False

    async def start(self) -> None:
        """Look for outcomes that other store objects record, from now on."""
        if self._seen is None:
            self.start_after(await self._read(newest_seq))

    def start_after(self, seq: int) -> None:
        """Look for outcomes after `seq`, unless another subscriber was first."""
        if self._seen is None:
            self._seen = seq

    def receive(self, hint: bytes) -> None:
        """Receive a hint of another process."""
        self.notify([Notification(look=hint)])

    def notify(self, notifications: Sequence[Notification]) -> None:
        """Notify the subscribers, and look for what other processes recorded."""
        look = b""
        for one in notifications:
            look += one.look
            if one.settled is not None:
                self.subscribers.settled(one.settled)
            if one.confirmed is not None:
                self.subscribers.confirmed(one.confirmed)
            self._missed = self._missed or one.missed
        if JOBS in look:
            self.subscribers.jobs_ready()
        if POLLS in look:
            self.subscribers.polls_due()
        if (OUTCOMES in look or self._missed) and self._seen is not None and not self._stopped:
            self._look_again = True
            loop = asyncio.get_running_loop()
            if self._look is None or self._look.done() or self._look.get_loop() is not loop:
                self._look = loop.create_task(self._look_for_outcomes(), name="look for outcomes")

    async def stop(self) -> None:
        """Stop notifying, and cancel a lookup in flight."""
        self._stopped = True
        self.subscribers.clear()
        if self._look is not None and self._look.get_loop() is asyncio.get_running_loop():
            self._look.cancel()
            await asyncio.gather(self._look, return_exceptions=True)

    async def _look_for_outcomes(self) -> None:
        while self._look_again and self.subscribers:
            self._look_again = False
            try:
                await self._pass_on()
            except StoreError as problem:
                logger.warning("outcomes of other processes could not be read; this is retried in a second: %s", problem)
                self._look_again = True
                await asyncio.sleep(TICK)

    async def _pass_on(self) -> None:
        """Notify of what other processes recorded since the last lookup."""
        if self._missed:
            self._seen = await self._read(newest_seq)
            self._missed = False
            self.subscribers.missed()
        seen = self._seen or 0
        while True:
            rows = await self._read(lambda db, seen=seen: refs_after(db, seen, _OUTCOMES_AT_ONCE))  # type: ignore[misc]
            refs = [OperationRef(scope, kind, uid) for _, scope, kind, uid in rows]
            waited_for = [ref for ref in refs if self.subscribers.waits_for(ref)]
            if waited_for:
                for outcome, against in await self._read(lambda db, refs=waited_for: with_contradictions(db, refs)):  # type: ignore[misc]
                    self.subscribers.settled(outcome)
                    if outcome.confirmed and outcome.via == "webhook":
                        self.subscribers.confirmed(outcome)
                    if against is not None:
                        self.subscribers.confirmed(against)
            if rows:
                seen = self._seen = rows[-1][0]
            if len(rows) < _OUTCOMES_AT_ONCE:
                return
