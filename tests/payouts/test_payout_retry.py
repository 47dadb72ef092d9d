"""A row gets a new key only after the vendor was asked now what became of the old one."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from payouts.cli.retry import objection_to_retry
from payouts.runner import run_payouts
from payouts.states import Entry, State
from payouts.vendors.payers import payer_of
from rewards_core.errors import ServerFailed
from rewards_core.operations import OperationStatus
from tests.payouts.payout_kit import REWARD, StubEnkash, StubOriginal, ledger_at, token_row, waiting
from tests.texts import said


def row(state: State, uid: str | None = None) -> Entry:
    values: dict[str, Any] = {
        "number": 1,
        "id": "r1",
        "line": 2,
        "recipient": "user-r1",
        "item": REWARD,
        "amount": "1.50",
        "key": "k1",
    }
    return Entry(**values, state=state, uid=uid)


async def objection(client: Any, entry: Entry, vendor: str = "original") -> str | None:
    return await objection_to_retry(payer_of(client, vendor), entry)


def told(what: str, why: str | None) -> None:
    """A row keeps its key, and a person reads why."""
    assert why is not None
    said(f"retry: {what}", why)


@pytest.mark.parametrize("state", sorted(set(State) - {State.REJECTED, State.FAILED}))
async def test_no_other_row_can_be_paid_again(state: State) -> None:
    vendor = StubOriginal()
    assert await objection(vendor, row(state)) is not None
    assert vendor.looked_up == []


async def test_a_rejected_row_can_if_the_vendor_holds_nothing_under_its_key() -> None:
    vendor = StubOriginal()
    assert await objection(vendor, row(State.REJECTED)) is None
    assert vendor.looked_up == ["k1"]


async def test_a_rejected_row_cannot_if_the_vendor_holds_something_under_its_key() -> None:
    vendor = StubOriginal()
    vendor.hold("user-r1", "1.50", "k1")
    told("a rejected row is held", await objection(vendor, row(State.REJECTED)))


async def test_a_failed_row_can_if_it_is_still_read_as_failed() -> None:
    vendor = StubOriginal(final=OperationStatus.FAILED)
    held = vendor.hold("user-r1", "1.50", "k1")
    assert await objection(vendor, row(State.FAILED, held.uid)) is None


@pytest.mark.parametrize("status", [OperationStatus.DONE, OperationStatus.PENDING])
async def test_a_failed_row_cannot_if_it_reads_otherwise_now(status: OperationStatus) -> None:
    vendor = StubOriginal(final=status)
    held = vendor.hold("user-r1", "1.50", "k1")
    told(f"a failed row is {status}", await objection(vendor, row(State.FAILED, held.uid)))


async def test_a_failed_row_cannot_if_another_one_is_held_under_its_key() -> None:
    vendor = StubOriginal(final=OperationStatus.FAILED)
    vendor.hold("user-r1", "1.50", "k1")
    told("another one is held under its key", await objection(vendor, row(State.FAILED, "uid-9")))


async def test_a_failed_row_cannot_if_the_vendor_does_not_show_it_any_more() -> None:
    told("a failed row is not shown", await objection(StubOriginal(), row(State.FAILED, "uid-9")))


@pytest.mark.parametrize("state", [State.REJECTED, State.FAILED])
async def test_no_row_can_while_the_vendor_cannot_be_asked(state: State) -> None:
    vendor = StubOriginal()
    vendor.look_ups["user-r1"] = deque([ServerFailed("503")])
    told("the vendor cannot be asked", await objection(vendor, row(state, "uid-1")))


async def test_of_coins_only_a_rejected_row_can() -> None:
    assert await objection(StubEnkash(), row(State.REJECTED), "enkash") is None
    assert await objection(StubEnkash(), row(State.FAILED), "enkash") is not None


async def test_of_coins_that_were_rejected_before_the_ledger_was_restored_none_can() -> None:
    rejected = evolve(row(State.REJECTED), settled_at=1000.0)
    told("coins after a restored copy", await objection_to_retry(payer_of(StubEnkash(), "enkash"), rejected, restored_at=2000.0))
    assert await objection_to_retry(payer_of(StubEnkash(), "enkash"), rejected, restored_at=500.0) is None


async def test_a_row_cannot_if_it_is_held_under_a_key_of_another_try() -> None:
    vendor = StubOriginal()
    vendor.hold("user-r1", "1.50", "k2")
    why = await objection_to_retry(payer_of(vendor, "original"), row(State.REJECTED), other_keys={"k2"})
    told("held under a key of another try", why)


async def test_what_is_carried_out_late_under_the_old_key_is_not_paid_again(tmp_path: Path) -> None:
    vendor = StubOriginal()
    async with ledger_at(tmp_path / "payouts.db") as ledger:
        (entry,) = await ledger.plan([token_row("r1")])
        rejected = await ledger.move(await ledger.move(entry, State.SENT), State.REJECTED, problem="refused")
        renewed = await ledger.renew_key(rejected)
        vendor.hold("user-r1", "1.50", entry.key)
        async with waiting(vendor) as completions:
            async for _ in run_payouts([token_row("r1")], client=vendor, completions=completions, ledger=ledger):
                pass
        settled = await ledger.find("r1")
        assert settled is not None
        assert (settled.state, settled.key, vendor.created) == (State.DONE, renewed.key, [])
