"""Proof that refused rows were not paid: complete lists of the vendor, a day apart, that do not show them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, TypeAlias

from attrs import Factory, define

from payouts.ledger.steps import states_of
from payouts.payer import Held, restated
from payouts.request_budget import FATAL
from payouts.states import Entry, State
from rewards_core.clock import TrustedTime, boot_id, uptime
from rewards_core.errors import ConfigurationError, RewardsError, VendorError

if TYPE_CHECKING:
    from payouts.ledger.base import Database
    from payouts.request_budget import RequestBudget

APART = 24 * 3600.0
"""Seconds between the first and the last complete list that do not show a row, before the row may be settled."""

_NOT_ABOUT_THE_ROW = frozenset({401, 403, 408, 423, 425, 429})
_MAX_FAILURES = 5
_AT_ONCE = 10
_CLOCK_NOISE = 1.0
"""Seconds by which two clocks that run alike may differ."""

Lists: TypeAlias = "Callable[[Sequence[Entry]], Awaitable[Mapping[int, Held]]]"
"""Returns what a complete list shows under the keys of one recipient's rows, by row number; rows left out are not held.

Raises a `VendorError` if the request to the vendor failed, or its list is incomplete or cannot be read.
"""


@define(kw_only=True)
class LookedUp:
    """What the vendor's lists say about rows.

    Attributes:
        absent: Rows that complete lists do not show.
        found: Rows that the vendor holds, with what it holds.
        unchecked: Rows whose list was incomplete or could not be read, with the reason.
        problem: The error that stopped the look-ups early; None if all rows were looked up.
    """

    absent: list[Entry] = Factory(list)
    found: list[tuple[Entry, Held]] = Factory(list)
    unchecked: list[tuple[Entry, str]] = Factory(list)
    problem: RewardsError | None = None


def was_refused(entry: Entry) -> bool:
    """Return whether a row is unknown, has no uid, and its last answer was a refusal of the row itself."""
    answer = entry.answer or 0
    return entry.state is State.UNKNOWN and entry.uid is None and 400 <= answer < 500 and answer not in _NOT_ABOUT_THE_ROW


def may_settle_at(entry: Entry) -> float:
    """Return when a complete list that does not show a row is proof enough, in seconds since the epoch."""
    return (entry.absent_since or 0.0) + APART


def is_proven(entry: Entry, run_at: float | None) -> bool:
    """Return whether complete lists, far enough apart and all later than the campaign's last run, did not show a row."""
    if entry.absent_since is None or entry.absent_at is None or entry.absent_since <= (run_at or 0.0):
        return False
    return entry.absent_at >= may_settle_at(entry)


async def look_up(
    lists: Lists,
    entries: Iterable[Entry],
    *,
    budget: RequestBudget,
    absent: Callable[[Sequence[Entry], float], Awaitable[object]],
    looked: Callable[[int], None],
    clock: Callable[[], float],
) -> LookedUp:
    """Read one list per recipient, several recipients at a time, and return what the lists say about the rows.

    It stops early, with a `problem`, if the vendor refuses the credentials or five lists in a row fail.

    Args:
        lists: Asks the vendor.
        entries: The rows.
        budget: Counts and paces the requests.
        absent: Awaited with the rows of one recipient that a complete list does not show, and the time of the request.
        looked: Called after each list with its number of rows.
        clock: Seconds since the epoch.
    """
    recipient = attrgetter("recipient")
    groups = [list(rows) for _, rows in groupby(sorted(entries, key=recipient), recipient)]
    result = LookedUp()
    waiting = iter(groups)
    failures = 0

    async def listed(rows: list[Entry]) -> tuple[float, Mapping[int, Held]]:
        at = clock()  # after the wait for the budget, which must not make two look-ups seem further apart
        return at, await lists(rows)

    async def work(groups: Iterator[list[Entry]]) -> None:
        nonlocal failures
        for rows in groups:
            try:
                at, held = await budget.call(partial(listed, rows))
            except (VendorError, ConfigurationError) as problem:
                told = str(restated(problem, looked_up=False))
                result.unchecked += [(row, told) for row in rows]
                failures += 1
                if isinstance(problem, FATAL) or failures >= _MAX_FAILURES:
                    result.problem = result.problem or problem
            else:
                failures = 0
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


def record_absent(database: Database, numbers: Iterable[int], at: float) -> None:
    """Record that a complete list did not show rows; only unknown rows without a uid are recorded.

    A run of the campaign resets the time of the first such list, as it may have sent the row again. A change of the system clock
    cannot make two lists seem further apart: it is trusted after a day.
    """
    trusted, table = _trusted_time(database, at), states_of(database)
    database.executemany(
        f"UPDATE {table} SET absent_at = ?1, absent_since = CASE "  # noqa: S608 - a name
        "WHEN absent_since > coalesce((SELECT run_at FROM campaigns WHERE campaigns.number = campaign), 0) "
        "THEN absent_since ELSE ?1 END WHERE number = ?2 AND state = 'unknown' AND uid IS NULL",
        ((trusted, number) for number in numbers),
    )


def _trusted_time(database: Database, wall: float) -> float:
    """Return the time as far as it can be trusted, kept in a table that earlier versions ignore.

    Once a change of the clock is trusted, earlier evidence moves with it: the time between two lists is the time that passed.
    """
    table = states_of(database)
    database.execute("CREATE TABLE IF NOT EXISTS calendar (kept BLOB NOT NULL)")
    kept, now, boot = database.execute("SELECT kept FROM calendar").fetchall(), uptime(), boot_id()
    if kept:
        calendar = TrustedTime.load(kept[0][0])
    else:
        last = database.execute(f"SELECT max(absent_at) FROM {table}").get  # noqa: S608 - a name
        calendar = TrustedTime(wall=wall if last is None else last, uptime=now, boot=boot)
    passed = calendar.expected(now, boot)
    calendar = calendar.update(wall, now, boot)
    database.execute("DELETE FROM calendar")
    database.execute("INSERT INTO calendar VALUES (?)", (calendar.dump(),))
    if abs(set_by := calendar.wall - passed) > _CLOCK_NOISE:
        database.execute(
            f"UPDATE {table} SET absent_since = absent_since + ?1, absent_at = absent_at + ?1 WHERE absent_at IS NOT NULL "  # noqa: S608 - a name
            "AND absent_since > coalesce((SELECT run_at FROM campaigns WHERE campaigns.number = campaign), 0)",
            (set_by,),
        )
    return calendar.wall
