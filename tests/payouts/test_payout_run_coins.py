"""Coins, which cannot be looked up, are given once, or are unknown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from enkash_async import EnkashClient, StaticToken
from payouts.ledger.sqlite import Ledger
from payouts.runner import RunOptions, run_payouts
from payouts.states import State
from payouts.vendors.payers import payer_of
from rewards_core.errors import OutcomeUnknown, ValidationFailed, VendorError
from tests.payouts.payout_kit import StubEnkash, coin_row, ledger_at
from tests.payouts.run_kit import collect, key_of, led_to, pay


@pytest_asyncio.fixture
async def coins(path: Path) -> AsyncIterator[Ledger]:
    async with ledger_at(path, "enkash") as ledger:
        yield ledger


async def test_coins_are_paid_with_the_answer(coins: Ledger) -> None:
    vendor = StubEnkash()
    (entry,) = await pay([coin_row("r0")], vendor, coins)
    assert (entry.state, entry.settled_by, vendor.given) == (State.DONE, "reply", [key_of("r0", "enkash")])
    assert await pay([coin_row("r0")], vendor, coins) == []


async def test_coins_whose_answer_was_never_read_are_unknown_and_not_given_again(coins: Ledger) -> None:
    vendor = StubEnkash()
    await led_to(coins, coin_row("r0"), State.SENT)
    (entry,) = await pay([coin_row("r0")], vendor, coins)
    assert (entry.state, vendor.given) == (State.UNKNOWN, [])
    assert "payouts resolve" in (entry.problem or "")
    assert await pay([coin_row("r0")], vendor, coins) == []


async def test_coins_are_given_again_only_where_that_is_known_to_be_safe(coins: Ledger) -> None:
    vendor = StubEnkash(repeat_allocations=True)
    await led_to(coins, coin_row("r0"), State.SENT)
    await led_to(coins, coin_row("r1"), State.SENT, State.UNKNOWN)
    ended = await pay([coin_row("r0"), coin_row("r1")], vendor, coins)
    assert {entry.state for entry in ended} == {State.DONE}
    assert sorted(vendor.given) == sorted([key_of("r0", "enkash"), key_of("r1", "enkash")])


@pytest.mark.parametrize(("said", "given_again"), [(True, True), (False, False), (object(), False)])
async def test_the_client_decides_whether_coins_may_be_given_again(coins: Ledger, said: object, given_again: bool) -> None:
    vendor = StubEnkash(repeat_allocations=said)
    await led_to(coins, coin_row("r0"), State.SENT)
    (entry,) = await pay([coin_row("r0")], vendor, coins)
    assert (entry.state, len(vendor.given)) == ((State.DONE, 1) if given_again else (State.UNKNOWN, 0))


@pytest.mark.parametrize("safe", [True, False])
async def test_an_enkash_client_says_whether_its_coins_may_be_given_again(safe: bool) -> None:
    address = "https://enkash.example.com"
    async with EnkashClient(
        coins_base_url=address, credentials=StaticToken("t"), company_id="C", repeat_allocations=safe
    ) as client:
        assert (client.repeat_allocations, payer_of(client, "enkash").may_repeat) == (safe, safe)


async def test_coins_refused_when_given_again_are_unknown_because_the_first_may_have_been_given(coins: Ledger) -> None:
    vendor = StubEnkash(repeat_allocations=True)
    vendor.answers["EKQZVMQK"].append(ValidationFailed("duplicate request id"))
    await led_to(coins, coin_row("r0"), State.SENT)
    (entry,) = await pay([coin_row("r0")], vendor, coins)
    assert entry.state is State.UNKNOWN


@pytest.mark.parametrize(
    ("problem", "state"),
    [(ValidationFailed("no funds"), State.REJECTED), (OutcomeUnknown("no answer"), State.UNKNOWN)],
)
async def test_what_an_error_means_for_coins(coins: Ledger, problem: VendorError, state: State) -> None:
    vendor = StubEnkash()
    vendor.answers["EKQZVMQK"].append(problem)
    (entry,) = await pay([coin_row("r0")], vendor, coins)
    assert entry.state is state


async def test_coins_are_marked_as_sent_only_when_a_request_can_leave(coins: Ledger) -> None:
    vendor = StubEnkash()
    begun, go = asyncio.Event(), asyncio.Event()

    async def hang(_: str) -> None:
        if len(vendor.given) == 2:
            begun.set()
        await go.wait()

    vendor.before = hang
    paying = asyncio.ensure_future(
        pay([coin_row(f"r{number}") for number in range(20)], vendor, coins, options=RunOptions(rate=None, concurrency=2))
    )
    await begun.wait()
    assert await coins.counts() == {State.SENT: 2}
    go.set()
    assert len(await paying) == 20


async def test_coins_that_were_marked_and_never_left_are_planned_again_at_the_end(coins: Ledger) -> None:
    vendor = StubEnkash()
    run = run_payouts(
        [coin_row(f"r{n}") for n in range(9)], client=vendor, ledger=coins, options=RunOptions(rate=None, concurrency=3)
    )

    async def wish(_: str) -> None:
        run.stop()

    vendor.before = wish
    ended = await collect(run)
    assert len(ended) == len(vendor.given) < 9
    assert await coins.counts() == {State.DONE: len(ended), State.PLANNED: 9 - len(ended)}
