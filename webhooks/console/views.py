"""What the page shows, as JSON values."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import asdict

from rewards_core.clock import loop_time
from rewards_core.errors import StoreError
from rewards_core.json import dumps
from rewards_core.text import one_line
from webhooks.console.commands import labelled
from webhooks.console.stories import WHY_POLLED, stories_of
from webhooks.delivery_watch import MAX_TEXT, Delivery, DeliveryFilter, row_of
from webhooks.store.facts import body_as_text, body_indented, handler_facts, job_facts
from webhooks.store.paging import pages
from webhooks.store.records import EventState
from webhooks.store.standings import OperationStanding, reason_of, with_operations

if TYPE_CHECKING:
    from rewards_core.operations import OperationRef
    from webhooks.console.commands import Commands
    from webhooks.console.watched import Watched
    from webhooks.store.base import Store
    from webhooks.store.readings import StoreActivity, StoreStatistics
    from webhooks.store.records import HandlerStatus, PendingOperation, StoredEvent, StoredOutcome

T = TypeVar("T")

PAGE = 50
_MAX_WAKES = 60
_NOT_SEEN = "Refused deliveries are kept by the listener, not by the store. `webhook-listener serve --console` shows them."
_MAX_PRETTY = 65_536
_MAX_DEPTH = 50
_SEARCHED = 500
"""Events among which one without a uid is searched."""


class Views:
    """Read a store and what is watched, and change neither."""

    def __init__(self, store: Store, watched: Watched, commands: Commands, clock: Callable[[], float]) -> None:
        self._store = store
        self._watched = watched
        self._commands = commands
        self._clock = clock
        self._one_body = asyncio.Lock()  # a large one takes memory and time

    async def status(self) -> tuple[dict[str, Any], float]:
        """Return what stands in the strip, and the seconds that the store took to count."""
        readiness = await self._watched.readiness()
        began, seconds, held, reasons = loop_time(), 0.0, None, readiness.reasons
        try:
            held = _held(await self._store.statistics(), await self._store.activity(), self._clock())
            seconds = loop_time() - began
        except StoreError as problem:
            reasons = (*reasons, f"The console cannot read the store: {problem}")
        status = {
            "ready": readiness.ready,
            "reasons": [one_line(reason) for reason in reasons],
            "workers": self._watched.worker_states(),
            "store": held,
        }
        return status, seconds

    async def recent(self, which: DeliveryFilter) -> list[dict[str, Any]]:
        """Return the last deliveries that match, oldest first: stored ones, and refused ones if they can be seen."""
        found: list[dict[str, Any]] = []
        if which.verdict in {None, "new", "dead letter"}:
            state = EventState.DEAD if which.verdict == "dead letter" else None
            stored = await self._store.list_events(name=which.event, uid=which.uid, state=state, limit=PAGE)
            found += map(event_row, stored)
        if which.event is None and which.uid is None and self._watched.sees_refusals:
            refused = (one for one in await self._watched.refused() if one.of_delivery)
            found += [row_of(Delivery.refused(one)) | {"count": one.count} for one in islice(refused, PAGE)]
        fitting = [row for row in found if which.fits(row["event"], row["uid"], row["verdict"])]
        return sorted(fitting, key=lambda row: row["at"])[-PAGE:]

    async def dead_letters(self, before: int | None) -> dict[str, Any]:
        """Return a page of dead letters, newest first."""
        stored = await self._store.list_events(state=EventState.DEAD, before_id=before, limit=PAGE)
        return self._page(stored, lambda one: event_row(one) | {"command": self._commands.retry(one)}, lambda one: one.id)

    async def pending(self, after: OperationRef | None) -> dict[str, Any]:
        """Return a page of pending operations, in the order of their refs."""
        found = await self._store.list_pending(after=after, limit=PAGE)
        return self._page(found, self._pending_row, lambda one: one.ref.as_dict())

    async def refused(self) -> dict[str, Any]:
        """Return the last refusals, newest first."""
        if not self._watched.sees_refusals:
            return {"rows": [], "note": _NOT_SEEN}
        refused = await self._watched.refused()
        return {"rows": [asdict(one) | {"command": self._commands.refused(one.reason)} for one in refused], "note": ""}

    async def conflicts(self, before: int | None) -> dict[str, Any]:
        """Return a page of outcomes with conflicts, newest first."""
        found = await self._store.list_outcomes(conflicting=True, before_id=before, limit=PAGE)
        return self._page(found, self._conflict_row, lambda one: one.id)

    async def handlers(self) -> dict[str, Any]:
        """Return all handlers, those that nobody serves first."""
        found = sorted(await self._store.list_handlers(), key=lambda one: (one.served, -one.dead, -one.ready))
        return {"rows": [self._handler_row(one) for one in found], "note": self._commands.note}

    async def event(self, event_id: int | None, identity: str | None, uid: str | None) -> dict[str, Any] | None:
        """Return an event by its id or its identity, which is looked for among those of a uid or the last ones."""
        if event_id is not None:
            stored = await self._store.get_event(event_id)
        else:
            stored = await self._by_identity(identity, uid)
        if stored is None:
            return None
        (listed,) = await with_operations(self._store, [stored])
        event = stored.event
        again = self._commands.retry(stored) if stored.state is EventState.DEAD else None
        return {
            **event_row(stored),
            "state": str(stored.state),
            "occurred_at": event.occurred_at,
            "correlation_id": event.correlation_id,
            "attempt": event.attempt,
            "jobs": [job_facts(job) for job in stored.jobs],
            "operations": [_operation(one) for one in listed.operations],
            "commands": labelled({"Process it again": again, "Show it in a terminal": self._commands.show(stored.id)}),
            "note": self._commands.note,
        }

    async def body(self, event_id: int) -> dict[str, Any] | None:
        """Return the body of an event; None if there is no such event."""
        stored = await self._store.get_event(event_id)
        if stored is None:
            return None
        body = stored.event.body
        async with self._one_body:
            text = await asyncio.to_thread(_readable, body) if body else None
        return {"id": event_id, "text": text, "bytes": len(body)}

    async def stories(self, uid: str) -> list[dict[str, Any]]:
        """Return the stories of the operations with a uid."""
        return await stories_of(self._store, self._commands, uid)

    async def _by_identity(self, identity: str | None, uid: str | None) -> StoredEvent | None:
        found = pages(
            lambda last, limit: self._store.list_events(uid=uid, before_id=last, limit=min(limit, PAGE)),
            lambda stored: stored.id,
            limit=_SEARCHED,
        )
        async for stored in found:
            if stored.event.identity.hex() == identity:
                return stored
        return None

    def _pending_row(self, one: PendingOperation) -> dict[str, Any]:
        return {
            **one.ref.as_dict(),
            "at": one.added_at,
            "polls": one.polls,
            "due_in": one.due_in,
            "why": WHY_POLLED[one.priority],
            "command": self._commands.forget(one.ref),
        }

    def _conflict_row(self, one: StoredOutcome) -> dict[str, Any]:
        return {
            **one.outcome.ref.as_dict(),
            "at": one.outcome.settled_at,
            "status": str(one.outcome.status),
            "others": [str(other.status) for other in one.conflicts],
            "command": self._commands.outcome_of(one.outcome.ref),
        }

    def _handler_row(self, one: HandlerStatus) -> dict[str, Any]:
        subscription = one.subscription
        end = None if one.served else self._commands.retire(subscription.service, subscription.handler)
        return {**handler_facts(one), "command": end}

    def _page(self, found: Sequence[T], row: Callable[[T], dict[str, Any]], cursor: Callable[[T], Any]) -> dict[str, Any]:
        """Return a page of a list: a row for each record, the cursor of the next page, and why commands are missing."""
        more = cursor(found[-1]) if len(found) == PAGE else None
        return {"rows": [row(one) for one in found], "more": more, "note": self._commands.note}


def event_row(stored: StoredEvent) -> dict[str, Any]:
    """Return a stored event as a row among deliveries."""
    event = stored.event
    return {
        "id": stored.id,
        "at": stored.received_at,
        "verdict": "new" if event.problem is None else "dead letter",
        "event": one_line(event.name, MAX_TEXT),
        "scope": event.scope,
        "kind": None if event.ref is None else event.ref.kind,
        "uid": None if event.ref is None else event.ref.uid,
        "identity": event.identity.hex(),
        "reason": one_line(reason_of(stored), MAX_TEXT) or None,
        "bytes": len(event.body),
    }


def as_json(value: Any) -> bytes:
    """Return JSON, also of text that is not Unicode."""
    try:
        return dumps(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def _held(held: StoreStatistics, activity: StoreActivity, now: float) -> dict[str, Any]:
    processes = activity.processes
    wakes = sorted(chain.from_iterable(process.wakes for process in processes), key=lambda wake: wake.woken_at)
    return {
        **asdict(held),
        "lag": 0.0 if held.oldest_ready_at is None else max(0.0, now - held.oldest_ready_at),
        "processes": len(processes),
        "waiting": sum(process.waiting for process in processes),
        "polls": sum(process.polls for process in processes),
        "budgets": [asdict(budget) for budget in activity.budgets],
        "wakes": [
            {**wake.ref.as_dict(), "via": wake.via, "at": wake.woken_at, "seconds": wake.woken_at - wake.settled_at}
            for wake in wakes[-_MAX_WAKES:]
        ],
    }


def _operation(one: OperationStanding) -> dict[str, Any]:
    return {**one.ref.as_dict(), "status": one.status}


def _readable(body: bytes) -> str:
    """Return a body as text, indented if that does not make it many times as long."""
    return body_indented(body) if len(body) <= _MAX_PRETTY and _depth(body) <= _MAX_DEPTH else body_as_text(body)


def _depth(body: bytes) -> int:
    """Return how deeply a JSON text is nested, at most; brackets in its strings count too."""
    depth = deepest = 0
    for byte in body:
        if byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest
