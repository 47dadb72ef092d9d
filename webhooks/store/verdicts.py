"""Compare outcomes with those that a store holds: first, same or conflict."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from attrs import define, evolve, field

from webhooks.store.outcomes import agree
from webhooks.store.records import Outcome, Recorded, Verdict

if TYPE_CHECKING:
    from rewards_core.operations import OperationRef
    from webhooks.store.rows import PackedOutcome


@define(eq=False)
class Verdicts:
    """What to store and to notify of.

    Attributes:
        recorded: The answer about each outcome.
        standing: The first outcome of each operation, with all that was added.
        first: The outcomes to insert.
        changed: The operations whose first outcome got a key or was confirmed.
        confirmed: The first outcomes that were confirmed.
        conflicting: The outcomes that differ from the first.
    """

    standing: dict[OperationRef, Outcome]
    recorded: list[Recorded] = field(factory=list)
    first: list[PackedOutcome] = field(factory=list)
    changed: dict[OperationRef, None] = field(factory=dict)
    confirmed: list[Outcome] = field(factory=list)
    conflicting: list[PackedOutcome] = field(factory=list)


def judge(known: Iterable[Outcome], some: Sequence[PackedOutcome]) -> Verdicts:
    """Compare outcomes, one after the other, with the known first ones."""
    verdicts = Verdicts({one.ref: one for one in known})
    standing = verdicts.standing
    verdicts.first += [one for one in some if standing.setdefault(one.outcome.ref, one.outcome) is one.outcome]
    first = {id(one.outcome) for one in verdicts.first}
    for packed in some:
        outcome, stands = packed.outcome, standing[packed.outcome.ref]
        verdict = Verdict.FIRST
        if id(outcome) not in first:
            verdict = Verdict.SAME if agree(stands, outcome) else Verdict.CONFLICT
        if verdict is Verdict.SAME:
            more = evolve(stands, key=stands.key or outcome.key, confirmed=stands.confirmed or outcome.confirmed)
            if more != stands:
                verdicts.changed[outcome.ref] = None
            if more.confirmed and not stands.confirmed:
                verdicts.confirmed.append(more)
            stands = standing[outcome.ref] = more
        elif verdict is Verdict.CONFLICT:
            verdicts.conflicting.append(packed)
        verdicts.recorded.append(Recorded(verdict=verdict, outcome=stands))
    return verdicts
