"""The states of a row, the transitions between them, and the ledger's messages about a row."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import TypeAlias

from attrs import frozen

from rewards_core.errors import RewardsError


class State(StrEnum):
    """The state of a row; the ledger allows no other order of states."""

    PLANNED = "planned"
    """Nothing has been sent."""
    SENT = "sent"
    """A request may have left; its answer is not known yet."""
    ACCEPTED = "accepted"
    """The vendor accepted it and returned a uid; the blockchain has not finished."""
    DONE = "done"
    """Paid."""
    FAILED = "failed"
    """It failed on the blockchain."""
    MISMATCH = "mismatch"
    """Something settled under the row's key, but not what was asked for."""
    REJECTED = "rejected"
    """The vendor refused, and nothing that was sent earlier can have been carried out."""
    UNKNOWN = "unknown"
    """A request may have been carried out, and nothing says whether it was."""


SETTLED = frozenset({State.DONE, State.FAILED, State.MISMATCH, State.REJECTED})
"""States that need no further request."""

_FROM_SENT = frozenset({State.PLANNED, State.REJECTED, State.UNKNOWN})  # planned again: the request surely never left

Ways: TypeAlias = Mapping[State, frozenset[State]]

WAYS_WITH_LOOKUP: Ways = MappingProxyType(
    {
        State.PLANNED: frozenset({State.SENT}),
        State.SENT: _FROM_SENT | {State.ACCEPTED, State.MISMATCH},
        State.ACCEPTED: frozenset({State.DONE, State.FAILED, State.MISMATCH, State.UNKNOWN}),
        State.UNKNOWN: frozenset({State.UNKNOWN, State.ACCEPTED, State.MISMATCH, State.DONE, State.REJECTED}),
        State.REJECTED: frozenset({State.PLANNED, State.UNKNOWN, State.DONE}),
        State.FAILED: frozenset({State.PLANNED}),
        State.DONE: frozenset(),
        State.MISMATCH: frozenset(),
    }
)
"""The states that may follow each state, for vendors that can tell later what became of a row.

A retry, with a new key, makes a `rejected` or `failed` row `planned` again. A row that may have been sent before is `unknown`,
and only a person may mark it rejected (see `BY_HAND_ONLY`). A person may also mark a rejected row as done or, with a look-up, as
unknown, so that the next run looks it up.
"""
WAYS_WITHOUT_LOOKUP: Ways = MappingProxyType(
    {
        State.PLANNED: frozenset({State.SENT}),
        State.SENT: _FROM_SENT | {State.DONE},
        State.UNKNOWN: frozenset({State.UNKNOWN, State.DONE, State.REJECTED}),
        State.REJECTED: frozenset({State.PLANNED, State.DONE}),
        State.DONE: frozenset(),
    }
)
"""The same for vendors that can tell nothing after their first answer."""


def ways_of(*, has_lookup: bool) -> Ways:
    """Return the transitions between states for a vendor with or without a look-up."""
    return WAYS_WITH_LOOKUP if has_lookup else WAYS_WITHOUT_LOOKUP


PROVEN: Mapping[State, frozenset[State]] = MappingProxyType(
    dict.fromkeys(
        (State.PLANNED, State.SENT, State.ACCEPTED, State.UNKNOWN, State.REJECTED, State.FAILED),
        frozenset({State.ACCEPTED, State.DONE, State.FAILED, State.MISMATCH, State.UNKNOWN}),
    )
)
"""The states that an audit may change each state to, by what the vendor holds; a paid row is never changed."""


BY_HAND_ONLY = frozenset({(State.UNKNOWN, State.REJECTED), *((State.REJECTED, to) for to in State if to is not State.PLANNED)})
"""The transitions, from one state to another, that only a person may make."""


@frozen(kw_only=True)
class Entry:
    """What the ledger says of one row.

    Attributes:
        number: The ledger's own number of the row.
        id: The row's id.
        line: The line of the row in the file when it was planned.
        recipient: The user who receives the reward.
        item: The reward contract or the event.
        amount: The amount as exact text; None where the event decides.
        key: The current idempotency key.
        state: The state of the row.
        retries: How many keys came before this one.
        uid: The vendor's uid of the operation.
        settled_by: `"webhook"`, `"poll"`, `"reply"`, `"hand"` or `"audit"`; of an accepted row also `"lookup"`, if it was found
            under another key of its own.
        answer: The HTTP status of the answer that led to this state, if there was one.
        absent_since: When a complete list from the vendor first lacked it, in seconds since the epoch; counts only if it is
            later than the campaign's last run.
        absent_at: When a complete list last lacked it.
        problem_kind: The kind of error.
        problem: What was said about it.
        note: What somebody noted when settling it by hand.
        planned_at: When each state was reached, in seconds since the epoch.
        sent_at: See `planned_at`.
        accepted_at: See `planned_at`.
        settled_at: See `planned_at`.
        details: What is granted beside recipient, item and amount, as JSON; None for a grant without such details.
    """

    number: int
    id: str
    line: int
    recipient: str
    item: str
    amount: str | None
    key: str
    state: State
    retries: int = 0
    uid: str | None = None
    settled_by: str | None = None
    answer: int | None = None
    absent_since: float | None = None
    absent_at: float | None = None
    problem_kind: str | None = None
    problem: str | None = None
    note: str | None = None
    planned_at: float = 0.0
    sent_at: float | None = None
    accepted_at: float | None = None
    settled_at: float | None = None
    details: str | None = None

    @property
    def content(self) -> str:
        """The grant in words, for messages."""
        return content(self.amount, self.item, self.recipient, self.key)


def content(amount: str | None, item: str, recipient: str, key: str) -> str:
    """Return a grant in words, for messages."""
    what = f"{item}" if amount is None else f"{amount} of {item}"
    return f"{what} to {recipient} under the key {key}"


def same_amount(one: str | None, other: str | None) -> bool:
    """Return whether two amounts are equal, however many zeros they end with."""
    return one == other or (one is not None and other is not None and Decimal(one) == Decimal(other))


class LedgerError(RewardsError):
    """The ledger cannot do what was asked; it is as it was before."""


class CampaignUnclear(LedgerError):
    """The ledger has no such campaign, or several that may be meant.

    Attributes:
        known: How many campaigns the ledger has.
        meant: How many of them may be meant.
    """

    def __init__(self, message: str, *, known: int, meant: int) -> None:
        super().__init__(message)
        self.known = known
        self.meant = meant


class AuditNeeded(LedgerError):
    """Nothing may be sent from this ledger before it was compared with the vendor's books.

    Attributes:
        path: The ledger.
        why: Why not, in words.
        may_be_newest: Whether it may be the newest copy, moved here from elsewhere.
    """

    def __init__(self, path: object, why: str, *, may_be_newest: bool = False) -> None:
        vouch = " If it is the newest copy, moved here from elsewhere, say so: payouts audit --newest." if may_be_newest else ""
        super().__init__(
            f"{path}: nothing is sent from this ledger, because it is {why}. Put the newest copy back, or compare this one with "
            f"the vendor's books first: payouts audit --ledger {path} --apply.{vouch}"
        )
        self.may_be_newest = may_be_newest
        self.path = path
        self.why = why


class LedgerInUse(LedgerError):
    """Another process works with this ledger.

    Attributes:
        pid: That process, None if it did not say.
    """

    def __init__(self, message: str, *, pid: int | None) -> None:
        super().__init__(message)
        self.pid = pid


class LedgerUnavailable(LedgerError):
    """The database of the ledger failed or does not answer; the call may have changed the ledger, and can safely be repeated."""


class LeaseLost(LedgerError):
    """This worker did not renew its lease in time, so other workers have taken over its rows; they look each of them up.

    Attributes:
        worker: The ledger's number of the worker.
    """

    def __init__(self, worker: int) -> None:
        super().__init__(
            f"Worker {worker} did not renew its lease in time, and other workers have taken its rows. They look up what became "
            "of each row; nothing is lost. Start it again."
        )
        self.worker = worker


class CampaignStopped(LedgerError):
    """The campaign was stopped: none of its rows is sent until it is resumed.

    Attributes:
        campaign: The campaign's name.
        row_id: The row that was to be paid; it is as it was before.
    """

    def __init__(self, campaign: str, row_id: str) -> None:
        super().__init__(
            f"Campaign {campaign} was stopped, so row {row_id} was not sent. Resume the campaign, then pay the row again."
        )
        self.campaign = campaign
        self.row_id = row_id


class InvalidTransition(LedgerError):
    """A row cannot change from its state to the requested one.

    Attributes:
        row_id: The row.
        state: Its state, when it was read.
        to: The requested state.
    """

    def __init__(self, row_id: str, state: State, to: State) -> None:
        super().__init__(f"Row {row_id} cannot change from {state} to {to}. It was not changed; read it again before you act.")
        self.row_id = row_id
        self.state = state
        self.to = to


class RowChanged(LedgerError):
    """The campaign already has a row with this id and other content.

    Attributes:
        known: What the ledger holds.
        given: What came now, in words.
    """

    def __init__(self, known: Entry, given: str) -> None:
        super().__init__(
            f"Row {known.id} is in the ledger as {known.state}: {known.content}. Now it says {given}. A row never changes: "
            "undo the change, or give the new grant a new id."
        )
        self.known = known
        self.given = given


class KeyTaken(LedgerError):
    """The key that the file gives a row belongs to another row.

    Attributes:
        key: The key.
        row_id: The row to which the file gives the key.
        owner: The row that already has the key.
        campaign: The campaign of that row.
    """

    def __init__(self, key: str, row_id: str, owner: str, campaign: str) -> None:
        super().__init__(
            f"Row {row_id} has the key {key}, under which row {owner} of campaign {campaign} is paid. A key pays once: "
            "if this is the same grant, it is in that campaign already."
        )
        self.key = key
        self.row_id = row_id
        self.owner = owner
        self.campaign = campaign
