"""What a run needs of a ledger, however the ledger is stored."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypedDict, Unpack

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from payouts.rows import Row
    from payouts.states import Entry, State


class Facts(TypedDict, total=False):
    """What is known when a row changes its state.

    Attributes:
        uid: The vendor's uid of the operation.
        settled_by: Where the outcome came from: `"webhook"`, `"poll"`, `"reply"`, `"hand"`, `"audit"` or `"lookup"`.
        problem: The error that led to this state; its type and text are kept.
        note: The note of a person who settles the row; the error before it is kept.
        evidence: What a settlement by hand rests on; kept with the decision.
    """

    uid: str | None
    settled_by: str | None
    problem: BaseException | str | None
    note: str | None
    evidence: str | None


class Database(Protocol):
    """A connection to the tables of a ledger, as SQLite's; placeholders are `?`, or `?1` for a value that is used twice."""

    def execute(self, statement: str, values: Any = (), /) -> Any:
        """Run a statement. Its result is iterable; `get` is its first row, or the only value of that; None without a row."""
        ...

    def executemany(self, statement: str, rows: Any, /) -> Any:
        """Run a statement for each row of values."""
        ...


Move: TypeAlias = "tuple[Entry, State, Facts]"
"""A row as it was read last, its next state, and what is known now."""


class RowLedger(Protocol):
    """The part of a ledger that the sender of rows reads and changes."""

    vendor: str
    """The name of the vendor that pays the campaign."""

    async def move(self, entry: Entry, to: State, **facts: Unpack[Facts]) -> Entry:
        """Move a row to another state, and return its entry once that is durable."""
        ...

    async def move_each(self, wanted: Sequence[Move]) -> Sequence[Entry]:
        """Move rows, each by itself, and return their entries once that is durable."""
        ...

    async def other_keys(self, entry: Entry) -> Collection[str]:
        """Return the keys beside its own under which a row may have been paid."""
        ...


class RunLedger(RowLedger, Protocol):
    """The rows of one campaign that one run at a time pays; `Ledger` is one."""

    def one_run(self) -> AbstractAsyncContextManager[None]:
        """Prevent any other run while the block runs."""
        ...

    async def plan(self, rows: Sequence[Row]) -> Sequence[Entry]:
        """Store the rows that are new as `planned`, and return the entry of each row."""
        ...

    async def plan_sent(self, rows: Sequence[Row], max_rows: int) -> Sequence[Entry]:
        """Store new rows as `sent` at once, until there are `max_rows` of them; return the entry of each row so far."""
        ...

    async def entries(self, states: Collection[State], *, after: int = 0, limit: int = 500) -> Sequence[Entry]:
        """Return rows in these states, in the order of their numbers, from the first number above `after`."""
        ...
