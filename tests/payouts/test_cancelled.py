"""An operation that was cancelled paid nothing: its row counts as failed, wherever its status is read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
from attrs import evolve

from original_async import Allocation
from payouts import Entry, Held, RunOptions, State, run_payouts
from payouts.audit.comparison import Books, Finding, KnownRow
from payouts.cli.retry import objection_to_retry
from payouts.payer import Lookups
from payouts.request_budget import RequestBudget
from payouts.vendors.payers import payer_of
from rewards_core.operations import OperationStatus
from tests.payouts.payout_kit import StubOriginal, ledger_at, token_row, waiting
from tests.texts import said

CANCELLED = OperationStatus.CANCELLED


def row(state: State, uid: str | None = "uid-1") -> Entry:
    return Entry(number=1, id="r1", line=2, recipient="user-r1", item="21", amount="1.50", key="k1", state=state, uid=uid)


@pytest.mark.parametrize("at_once", [True, False], ids=["found cancelled", "waited for"])
async def test_a_row_whose_operation_is_cancelled_failed(tmp_path: Path, at_once: bool) -> None:
    vendor = StubOriginal(final=CANCELLED, recovered=at_once)
    async with ledger_at(tmp_path / "payouts.db") as ledger, waiting(vendor) as completions:
        run = run_payouts([token_row("r1")], client=vendor, completions=completions, ledger=ledger, options=RunOptions(rate=None))
        (entry,) = [entry async for entry in run]
    assert (entry.state, entry.problem_kind) == (State.FAILED, "OperationCancelled")
    said("run: a row whose operation was cancelled", entry.problem)


async def test_such_a_row_may_get_a_new_key() -> None:
    vendor = StubOriginal(final=CANCELLED)
    held = vendor.hold("user-r1", "1.50", "k1")
    assert await objection_to_retry(payer_of(vendor, "original"), row(State.FAILED, held.uid)) is None


async def test_what_was_cancelled_under_an_older_key_does_not_keep_the_row_from_being_paid() -> None:
    vendor = StubOriginal(final=CANCELLED)
    vendor.hold("user-r1", "1.50", "k0", reward="21")
    lookups = payer_of(vendor, "original").lookups
    assert lookups is not None
    assert await lookups.held_under(row(State.PLANNED), {"k0"}) is None
    vendor.final = OperationStatus.PENDING
    held = cast("Allocation | None", await lookups.held_under(row(State.PLANNED), {"k0"}))
    assert held is not None
    assert held.nonce == "k0"


class OneList:
    """A vendor with some payments."""

    def __init__(self, *held: Held) -> None:
        self._held = held

    async def list_held(self, recipient: str, before_page: Any = None) -> Collection[Held]:
        return self._held


async def findings(known: Entry, *held: Held) -> list[Finding]:
    async def nobody(_: Collection[str]) -> Mapping[str, KnownRow]:
        return {}

    books = Books(cast("Lookups", OneList(*held)), RequestBudget(rate=None), nobody, lambda: 0.0)
    return (await books.check([KnownRow(entry=known, campaign=1)])).findings


PAID = Held(uid="uid-1", key="k1", recipient="user-r1", item="21", amount=Decimal("1.5"), status=CANCELLED)


@pytest.mark.parametrize(
    ("state", "kinds"),
    [(State.DONE, ["not_held"]), (State.ACCEPTED, ["behind"]), (State.FAILED, []), (State.UNKNOWN, ["behind"])],
)
async def test_an_audit_reads_it_as_failed(state: State, kinds: list[str]) -> None:
    found = await findings(row(state), PAID)
    assert [each.kind for each in found] == kinds
    assert {each.to for each in found} <= {State.FAILED, None}


async def test_an_audit_counts_it_neither_as_a_second_payment_nor_as_one_that_no_row_owns() -> None:
    done = evolve(PAID, uid="uid-2", status=OperationStatus.DONE)
    assert await findings(evolve(row(State.DONE), uid="uid-2"), PAID, done) == []
    assert await findings(evolve(row(State.DONE), uid="uid-2"), evolve(PAID, key="k9", uid="uid-9"), done) == []
