"""Whether the operations that events speak of have settled, as far as a store knows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from attrs import frozen

from webhooks.store.listing import operations_of

if TYPE_CHECKING:
    from rewards_core.operations import OperationRef
    from webhooks.store.base import Store
    from webhooks.store.records import Outcome, PendingOperation, StoredEvent

PENDING = "pending"
UNKNOWN = "unknown"
MIXED = "mixed"


@frozen(kw_only=True)
class Standing:
    """How an operation stands.

    Attributes:
        ref: The operation.
        outcome: The outcome that stands, None if it has none.
        pending: What is known of its polls, None if it is not pending.
    """

    ref: OperationRef
    outcome: Outcome | None = None
    pending: PendingOperation | None = None

    @property
    def word(self) -> str:
        """`done`, `failed`, `pending`, or `unknown` where nothing has settled it and nothing polls it."""
        if self.outcome is not None:
            return str(self.outcome.status)
        return UNKNOWN if self.pending is None else PENDING


@frozen(kw_only=True)
class EventStanding:
    """An event, and how the operations that it speaks of stand."""

    stored: StoredEvent
    operations: Sequence[Standing]

    @property
    def word(self) -> str | None:
        """What all of its operations have in common: `mixed` if nothing, None if the event names none."""
        words = {one.word for one in self.operations}
        return None if not words else words.pop() if len(words) == 1 else MIXED

    @property
    def shown(self) -> str:
        """The same for people, with how many there are of each where it is not one alone."""
        words = [one.word for one in self.operations]
        if len(words) < 2:
            return _FOR_PEOPLE.get(words[0], words[0]) if words else "none"
        return ", ".join(f"{words.count(word)} {_FOR_PEOPLE.get(word, word)}" for word in dict.fromkeys(words))


_FOR_PEOPLE = {UNKNOWN: "not known"}


async def with_standings(store: Store, events: Sequence[StoredEvent]) -> Sequence[EventStanding]:
    """Return events with how their operations stand, by two look-ups for all of them."""
    known = await _standings(store, [ref for stored in events for ref in operations_of(stored.event)])
    return [EventStanding(stored=stored, operations=[known[ref] for ref in operations_of(stored.event)]) for stored in events]


async def _standings(store: Store, refs: Iterable[OperationRef]) -> Mapping[OperationRef, Standing]:
    wanted = list(dict.fromkeys(refs))
    pending = {one.ref: one for one in await store.pending(wanted)}  # first: what settles meanwhile is then seen as settled
    outcomes = {one.ref: one for one in await store.outcomes(wanted)}
    return {ref: Standing(ref=ref, outcome=outcomes.get(ref), pending=pending.get(ref)) for ref in wanted}
