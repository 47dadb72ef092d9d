"""A row gets another key only after the vendor was asked now what became of the old one."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from payouts.retrying import objection_to_retry
from payouts.states import Entry, State
from payouts.vendors import vendor_of
from tests.payouts.payout_kit import REWARD, StubEnkash, StubOriginal
from vendor_http.errors import ServerFailed
from vendor_http.operations import OperationStatus


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


async def objection(client: Any, entry: Entry) -> str | None:
    return await objection_to_retry(vendor_of(client), entry)


@pytest.mark.parametrize("state", sorted(set(State) - {State.REJECTED, State.FAILED}))
async def test_no_other_row_can_be_paid_anew(state: State) -> None:
    vendor = StubOriginal()
    assert await objection(vendor, row(state)) == f"it is {state}; only a rejected or a failed row can be paid anew"
    assert vendor.looked_up == []


async def test_a_rejected_row_can_if_the_vendor_holds_nothing_under_its_key() -> None:
    vendor = StubOriginal()
    assert await objection(vendor, row(State.REJECTED)) is None
    assert vendor.looked_up == ["k1"]


async def test_a_rejected_row_cannot_if_the_vendor_holds_something_under_its_key() -> None:
    vendor = StubOriginal()
    vendor.hold("user-r1", "1.50", "k1")
    assert await objection(vendor, row(State.REJECTED)) == (
        "the vendor holds uid-1 under its key, done: it was not rejected. "
        "Run `payouts resolve r1 --as unknown --note ...`, then the payout again"
    )


async def test_a_failed_row_can_if_it_is_still_read_as_failed() -> None:
    vendor = StubOriginal(final=OperationStatus.FAILED)
    held = vendor.hold("user-r1", "1.50", "k1")
    assert await objection(vendor, row(State.FAILED, held.uid)) is None


@pytest.mark.parametrize("status", [OperationStatus.DONE, OperationStatus.PENDING])
async def test_a_failed_row_cannot_if_it_reads_otherwise_now(status: OperationStatus) -> None:
    vendor = StubOriginal(final=status)
    held = vendor.hold("user-r1", "1.50", "k1")
    told = await objection(vendor, row(State.FAILED, held.uid))
    assert told == f"the vendor now says that uid-1 is {status}: it did not fail"


async def test_a_failed_row_cannot_if_another_one_is_held_under_its_key() -> None:
    vendor = StubOriginal(final=OperationStatus.FAILED)
    vendor.hold("user-r1", "1.50", "k1")
    told = await objection(vendor, row(State.FAILED, "uid-9"))
    assert told == "the vendor holds uid-1 under its key beside uid-9, failed"


async def test_a_failed_row_cannot_if_the_vendor_does_not_show_it_any_more() -> None:
    told = await objection(StubOriginal(), row(State.FAILED, "uid-9"))
    assert told == "the vendor does not show uid-9 any more, so nobody can say that it failed"


@pytest.mark.parametrize("state", [State.REJECTED, State.FAILED])
async def test_no_row_can_while_the_vendor_cannot_be_asked(state: State) -> None:
    vendor = StubOriginal()
    vendor.look_ups["user-r1"] = deque([ServerFailed("503")])
    assert await objection(vendor, row(state, "uid-1")) == "the vendor could not be asked: 503"


async def test_of_coins_only_a_rejected_row_can() -> None:
    assert await objection(StubEnkash(), row(State.REJECTED)) is None
    assert await objection(StubEnkash(), row(State.FAILED)) == "it is failed, and enkash cannot be asked about it"
