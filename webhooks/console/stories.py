"""The story of one operation: asked, delivered, settled, its callers woken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from attrs import frozen

from rewards_core.text import counted
from webhooks.console.commands import labelled
from webhooks.store.queries import operations_of
from webhooks.store.records import Priority

if TYPE_CHECKING:
    from rewards_core.operations import OperationRef
    from webhooks.console.commands import Commands
    from webhooks.store.base import Store
    from webhooks.store.readings import Wake
    from webhooks.store.records import Outcome, PendingOperation, StoredEvent

MAX_OPERATIONS = 5
"""Operations of different kinds or scopes that may share a uid in one answer."""
_MAX_EVENTS = 20
_WAKES_UNKNOWN = "Each process reports the last 64 callers that it woke, and only while it lives."

_ORDER = ("asked", "chain", "delivered", "settled", "awake", "conflict")
WHY_POLLED = {
    Priority.LOOKUP: "an event mentioned it",
    Priority.DEADLINE: "a wait ends soon",
    Priority.WISH: "a caller asked for it",
    Priority.ROUTINE: "a caller waits",
    Priority.ABANDONED: "nobody waits",
}


async def stories_of(store: Store, commands: Commands, uid: str) -> list[dict[str, Any]]:
    """Return the stories of the operations with a uid; none if the store knows nothing of it."""
    outcomes = {one.outcome.ref: one for one in await store.list_outcomes(uid=uid, limit=MAX_OPERATIONS)}
    pending = {one.ref: one for one in await store.list_pending(uid=uid, limit=MAX_OPERATIONS)}
    events = list(await store.list_events(uid=uid, limit=_MAX_EVENTS))
    mentioned = [ref for stored in events for ref in operations_of(stored.event) if ref.uid == uid]
    wakes = [wake for process in (await store.activity()).processes for wake in process.wakes if wake.ref.uid == uid]
    return [
        _Story(
            ref=ref,
            events=[stored for stored in events if ref in operations_of(stored.event)],
            outcome=outcomes[ref].outcome if ref in outcomes else None,
            conflicts=outcomes[ref].conflicts if ref in outcomes else (),
            pending=pending.get(ref),
            wakes=[wake for wake in wakes if wake.ref == ref],
        ).as_json(commands)
        for ref in list(dict.fromkeys([*outcomes, *pending, *mentioned]))[:MAX_OPERATIONS]
    ]


@frozen(kw_only=True)
class _Story:
    """What a store knows of an operation, in the order in which it happened."""

    ref: OperationRef
    events: Sequence[StoredEvent]
    outcome: Outcome | None
    conflicts: Sequence[Outcome]
    pending: PendingOperation | None
    wakes: Sequence[Wake]

    def as_json(self, commands: Commands) -> dict[str, Any]:
        ref, outcome, pending = self.ref, self.outcome, self.pending
        status = "pending" if pending is not None else "unknown"
        told = {
            "Its events": commands.events_about(ref),
            "Its outcome": None if outcome is None else commands.outcome_of(ref),
            "Stop polling it": None if pending is None else commands.forget(ref),
        }
        return {
            "scope": ref.scope,
            "kind": ref.kind,
            "uid": ref.uid,
            "status": status if outcome is None else str(outcome.status),
            "conflicts": len(self.conflicts),
            "steps": sorted(self._steps(), key=_place),
            "next": self._next(),
            "commands": labelled(told),
        }

    def _steps(self) -> Iterable[dict[str, Any]]:
        if self.pending is not None:
            yield _step("asked", self.pending.added_at, "It became pending.")
        for wake in self.wakes:
            if wake.asked_at is not None:
                yield _step("asked", wake.asked_at, "A caller began to wait.")
        for stored in reversed(self.events):
            yield from _delivered(stored)
        if self.outcome is not None:
            by = "a delivery, or the look-up that it caused," if self.outcome.via == "webhook" else "a poll"
            sure = "" if self.outcome.confirmed else " The vendor's API has not confirmed it."
            yield _step("settled", self.outcome.settled_at, f"By {by} as {self.outcome.status}.{sure}")
        for wake in self.wakes:
            received = [stored.received_at for stored in self.events if stored.received_at <= wake.woken_at]
            since = "delivered" if wake.via == "webhook" and received else "settled"
            after = wake.woken_at - (max(received) if since == "delivered" else wake.settled_at)
            yield _step("awake", wake.woken_at, "A caller got the outcome.", after=after, since=since)
        for conflict in self.conflicts:
            yield _step(
                "conflict",
                conflict.settled_at,
                f"A later answer says {conflict.status}. The first outcome stays; ask the vendor.",
            )

    def _next(self) -> str:
        """Return what is still to come, for people."""
        pending = self.pending
        if pending is not None:
            when = f"in {pending.due_in:.0f} s" if pending.due_in > 0 else "as soon as the budget allows"
            return f"The next poll is due {when}: {WHY_POLLED[pending.priority]}. It was polled {counted(pending.polls, 'time')}."
        if self.outcome is None:
            return "No outcome is stored, and nothing polls it. An application that waits for it makes it pending."
        return "" if self.wakes else f"No caller is known to have been woken. {_WAKES_UNKNOWN}"


def _delivered(stored: StoredEvent) -> Iterable[dict[str, Any]]:
    event = stored.event
    chain = _moment(event.occurred_at)
    if chain is not None:
        yield _step("chain", chain, "The vendor's own time of the event.")
    after = None if chain is None else stored.received_at - chain
    words = f"{event.name or 'An unnamed event'} was stored as event {stored.id}."
    yield _step("delivered", stored.received_at, words, after=after, since="chain", event_id=stored.id)


def _step(
    name: str, at: float, words: str, *, after: float | None = None, since: str | None = None, event_id: int | None = None
) -> dict[str, Any]:
    return {
        "name": name,
        "at": at,
        "words": words,
        "after": after,
        "since": None if after is None else since,
        "event_id": event_id,
    }


def _place(step: dict[str, Any]) -> tuple[float, int]:
    """Return the place of a step in its story: the clocks of several hosts differ a little."""
    return round(step["at"], 1), _ORDER.index(step["name"])


def _moment(text: str | None) -> float | None:
    """Return the Unix time of a vendor's text; None if it is not a time."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
