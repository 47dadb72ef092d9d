"""Unknown rows whose last answer was a refusal: complete lists of the vendor, a day apart, can prove that they were not paid."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, TypeAlias

from attrs import Factory, define

from payouts.request_budget import HOPELESS
from payouts.states import Entry, State
from payouts.vendors import as_told
from rewards_core.errors import ConfigurationError, RewardsError, VendorError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from payouts.request_budget import Asking
    from rewards_core.operations import Operation

APART = 24 * 3600.0
"""Seconds between the first and the last complete list that do not show a row, before it may be settled."""

_SAYS_NOTHING = frozenset({401, 403, 408, 423, 425, 429})  # about the caller or the moment, not about the row
_MOST_FAILED = 5
_AT_ONCE = 10

Lists: TypeAlias = "Callable[[Sequence[Entry]], Awaitable[Mapping[int, Operation]]]"
"""Returns what a complete list shows under the keys of one recipient's rows, by the rows' numbers; the others are not held.

It raises a `VendorError` if the vendor could not be asked, or if its list is incomplete or cannot be read.
"""


@define(kw_only=True)
class LookedUp:
    """What lists of the vendor's say about rows.

    Attributes:
        absent: Rows that complete lists do not show.
        found: Rows that the vendor holds, with what it holds.
        unchecked: Rows whose list was incomplete or could not be had, with the reason.
        problem: Why not all rows were looked up; None if they were.
    """

    absent: list[Entry] = Factory(list)
    found: list[tuple[Entry, Operation]] = Factory(list)
    unchecked: list[tuple[Entry, str]] = Factory(list)
    problem: RewardsError | None = None


def was_refused(entry: Entry) -> bool:
    """Return whether a row is unknown, without a name at the vendor's, and its last answer was a refusal of the row itself."""
    answer = entry.answer or 0
    return entry.state is State.UNKNOWN and entry.uid is None and 400 <= answer < 500 and answer not in _SAYS_NOTHING


def may_settle_at(entry: Entry) -> float:
    """Return from when on a complete list that does not show a row proves enough, in seconds since the epoch."""
    return (entry.absent_since or 0.0) + APART


def is_proven(entry: Entry, run_at: float | None) -> bool:
    """Return whether complete lists, far enough apart and all later than the campaign's last run, did not show a row.

    Args:
        entry: The row.
        run_at: When the campaign was last run, in seconds since the epoch; None if it never was.
    """
    if entry.absent_since is None or entry.absent_at is None or entry.absent_since <= (run_at or 0.0):
        return False
    return entry.absent_at >= may_settle_at(entry)


async def shows_known(lists: Lists, known: Entry) -> bool:
    """Return whether the vendor's list shows a row that it has accepted; if not, its lists prove nothing with these credentials.

    Raises:
        VendorError: the vendor could not be asked, or its list is incomplete.
    """
    return known.number in await lists([known])


async def look_up(
    lists: Lists,
    entries: Iterable[Entry],
    *,
    asking: Asking,
    absent: Callable[[Sequence[Entry], float], Awaitable[object]],
    looked: Callable[[int], None],
    clock: Callable[[], float],
) -> LookedUp:
    """Ask once for each recipient what the vendor holds under the rows' keys, several recipients at a time.

    It ends early, with a `problem`, if the vendor refuses the caller or one list after the other fails.

    Args:
        lists: Asks the vendor.
        entries: The rows.
        asking: Counts and paces the requests.
        absent: Awaited with one recipient's rows that a complete list does not show, and with when it was asked for.
        looked: Called with how many rows were looked up, after each list.
        clock: Seconds since the epoch.
    """
    recipient = attrgetter("recipient")
    groups = [list(rows) for _, rows in groupby(sorted(entries, key=recipient), recipient)]
    result = LookedUp()
    waiting = iter(groups)
    failed = 0

    async def listed(rows: list[Entry]) -> tuple[float, Mapping[int, Operation]]:
        at = clock()  # not before: time spent waiting for a turn must not make two look-ups seem further apart
        return at, await lists(rows)

    async def work(groups: Iterator[list[Entry]]) -> None:
        nonlocal failed
        for rows in groups:
            try:
                at, held = await asking.ask(partial(listed, rows))
            except (VendorError, ConfigurationError) as problem:
                told = str(as_told(problem, looked_up=False))
                result.unchecked += [(row, told) for row in rows]
                failed += 1
                if isinstance(problem, HOPELESS) or failed >= _MOST_FAILED:
                    result.problem = result.problem or problem
            else:
                failed = 0
                result.found += [(row, held[row.number]) for row in rows if row.number in held]
                missing = [row for row in rows if row.number not in held]
                await absent(missing, at)
                result.absent += missing
            looked(len(rows))
            if result.problem is not None:
                return

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_AT_ONCE):
            tasks.create_task(work(waiting))
    return result
