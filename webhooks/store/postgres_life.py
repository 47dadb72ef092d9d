"""A `PostgresStore` among others: its transactions, its record that it renews, and its end."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from rewards_core.errors import StoreClosed, StoreError
from rewards_core.postgres.groups import Groups, Work
from rewards_core.postgres.listen import Listener
from webhooks.store import postgres_polls, postgres_upkeep
from webhooks.store.hints import EVERYTHING, Hints, Notification
from webhooks.store.members import MAX_RELEASED, RENEW_EVERY, Member
from webhooks.store.postgres_outcomes import outcomes
from webhooks.store.postgres_polls import Watch
from webhooks.store.postgres_rows import clean_ref
from webhooks.store.postgres_session import Change
from webhooks.store.postgres_wake import SnapshotFeed, Waker, channel_of, notification_of

if TYPE_CHECKING:
    from rewards_core.operations import OperationRef
    from rewards_core.postgres.connection import Connection
    from rewards_core.postgres.engine import Engine
    from webhooks.store.base import Subscriber
    from webhooks.store.postgres_outcomes import Place
    from webhooks.store.readings import Wake
    from webhooks.store.records import Outcome

T = TypeVar("T")

logger = logging.getLogger(__name__)

_SLICE = 500
_BODIES = 50


class StoreLife:
    """The part of a store that is the same whatever it stores. Connections are opened by the first call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._member = Member()
        self._own: set[int] = set()
        self._hints: Hints[Place] = Hints(SnapshotFeed(self._listening, self._own))
        self._waker = Waker(engine, self._member)
        self._groups: list[Groups] = []
        self._home: asyncio.AbstractEventLoop | None = None
        self._listener: Listener | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._late: dict[str, tuple[float, float]] = {}
        self._serving = asyncio.Lock()  # what this process serves changes in the order of the transactions
        self._watching = self._group("watch operations", self._watch)
        self._left: set[tuple[OperationRef, str]] = set()
        self._leaving: asyncio.Future[object] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def subscribe(self, subscriber: Subscriber) -> None:
        self._check_open()
        if not self._hints.subscribers:
            self._hints.start_over()
        self._hints.subscribers.add(subscriber)
        await self._listening().start()
        await self._hints.start()
        if not self._member.registered:
            await self._change(Change.register)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        self._hints.subscribers.remove(subscriber)

    def refused(self, reason: str) -> None:
        self._hints.subscribers.refused(reason)

    def woken(self, wake: Wake) -> None:
        self._member.wakes.append(wake)

    def unwatch(self, refs: Sequence[OperationRef], *, waiter: str = "") -> None:
        if self._closing is None and refs:
            self._leave({(clean_ref(ref), waiter) for ref in refs})

    async def aclose(self) -> None:
        if self._closing is None:
            self._check_open()  # what an earlier loop left has ended with it
            if self._home is not asyncio.get_running_loop() and not self._engine.forked:
                raise StoreError(f"{self._engine.address} is in use by another event loop. Close it there.")
            self._closing = asyncio.create_task(self._close(), name="close the store")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._engine.forked:  # all of it belongs to the parent process
            return
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        await self._hints.stop()
        for groups in self._groups:
            await groups.aclose()
        if self._member.registered:
            try:
                await self._transact(Change.resign)
            except StoreError as problem:
                logger.warning("the store was closed, but the other processes were not notified: %s", problem)
        await self._waker.finish()
        if self._listener is not None:
            await self._listener.stop()
        await self._engine.aclose()

    def _group(self, name: str, work: Work, *, at_once: int = 1) -> Groups:
        """Return the queue of calls that are made together, which ends with the store."""
        self._groups.append(Groups(name, work, notify=self._hints.notify, at_once=at_once))
        return self._groups[-1]

    def _listening(self) -> Listener:
        if self._listener is None:
            self._listener = Listener(
                self._engine,
                channel_of(self._member.make_id()),
                hear=lambda hint: self._hints.notify([notification_of(hint)]),
                gap=lambda: self._hints.notify([Notification(look=EVERYTHING, missed=True)]),
            )
        return self._listener

    async def _keep_renewed(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY)
            try:
                await self.renew()
            except StoreError as problem:
                logger.warning("the record of this process was not renewed; this is repeated: %s", problem)
            if self._left:
                self._leave(set())

    async def renew(self) -> None:
        """Renew the record of this process if it has one, look for what was missed, and do what is done once an hour."""

        async def renew(change: Change) -> bool | None:
            await change.check_clock()
            if self._member.registered:
                if not await change.renew(self._late):
                    return None
                change.notifications.append(Notification(look=await change.what_is_due()))
            return await change.is_due("hour")

        while (is_due := await self._change(renew)) is None:
            pass
        if is_due:
            await self._change(postgres_upkeep.every_hour)  # others do not wait for it, as they do for the clock's record

    def _leave(self, left: set[tuple[OperationRef, str]]) -> None:
        self._leaving = self._watching.add(left, limited=False)
        self._leaving.add_done_callback(lambda done: done.cancelled() or done.exception())  # repeated at the next renewal

    async def _watch(self, calls: Sequence[Watch | set[tuple[OperationRef, str]]]) -> tuple[Sequence[object], list[Notification]]:
        """Begin to watch operations, and stop to: the last call about an operation and a waiter decides."""
        watches = [call for call in calls if isinstance(call, Watch)]
        for call in calls:
            if isinstance(call, Watch):
                self._left.difference_update((ref, call.waiter) for ref in call.refs)
            else:
                self._left |= call
        known: dict[OperationRef, Outcome] = {}
        if watches:
            (known, watched), change = await self._transact(lambda change: postgres_polls.watch(change, watches))
            self._committed(change)
            # an outcome that another transaction recorded meanwhile has not seen this interest, but is visible now
            later = await self._engine.run(lambda db: outcomes(db, watched))
            new = {one.ref: one for one in later}
            known |= new
            self._left.update((ref, call.waiter) for call in watches for ref in call.settled_by(new))
        await self._unwatch()
        return [
            list({ref: known[ref] for ref in call.refs if ref in known}.values()) if isinstance(call, Watch) else None
            for call in calls
        ], []

    async def _unwatch(self) -> None:
        while self._left:
            some = set(islice(self._left, MAX_RELEASED))
            try:
                _, change = await self._transact(partial(postgres_polls.unwatch, left=some))
            except StoreError as problem:
                logger.debug("could not stop watching operations; this is repeated at the next renewal: %s", problem)
                return
            self._left -= some
            self._committed(change)

    async def _unwatched(self) -> None:
        """Wait for the `unwatch` before this call, so that later calls see its effect."""
        if self._leaving is not None and not self._leaving.done():
            await asyncio.wait([self._leaving])

    def _check_open(self) -> None:
        if self._closing is not None:
            raise StoreClosed("This store was closed by aclose(). Nothing was read or written. Make a new one.")
        loop = asyncio.get_running_loop()
        if loop is not self._home and (self._home is None or self._home.is_closed()):
            self._home = loop
            self._listener = self._renewing = self._leaving = None
            self._waker = Waker(self._engine, self._member)
            self._serving = asyncio.Lock()

    async def _read(self, look: Callable[[Connection], Awaitable[T]]) -> T:
        self._check_open()
        return await self._engine.run(look)

    async def _change(self, work: Callable[[Change], Awaitable[T]]) -> T:
        """Run a change; notify and wake whom it concerns once it is durable."""
        self._check_open()
        await self._unwatched()
        result, change = await self._transact(work)
        self._committed(change)
        self._hints.notify(change.notifications)
        return result

    async def _transact(self, work: Callable[[Change], Awaitable[T]], *, first: bool = False) -> tuple[T, Change]:
        return await self._engine.transact(self._changing(work), first=first)

    async def _in_one_statement(self, work: Callable[[Change], Awaitable[T]], *, first: bool = False) -> tuple[T, Change]:
        return await self._engine.run(self._changing(work), first=first)

    def _changing(self, work: Callable[[Change], Awaitable[T]]) -> Callable[[Connection], Coroutine[Any, Any, tuple[T, Change]]]:
        async def run(db: Connection) -> tuple[T, Change]:
            change = Change(db, self._member)
            return await work(change), change

        return run

    def _committed(self, change: Change) -> None:
        for follow in change.after:
            follow()
        if self._closing is None and (self._renewing is None or self._renewing.done()):
            self._renewing = asyncio.create_task(self._keep_renewed(), name="renew the record of this process")
        if change.transaction is not None and self._hints.subscribers:
            self._own.add(change.transaction)
        self._waker.wake(change.hints, change.waiting, change.settled)

    async def _each_slice(self, ids: Sequence[int], change: Callable[[Change, Sequence[int]], Awaitable[int]]) -> int:
        """Change records in slices, so that no transaction takes long; return how many were changed."""
        self._check_open()
        count = 0
        for start in range(0, len(ids), _SLICE):
            count += await self._change(partial(_with_slice, change, ids[start : start + _SLICE]))
        return count

    async def _in_slices(self, change: Callable[[Change, int], Awaitable[int]], limit: int | None) -> int:
        """Change records in slices, so that no transaction takes long; return how many were changed."""
        self._check_open()
        count, left = 0, math.inf if limit is None else limit
        while left > 0:
            max_rows = int(min(_SLICE, left))
            changed = await self._change(partial(_with_slice, change, max_rows))
            count, left = count + changed, left - changed if changed == max_rows else 0
        return count

    async def _forget(
        self,
        find: Callable[..., Awaitable[tuple[list[int], int | None]]],
        forget: Callable[[Change, Sequence[int]], Awaitable[int]],
    ) -> int:
        """Erase the records that are found, in slices; return how many."""
        count = 0
        last: int | None = 0
        while last is not None:
            found, last = await self._read(partial(find, after=last, limit=_BODIES))
            if found:
                count += await self._change(partial(_with_slice, forget, found))
        return count


async def _with_slice(change: Callable[[Change, Any], Awaitable[int]], some: object, at: Change) -> int:
    return await change(at, some)
