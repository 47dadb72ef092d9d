"""An audit under way: several recipients at once, written down little by little so that it can be continued."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from payouts.audit import records
from payouts.audit.balances import EnkashBalances
from payouts.audit.comparison import NOT_DIFFERENT, Checked, KnownRow, OriginalBooks
from payouts.request_budget import AskedEnough
from rewards_core.errors import RewardsError

if TYPE_CHECKING:
    from enkash_async import EnkashClient
    from original_async import OriginalClient
    from payouts.audit.records import Begun, Scope
    from payouts.ledger.sqlite import Ledger
    from payouts.request_budget import Asking

_AT_ONCE = 10
_Group = tuple[str, Sequence[KnownRow]]


class Books(Protocol):
    """What the rows of one recipient are compared with."""

    async def check(self, rows: Sequence[KnownRow]) -> Checked:
        """Compare them; see `OriginalBooks.check`."""
        ...


class AuditRun:
    """An audit of one vendor's rows.

    Args:
        ledger: Any open campaign of the ledger, with nothing under way.
        scope: Which rows, and what to do with what is found.
        asking: Counts and paces the requests; stop it to end the audit early.
        clock: Seconds since the epoch.

    Attributes:
        begun: The audit as this part of it found it.
        done: How many rows are finished, those of earlier parts included.
        found: How many differences this part has found.
        unchecked: How many rows this part could not check.
        reasons: Why rows could not be checked, and how many each.
        cause: What ended it early, if nothing could be asked any more.
    """

    begun: Begun

    def __init__(self, ledger: Ledger, scope: Scope, asking: Asking, clock: Callable[[], float] = time.time) -> None:
        self.done = self.found = self.unchecked = 0
        self.reasons: Counter[str] = Counter()
        self.cause: RewardsError | None = None
        self._ledger = ledger
        self._scope = scope
        self._asking = asking
        self._clock = clock
        self._counted = 0

    def original(self, client: OriginalClient) -> Books:
        """Return what Original's rows are compared with."""

        async def owners(keys: Collection[str]) -> Mapping[str, KnownRow]:
            return await self._ledger.transact(partial(records.owners, self._scope, keys))

        return OriginalBooks(client, self._asking, owners, self._clock)

    def enkash(self, client: EnkashClient, coins: Mapping[str, int]) -> Books:
        """Return what EnKash's rows are compared with."""
        return EnkashBalances(client, self._asking, self._ledger, coins, self._clock)

    async def begin(self, not_before: float) -> Begun:
        """Begin an audit, or continue one that has not ended.

        Args:
            not_before: An audit that was begun earlier is not continued; in seconds since the epoch.
        """
        self.begun = await self._ledger.transact(partial(records.begin, self._scope, self._clock(), not_before))
        self.done = self.begun.done
        return self.begun

    async def run(self, books: Books) -> bool:
        """Compare all rows that are left; return whether the audit has gone through all of them.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        after = self.begun.after
        while groups := await self._ledger.transact(partial(records.page, self._scope, after)):
            results = await self._check(books, groups)
            finished = next((place for place, result in enumerate(results) if result is None), len(results))
            await self._keep([each for each in results[:finished] if each is not None], groups[:finished])
            if finished < len(groups):
                return False
            after = groups[-1][0]
        await self._ledger.transact(partial(records.end, self.begun.number, self._clock()))
        return True

    async def _check(self, books: Books, groups: Sequence[_Group]) -> list[Checked | None]:
        """Return what came of each group, None for those that were not finished."""
        results: list[Checked | None] = [None] * len(groups)
        waiting = iter(enumerate(groups))
        at_once = _AT_ONCE if self._asking.most is None else 1  # what a few requests were spent on is to be finished by them
        async with asyncio.TaskGroup() as tasks:
            for _ in range(at_once):
                tasks.create_task(self._work(books, waiting, results))
        return results

    async def _work(self, books: Books, waiting: Iterator[tuple[int, _Group]], results: list[Checked | None]) -> None:
        for place, (_, rows) in waiting:
            try:
                checked = await books.check(rows) if any(row.judged for row in rows) else Checked(rows=0)
            except AskedEnough:
                return
            except RewardsError as problem:
                self.cause = self.cause or problem
                self._asking.stop()
                return
            results[place] = checked
            self._count(checked)

    def _count(self, checked: Checked) -> None:
        self.done += checked.rows
        self.unchecked += checked.unchecked.total()
        self.reasons += checked.unchecked
        self.found += sum(
            each.kind not in NOT_DIFFERENT and not (self._scope.allow_unknown and each.kind == "unknown_to_ledger")
            for each in checked.findings
        )

    async def _keep(self, results: Sequence[Checked], groups: Sequence[_Group]) -> None:
        requests, self._counted = self._asking.made - self._counted, self._asking.made
        after = groups[-1][0] if groups else None
        work = partial(records.keep, self._scope, self.begun.number, results, requests, self._clock(), after)
        await self._ledger.transact(work)
