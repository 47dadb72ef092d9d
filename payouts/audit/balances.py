"""What can be learned about coins, which cannot be looked up: how balances have changed since they were last written down."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

from payouts.audit.comparison import Checked, Finding, KnownRow
from payouts.audit.records import balances, keep_balances
from payouts.request_budget import Asking
from payouts.states import Entry, State
from rewards_core.errors import VendorError

if TYPE_CHECKING:
    from enkash_async import EnkashClient
    from payouts.ledger.sqlite import Ledger

_AT_ONCE = 10
_NO_SNAPSHOT = "no balance of the user was stored by --snapshot"
_BEFORE = "sent before --snapshot stored the balance"
_UNKNOWN = "a balance does not tell which of the unknown rows were paid"


async def snapshot(
    ledger: Ledger,
    client: EnkashClient,
    recipients: Iterable[str],
    *,
    asking: Asking | None = None,
    clock: Callable[[], float] = time.time,
) -> tuple[int, int]:
    """Write down how many coins recipients have now, so that a later audit can tell what has changed.

    Args:
        ledger: Any open campaign of the ledger.
        client: Asks EnKash.
        recipients: The users; read little by little.
        asking: Counts and paces the requests; 20 a second if not given.
        clock: Seconds since the epoch.

    Returns:
        How many balances were written down, and how many could not be read.

    Raises:
        AskedEnough: no further request may be made; what was read is written down.
        VendorError: EnKash refuses the credentials or cannot be reached; what was read is written down.
    """
    asking = asking or Asking()
    waiting = iter(recipients)
    kept = failed = 0
    while some := list(islice(waiting, _AT_ONCE)):
        answers = await asyncio.gather(*(_balance(client, asking, clock, each) for each in some), return_exceptions=True)
        known = {each: answer for each, answer in zip(some, answers, strict=True) if not isinstance(answer, BaseException)}
        await ledger.transact(partial(keep_balances, known))
        kept += len(known)
        for answer in answers:
            if isinstance(answer, VendorError):
                asking.raise_if_hopeless(answer)
                failed += 1
            elif isinstance(answer, BaseException):
                raise answer
    return kept, failed


async def _balance(client: EnkashClient, asking: Asking, clock: Callable[[], float], recipient: str) -> tuple[int, float]:
    at = clock()
    return await asking.ask(partial(client.get_balance, recipient)), at


class EnkashBalances:
    """Compare how balances have changed with what was paid since they were written down; safe for many recipients at once.

    Args:
        client: Asks EnKash.
        asking: Counts and paces the requests.
        ledger: Has the balances that were written down.
        coins: Event to what it is worth.
        clock: Seconds since the epoch.
    """

    def __init__(
        self, client: EnkashClient, asking: Asking, ledger: Ledger, coins: Mapping[str, int], clock: Callable[[], float]
    ) -> None:
        self._client = client
        self._asking = asking
        self._ledger = ledger
        self._coins = coins
        self._clock = clock

    async def check(self, rows: Sequence[KnownRow]) -> Checked:
        """Compare the balances of one recipient, whose id may be spelled in several ways.

        Raises:
            AskedEnough: no further request may be made; nothing is known of these rows.
            VendorError: EnKash refuses the credentials or cannot be reached, as with any other recipient.
        """
        checked = Checked(rows=sum(row.judged for row in rows), asked_at=self._clock())
        by_recipient: dict[str, list[KnownRow]] = {}
        for row in rows:
            by_recipient.setdefault(row.entry.recipient, []).append(row)
        before = await self._ledger.transact(partial(balances, list(by_recipient)))
        for recipient, own in by_recipient.items():
            checked.unchecked += await self._compare(recipient, own, before.get(recipient), checked.findings)
        return checked

    async def _compare(
        self, recipient: str, rows: Sequence[KnownRow], before: tuple[int, float] | None, findings: list[Finding]
    ) -> Counter[str]:
        """Compare one balance; return about how many of the rows that says nothing, and why."""
        judged = sum(row.judged for row in rows)
        if before is None:
            return Counter({_NO_SNAPSHOT: judged})
        coins, at = before
        try:
            now = await self._asking.ask(partial(self._client.get_balance, recipient))
        except VendorError as problem:
            self._asking.raise_if_hopeless(problem)
            return Counter({str(problem): judged})
        changed = now - coins
        done = [row.entry for row in rows if row.entry.state is State.DONE]
        paid = [entry.item for entry in done if _sent_after(entry, at)]
        perhaps = [entry.item for entry in done if not _sent_after(entry, at) and (entry.settled_at or 0.0) > at]
        missing = sorted({*paid, *perhaps} - self._coins.keys())
        if missing or not self._coins:
            findings.append(Finding(kind="change", recipient=recipient, ledger=f"{len(paid)} paid", vendor=f"{changed:+d}"))
            return Counter({f"--coins does not say how many coins {' and '.join(missing) or 'an event'} gives": judged})
        expected = sum(self._coins[event] for event in paid)
        most = expected + sum(self._coins[event] for event in perhaps)
        if not expected <= changed <= most:
            kind = "balance_lower" if changed < expected else "balance_higher"
            findings.append(Finding(kind=kind, recipient=recipient, ledger=f"{expected:+d}", vendor=f"{changed:+d}"))
            return Counter()
        return Counter(why for row in rows if row.judged and (why := _unchecked(row.entry, at)))


def _sent_after(entry: Entry, at: float) -> bool:
    """Return whether a row is known to have been sent later; of one that was first heard of when it was settled nobody knows."""
    known = entry.settled_by != "hand" or entry.sent_at != entry.settled_at
    return known and entry.sent_at is not None and entry.sent_at > at


def _unchecked(entry: Entry, at: float) -> str | None:
    """Return why a balance that agrees says nothing about a row, None if it does."""
    if entry.state in {State.UNKNOWN, State.SENT}:
        return _UNKNOWN
    return None if entry.state is State.PLANNED or _sent_after(entry, at) else _BEFORE
