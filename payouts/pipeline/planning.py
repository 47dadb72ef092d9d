"""Plan the rows of a source in a shared ledger, from which workers take them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from payouts.source.groups import groups_of
from payouts.states import SETTLED

if TYPE_CHECKING:
    from payouts.ledger.campaign import CampaignLedger
    from payouts.progress import Progress, Stop
    from payouts.rows import Row
    from payouts.source.groups import Rows

PLANNED_AT_ONCE = 10_000
"""Rows in a transaction: with 500, commits and the tops of indexes cost half as much again."""


async def plan_rows(rows: Rows, ledger: CampaignLedger, stop: Stop, progress: Progress) -> None:
    """Plan the rows of a source, group by group, until it or the run ends.

    While the database stores a group the next one is read; an error of the source is raised once the rows before it are stored.
    """

    async def store(group: Sequence[Row]) -> None:
        entries = await ledger.plan(group)
        progress.read += len(entries)
        progress.skipped += sum(entry.state in SETTLED for entry in entries)

    async with aclosing(groups_of(rows, stop, PLANNED_AT_ONCE)) as groups:
        group: list[Row] = await anext(groups, [])
        while group and not stop.wished:
            problem, following = await asyncio.gather(store(group), anext(groups, []), return_exceptions=True)
            if problem is not None:
                raise problem
            if isinstance(following, BaseException):
                raise following
            group = following
