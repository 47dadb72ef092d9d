"""An audit in progress: several recipients at once, recorded page by page so that it can be continued."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

from payouts.audit import records
from payouts.audit.balances import BalanceBooks
from payouts.audit.comparison import NOT_DIFFERENT, Books, ComparisonResult, KnownRow
from payouts.request_budget import BudgetSpent
from rewards_core.errors import RewardsError

if TYPE_CHECKING:
    from payouts.audit.records import Begun, Scope
    from payouts.ledger.campaign import CampaignLedger
    from payouts.payer import Balances, Payer
    from payouts.request_budget import RequestBudget

_AT_ONCE = 10
_Group = tuple[str, Sequence[KnownRow]]


class _Books(Protocol):
    async def check(self, rows: Sequence[KnownRow]) -> ComparisonResult: ...


class AuditRun:
    """An audit of one vendor's rows.

    Args:
        ledger: Any open campaign of the ledger, with no request under way.
        scope: Which rows are checked, and what happens to findings.
        budget: Counts and paces the requests; stop it to end the audit early.
        clock: Seconds since the epoch.

    Attributes:
        begun: The state of the audit when this run began.
        done: How many rows are finished, including those of earlier runs.
        found: How many differences this run has found.
        unchecked: How many rows this run could not check.
        reasons: Why rows could not be checked, with the number of rows for each reason.
        cause: The error that stopped the audit early, None if none did.
    """

    begun: Begun

    def __init__(
        self, ledger: CampaignLedger, scope: Scope, budget: RequestBudget, clock: Callable[[], float] = time.time
    ) -> None:
        self.done = self.found = self.unchecked = 0
        self.reasons: Counter[str] = Counter()
        self.cause: RewardsError | None = None
        self._ledger = ledger
        self._scope = scope
        self._budget = budget
        self._clock = clock
        self._recorded = 0

    async def begin(self, not_before: float) -> Begun:
        """Begin an audit, or continue an unfinished one.

        Args:
            not_before: An audit begun earlier is not continued; in seconds since the epoch.
        """
        self.begun = await self._ledger.transact(partial(records.begin, self._scope, self._clock(), not_before))
        self.done = self.begun.done
        return self.begun

    async def run(self, payer: Payer, coins: Mapping[str, int]) -> bool:
        """Compare all remaining rows; return whether the audit is complete.

        Args:
            payer: The vendor of the rows.
            coins: The coins that an event gives, by event, for a vendor of which only balances are known.

        Raises:
            LedgerError: the ledger cannot be written.
        """
        books = self._books(payer, coins)
        after = self.begun.after
        while groups := await self._ledger.transact(partial(records.page, self._scope, after)):
            results = await self._check(books, groups)
            finished = next((place for place, result in enumerate(results) if result is None), len(results))
            await self._record([each for each in results[:finished] if each is not None], groups[:finished])
            if finished < len(groups):
                return False
            after = groups[-1][0]
        await self._ledger.transact(partial(records.end, self.begun.number, self._clock()))
        return True

    def _books(self, payer: Payer, coins: Mapping[str, int]) -> _Books:
        if payer.lookups is not None:
            return Books(payer.lookups, self._budget, self._owners, self._clock)
        balances = cast("Balances", payer.balances)  # a vendor has look-ups or balances
        return BalanceBooks(balances, self._budget, self._ledger, coins, self._clock)

    async def _owners(self, keys: Collection[str]) -> Mapping[str, KnownRow]:
        return await self._ledger.transact(partial(records.owners, self._scope, keys))

    async def _check(self, books: _Books, groups: Sequence[_Group]) -> list[ComparisonResult | None]:
        """Return the result of each group, None for those that were not finished."""
        results: list[ComparisonResult | None] = [None] * len(groups)
        waiting = iter(enumerate(groups))
        at_once = _AT_ONCE if self._budget.max_requests is None else 1  # a small budget finishes recipients one by one
        async with asyncio.TaskGroup() as tasks:
            for _ in range(at_once):
                tasks.create_task(self._work(books, waiting, results))
        return results

    async def _work(self, books: _Books, waiting: Iterator[tuple[int, _Group]], results: list[ComparisonResult | None]) -> None:
        for place, (_, rows) in waiting:
            try:
                checked = await books.check(rows) if any(row.in_scope for row in rows) else ComparisonResult(rows=0)
            except BudgetSpent:
                return
            except RewardsError as problem:
                self.cause = self.cause or problem
                self._budget.stop()
                return
            results[place] = checked
            self._count(checked)

    def _count(self, checked: ComparisonResult) -> None:
        self.done += checked.rows
        self.unchecked += checked.unchecked.total()
        self.reasons += checked.unchecked
        self.found += sum(
            each.kind not in NOT_DIFFERENT and not (self._scope.allow_unknown and each.kind == "unknown_to_ledger")
            for each in checked.findings
        )

    async def _record(self, results: Sequence[ComparisonResult], groups: Sequence[_Group]) -> None:
        requests, self._recorded = self._budget.spent - self._recorded, self._budget.spent
        after = groups[-1][0] if groups else None
        work = partial(records.record, self._scope, self.begun.number, results, requests, self._clock(), after)
        await self._ledger.transact(work)
