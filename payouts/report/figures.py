"""The figures of a campaign, every sum exact."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING

from attrs import Factory, define, frozen

from payouts import money
from payouts.ledger.stretches import STRETCH
from payouts.states import SETTLED, Entry, State

if TYPE_CHECKING:
    from decimal import Decimal

    from payouts.ledger.reader import Campaign, LedgerReader, Sum

MAX_LISTED = 10_000
MAX_ITEMS = 200
SLICES = 60
ORDER = (
    State.DONE,
    State.ACCEPTED,
    State.SENT,
    State.PLANNED,
    State.UNKNOWN,
    State.MISMATCH,
    State.FAILED,
    State.REJECTED,
)
"""The states in the order of a report: paid, in progress, then those that need a person."""
NOT_DONE = (*ORDER[4:], *ORDER[1:4])
"""The states of rows that are not confirmed as paid, those that need a person first."""
WAYS = ("webhook", "poll", "reply")
"""How a row is settled without a person."""
SETTLE_STEPS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, math.inf)
"""Upper bounds of the bars of the distribution, in seconds."""


@define(kw_only=True)
class Item:
    """The rows and amounts of one reward contract or event.

    Attributes:
        counts: Number of rows by state.
        sums: Exact sum of their amounts by state; empty if rows have no amounts.
    """

    counts: dict[State, int] = Factory(dict)
    sums: dict[State, Decimal] = Factory(dict)

    @property
    def rows(self) -> int:
        """Rows in all states."""
        return sum(self.counts.values())

    @property
    def total(self) -> Decimal:
        """The sum over all states."""
        total = money.ZERO
        for amount in self.sums.values():
            total = money.add(total, amount)
        return total


@define(kw_only=True)
class Problem:
    """One kind of error.

    Attributes:
        state: The state of the rows.
        kind: The type of the error.
        rows: How many rows have it.
        example: The message of one of them.
    """

    state: State
    kind: str
    rows: int = 0
    example: str = ""


@frozen(kw_only=True)
class Times:
    """The times from the first request to settlement, in seconds.

    Attributes:
        rows: How many rows were settled this way.
        median: The median.
        p95: The 95th percentile.
        longest: The maximum.
        bars: How many fall under each of `SETTLE_STEPS`.
    """

    rows: int
    median: float
    p95: float
    longest: float
    bars: tuple[int, ...]


@frozen(kw_only=True)
class ProgressSeries:
    """The rows sent and settled by the end of each slice of time.

    Attributes:
        begin: Seconds since the epoch.
        end: Seconds since the epoch.
        sent: One cumulative number for each slice.
        settled: One cumulative number for each slice.
    """

    begin: float
    end: float
    sent: tuple[int, ...]
    settled: tuple[int, ...]


@define(kw_only=True)
class Figures:
    """The figures of a campaign.

    Attributes:
        campaign: The campaign.
        items: Figures by reward contract or event, in order of appearance; at most 200.
        more_items: How many rows belong to further rewards or events.
        counts: Number of rows by state.
        times: Times by the way to settle: `"webhook"`, `"poll"` or `"reply"`.
        progress: Rows over time; None before anything was sent.
        problems: The kinds of errors, the most frequent first.
        open: The rows that are not done, those that need a person first; at most 10,000.
        retired: How many keys were replaced by retries.
    """

    campaign: Campaign
    items: dict[str, Item] = Factory(dict)
    more_items: int = 0
    counts: dict[State, int] = Factory(dict)
    times: dict[str, Times] = Factory(dict)
    progress: ProgressSeries | None = None
    problems: list[Problem] = Factory(list)
    open: list[Entry] = Factory(list)
    retired: int = 0

    @property
    def rows(self) -> int:
        """Rows in all states."""
        return sum(self.counts.values())

    @property
    def done(self) -> int:
        """Paid rows."""
        return self.counts.get(State.DONE, 0)

    @property
    def settled(self) -> int:
        """Rows with a known result: paid, failed, mismatched or rejected."""
        return sum(self.counts.get(state, 0) for state in SETTLED)


def summarize(reader: LedgerReader, campaign: Campaign) -> tuple[Figures, Iterator[Entry]]:
    """Return the counts and sums of a campaign, and its rows that are not done, read when they are asked for, as in `open`."""
    figures = Figures(campaign=campaign)
    places: dict[State, list[tuple[int, int]]] = {}
    for part in reader.sums(campaign):
        _add(figures, part)
        known = places.setdefault(part.state, [])
        if known and part.first <= known[-1][1] + STRETCH:
            known[-1] = (known[-1][0], max(known[-1][1], part.last))
        else:
            known.append((part.first, part.last))
    not_done = (
        entry
        for state in NOT_DONE
        for first, last in places.get(state, ())
        for entry in reader.entries(campaign, [state], after=first - 1, until=last)
    )
    return figures, not_done


def _add(figures: Figures, part: Sum) -> None:
    state = part.state
    figures.counts[state] = figures.counts.get(state, 0) + part.rows
    item = _item(figures, part.item)
    if item is None:
        figures.more_items += part.rows
        return
    item.counts[state] = item.counts.get(state, 0) + part.rows
    if part.amount is not None:
        item.sums[state] = money.add(item.sums.get(state, money.ZERO), part.amount)


def _item(figures: Figures, name: str) -> Item | None:
    if name not in figures.items and len(figures.items) < MAX_ITEMS:
        figures.items[name] = Item()
    return figures.items.get(name)


def gather(reader: LedgerReader, campaign: Campaign) -> Figures:
    """Read a campaign once and return its figures."""
    figures = Figures(campaign=campaign)
    waits: dict[str, array[float]] = {}
    sent, settled = array("d"), array("d")
    problems: dict[tuple[State, str], Problem] = {}
    not_done: dict[State, list[Entry]] = {state: [] for state in NOT_DONE}
    for entry in reader.entries(campaign):
        _count(figures, entry)
        if entry.state is not State.DONE:
            if len(not_done[entry.state]) < MAX_LISTED:
                not_done[entry.state].append(entry)
            _blame(problems, entry)
        if entry.sent_at is not None:
            sent.append(entry.sent_at)
            if entry.settled_at is not None and entry.state is not State.UNKNOWN:
                settled.append(entry.settled_at)
                if entry.settled_by in WAYS:
                    waits.setdefault(entry.settled_by, array("d")).append(max(0.0, entry.settled_at - entry.sent_at))
    figures.open = list(islice(chain.from_iterable(not_done.values()), MAX_LISTED))
    figures.times = {way: _times(sorted(waits[way])) for way in sorted(waits, key=WAYS.index)}
    figures.progress = _progress(sent, settled)
    figures.problems = sorted(problems.values(), key=lambda problem: -problem.rows)
    figures.retired = sum(1 for _ in reader.retired_keys(campaign))
    return figures


def _count(figures: Figures, entry: Entry) -> None:
    state = entry.state
    figures.counts[state] = figures.counts.get(state, 0) + 1
    item = _item(figures, entry.item)
    if item is None:
        figures.more_items += 1
        return
    item.counts[state] = item.counts.get(state, 0) + 1
    if entry.amount is not None:
        item.sums[state] = money.add(item.sums.get(state, money.ZERO), entry.amount)


def _blame(problems: dict[tuple[State, str], Problem], entry: Entry) -> None:
    if entry.problem is None:
        return
    kind = entry.problem_kind or "other"
    problem = problems.setdefault((entry.state, kind), Problem(state=entry.state, kind=kind, example=entry.problem))
    problem.rows += 1


def _times(waits: Sequence[float]) -> Times:
    bars = [0] * len(SETTLE_STEPS)
    for wait in waits:
        bars[next(place for place, step in enumerate(SETTLE_STEPS) if wait <= step)] += 1
    return Times(rows=len(waits), median=_quantile(waits, 0.5), p95=_quantile(waits, 0.95), longest=waits[-1], bars=tuple(bars))


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of sorted values."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def _progress(sent: Sequence[float], settled: Sequence[float]) -> ProgressSeries | None:
    if not sent:
        return None
    begin = min(sent)
    end = max(*sent, max(settled, default=begin), begin + 0.001)
    return ProgressSeries(begin=begin, end=end, sent=_grown(sent, begin, end), settled=_grown(settled, begin, end))


def _grown(moments: Iterable[float], begin: float, end: float) -> tuple[int, ...]:
    slices = [0] * SLICES
    for moment in moments:
        slices[min(SLICES - 1, max(0, int((moment - begin) / (end - begin) * SLICES)))] += 1
    grown, total = [], 0
    for count in slices:
        total += count
        grown.append(total)
    return tuple(grown)
