"""What is read from a ledger beside its rows: campaigns, workers, replaced keys, sums, and the results of audits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from attrs import field, frozen
from attrs.converters import optional

from payouts.states import State


@frozen(kw_only=True)
class Campaign:
    """One campaign of a ledger.

    Attributes:
        number: The ledger's number of it.
        vendor: The vendor's name.
        name: Its name.
        target: The vendor's base URL.
        opened_at: When it began, in seconds since the epoch.
    """

    number: int
    vendor: str
    name: str
    target: str
    opened_at: float


@frozen(kw_only=True)
class WorkerSeen:
    """A worker of a shared campaign that has not ended.

    Attributes:
        host: The name of its host.
        process: The number of its process there.
        rate: The rows per second that it allows to all workers together; None for no limit.
        began_at: When it began, in seconds since the epoch.
        lease_left: Seconds for which it owns its rows if it does not renew its lease; negative if it is lost.
    """

    host: str
    process: int
    rate: float | None
    began_at: float
    lease_left: float


@frozen(kw_only=True)
class Fleet:
    """The workers of a shared campaign.

    Attributes:
        at: The database's time, in seconds since the epoch.
        condition: `"running"`, `"paused"` or `"stopped"`.
        claimed: How many rows were marked as sent since the campaign began; some of them may have been given back.
        workers: Those that have not ended, oldest first.
    """

    at: float
    condition: str
    claimed: int
    workers: Sequence[WorkerSeen]


@frozen(kw_only=True)
class RetiredKey:
    """A key that a retry replaced, and the row's result under it.

    Attributes:
        row_id: The row.
        retry: 0 for the row's first key, 1 for its second.
        key: The key.
        replaced_by: The next key.
        state: The row's state under that key.
        uid: The vendor's uid of the operation.
        problem: The error.
        note: The note of a settlement by hand.
        retired_at: When it was replaced, in seconds since the epoch.
    """

    row_id: str
    retry: int
    key: str
    replaced_by: str
    state: State = field(converter=State)
    uid: str | None
    problem: str | None
    note: str | None
    retired_at: float


@frozen(kw_only=True)
class Audit:
    """The result of an audit, all its runs together.

    Attributes:
        number: The ledger's number of it.
        begun_at: When it began, in seconds since the epoch.
        ended_at: When it was complete; None if it is not.
        rows: How many rows were compared with the vendor's books.
        requests: How many requests were made.
        unchecked: How many rows could not be checked.
        agree: How many rows agree with the vendor.
        counts: Number of findings by kind, including kinds that are not differences.
        unknown_allowed: How many payments the ledger does not know, where that was allowed.
        applied: Number of rows changed to the state that the vendor proves, by kind.
    """

    number: int
    begun_at: float
    ended_at: float | None
    rows: int
    requests: int
    unchecked: int
    agree: int
    counts: Mapping[str, int]
    unknown_allowed: int
    applied: Mapping[str, int]


@frozen(kw_only=True)
class Difference:
    """A difference between the ledger and the vendor's books.

    Attributes:
        kind: `"held"`, `"not_held"`, `"not_done"`, `"other_user"`, `"other_reward"`, `"other_amount"`, `"other_key"`,
            `"as_asked"`, `"held_twice"`, `"unknown_to_ledger"`, `"balance_lower"` or `"balance_higher"`; or of what is no
            difference `"change"`, `"behind"` or `"unknown_allowed"`.
        campaign: The row's campaign; None if no row is concerned.
        row_id: The row's id; None if no row is concerned.
        recipient: The recipient of the row or payment.
        key: The row's key.
        uid: The vendor's uid of the operation.
        ledger: What the ledger said.
        vendor: What the vendor said.
        applied: Whether the row was changed to the state that the vendor proves.
    """

    kind: str
    campaign: str | None
    row_id: str | None
    recipient: str
    key: str | None
    uid: str | None
    ledger: str
    vendor: str
    applied: bool = field(converter=bool)


@frozen(kw_only=True)
class Sum:
    """The rows of one item in one state, among rows that were planned one after the other.

    Attributes:
        first: The number of the first of them.
        last: The number of the last.
        item: The reward contract or event.
        state: The state.
        rows: How many they are.
        amount: The exact sum of their amounts; None if they have none.
    """

    first: int
    last: int
    item: str
    state: State = field(converter=State)
    rows: int
    amount: Decimal | None = field(converter=optional(Decimal))
