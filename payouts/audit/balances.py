"""Rows that cannot be looked up, checked against how their recipients' balances changed since a snapshot."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from payouts.audit.comparison import ComparisonResult, Finding, KnownRow
from payouts.request_budget import FATAL, RequestBudget, raise_if_fatal
from payouts.states import Entry, State
from rewards_core.errors import VendorError

if TYPE_CHECKING:
    from payouts.ledger.base import Database
    from payouts.ledger.campaign import CampaignLedger
    from payouts.payer import Balances

_AT_ONCE = 10
_NO_SNAPSHOT = "no balance of the user was stored by --snapshot"
_BEFORE = "sent before --snapshot stored the balance"
_UNKNOWN = "a balance does not tell which of the unknown rows were paid"

_Balance = tuple[int, float]
"""Coins, and when they were read."""


async def snapshot(
    ledger: CampaignLedger,
    vendor: Balances,
    recipients: Iterable[str],
    *,
    budget: RequestBudget | None = None,
    clock: Callable[[], float] = time.time,
) -> tuple[int, int]:
    """Store how many coins recipients have now, so that a later audit can tell what has changed.

    Args:
        ledger: Any open campaign of the ledger.
        vendor: Reads the balances.
        recipients: The users; read a few at a time.
        budget: Counts and paces the requests; 20 a second if not given.
        clock: Seconds since the epoch.

    Returns:
        How many balances were stored, and how many could not be read.

    Raises:
        BudgetSpent: no further request may be made; the balances read so far are stored.
        VendorError: the vendor refused the credentials or cannot be reached; the balances read so far are stored.
    """
    budget = budget or RequestBudget()
    waiting = iter(recipients)
    stored = failed = 0
    problem: Exception | None = None

    async def read(recipient: str) -> _Balance:
        at = clock()  # after the wait for the budget, so that little is sent between this time and the answer
        return await vendor.balance_of(recipient), at

    async def work() -> None:
        nonlocal stored, failed, problem
        for recipient in waiting:
            try:
                balance = await budget.call(partial(read, recipient))
                await ledger.transact(partial(_store, recipient, balance))
                stored += 1
            except Exception as found:  # noqa: BLE001 - raised below, without a group around it
                if isinstance(found, VendorError) and not isinstance(found, FATAL):
                    failed += 1
                else:
                    problem = problem or found
            if problem is not None:
                return

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_AT_ONCE):
            tasks.create_task(work())
    if problem is not None:
        raise problem
    return stored, failed


class BalanceBooks:
    """Compare changes of balances with what was paid since the snapshot; safe for many recipients at once."""

    def __init__(
        self,
        balances: Balances,
        budget: RequestBudget,
        ledger: CampaignLedger,
        coins: Mapping[str, int],
        clock: Callable[[], float],
    ) -> None:
        self._balances = balances
        self._budget = budget
        self._ledger = ledger
        self._coins = coins
        self._clock = clock

    async def check(self, rows: Sequence[KnownRow]) -> ComparisonResult:
        """Compare the balances of one recipient, whose id may have several spellings.

        Raises:
            BudgetSpent: no further request may be made; nothing is known of these rows.
            VendorError: the vendor refused the credentials or cannot be reached.
        """
        checked = ComparisonResult(rows=sum(row.in_scope for row in rows), asked_at=self._clock())
        by_recipient: dict[str, list[KnownRow]] = {}
        for row in rows:
            by_recipient.setdefault(row.entry.recipient, []).append(row)
        before = await self._ledger.transact(partial(_stored, list(by_recipient)))
        for recipient, own in by_recipient.items():
            checked.unchecked += await self._compare(recipient, own, before.get(recipient), checked.findings)
        return checked

    async def _compare(
        self, recipient: str, rows: Sequence[KnownRow], before: _Balance | None, findings: list[Finding]
    ) -> Counter[str]:
        """Compare one balance; return why it says nothing about some of the rows, with their number."""
        in_scope = sum(row.in_scope for row in rows)
        if before is None:
            return Counter({_NO_SNAPSHOT: in_scope})
        coins, at = before
        try:
            now = await self._budget.call(partial(self._balances.balance_of, recipient))
        except VendorError as problem:
            raise_if_fatal(problem)
            return Counter({str(problem): in_scope})
        changed = now - coins
        done = [row.entry for row in rows if row.entry.state is State.DONE]
        paid = [entry.item for entry in done if _sent_after(entry, at)]
        perhaps = [entry.item for entry in done if not _sent_after(entry, at) and (entry.settled_at or 0.0) > at]
        missing = sorted({*paid, *perhaps} - self._coins.keys())
        if missing or not self._coins:
            findings.append(Finding(kind="change", recipient=recipient, ledger=f"{len(paid)} paid", vendor=f"{changed:+d}"))
            return Counter({f"--coins does not say how many coins {' and '.join(missing) or 'an event'} gives": in_scope})
        lowest = sum(self._coins[event] for event in paid)
        highest = lowest + sum(self._coins[event] for event in perhaps)
        if not lowest <= changed <= highest:
            kind = "balance_lower" if changed < lowest else "balance_higher"
            findings.append(Finding(kind=kind, recipient=recipient, ledger=f"{lowest:+d}", vendor=f"{changed:+d}"))
            return Counter()
        return Counter(why for row in rows if row.in_scope and (why := _unchecked(row.entry, at)))


def _sent_after(entry: Entry, at: float) -> bool:
    """Return whether a row is known to have been sent later; a row settled by hand may carry that moment as `sent_at`."""
    known = entry.settled_by != "hand" or entry.sent_at != entry.settled_at
    return known and entry.sent_at is not None and entry.sent_at > at


def _unchecked(entry: Entry, at: float) -> str | None:
    """Return why a balance that agrees says nothing about a row, None if it does."""
    if entry.state in {State.UNKNOWN, State.SENT}:
        return _UNKNOWN
    return None if entry.state is State.PLANNED or _sent_after(entry, at) else _BEFORE


def _stored(recipients: Iterable[str], database: Database) -> dict[str, _Balance]:
    found = {each: database.execute("SELECT coins, at FROM balances WHERE recipient = ?", (each,)).get for each in recipients}
    return {recipient: (balance[0], balance[1]) for recipient, balance in found.items() if balance is not None}


def _store(recipient: str, balance: _Balance, database: Database) -> None:
    database.execute(
        "INSERT INTO balances (recipient, coins, at) VALUES (?, ?, ?) "
        "ON CONFLICT (recipient) DO UPDATE SET coins = excluded.coins, at = excluded.at",
        (recipient, *balance),
    )
