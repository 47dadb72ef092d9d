"""The example for `OutcomeUnknown`: an order is paid once, whatever is lost on the way, and its row says how it stands."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rewards_core import ConnectFailed, RewardsError, Unauthorized
from tests.example_kit import EXAMPLES, ROOT, load
from vendor_sandboxes.testing import OriginalServer, Rewards, RewardsBooks

USER = "110985463782"
ROW = ("A-1001", USER, "1.23")
ALLOCATION: Any = {"reward_uid": "764893807463", "to_user_uid": USER, "amount": "1.23", "nonce": "A-1001"}


@pytest.fixture
def states() -> list[str]:
    """The states that were saved."""
    return []


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, states: list[str]) -> Any:
    (tmp_path / "orders").mkdir()
    monkeypatch.chdir(tmp_path)
    module = load("recover_unknown")
    save = module.Order.save

    def remember(order: Any, state: str) -> None:
        save(order, state)
        states.append(state)

    monkeypatch.setattr(module.Order, "save", remember)
    return module


def sent(sandbox: OriginalServer) -> int:
    return sum(each.method == "POST" for each in sandbox.requests)


async def test_an_order_is_paid(example: Any, states: list[str], rewards: Rewards, rewards_books: RewardsBooks) -> None:
    await example.settle(example.load(*ROW), rewards.client, rewards.completions)
    assert states == ["sent", "accepted", "done"]
    assert rewards_books.paid(USER, "1.23", once=True)


@pytest.mark.slow
@pytest.mark.rewards(list_lag=600)  # only its webhook shows it
async def test_an_answer_that_was_lost_is_found(
    example: Any, states: list[str], rewards: Rewards, original_sandbox: OriginalServer, rewards_books: RewardsBooks
) -> None:
    original_sandbox.script("drop_after_commit")
    await example.settle(example.load(*ROW), rewards.client, rewards.completions)
    assert states == ["sent", "unknown", "done"]
    assert rewards_books.paid(USER, "1.23", once=True)


@pytest.mark.slow
@pytest.mark.rewards(list_lag=600, webhook_loss=1)
async def test_an_order_without_an_answer_survives_a_restart(
    example: Any, states: list[str], rewards: Rewards, original_sandbox: OriginalServer, rewards_books: RewardsBooks
) -> None:
    original_sandbox.script("drop_after_commit")
    settling = asyncio.create_task(example.settle(example.load(*ROW), rewards.client, rewards.completions))
    while "unknown" not in states:
        await asyncio.sleep(0)
    settling.cancel()
    await asyncio.gather(settling, return_exceptions=True)
    original_sandbox.options.list_lag = 0
    requests = sent(original_sandbox)
    order = example.load(*ROW)
    assert order.state == "unknown"
    await example.settle(order, rewards.client, rewards.completions)
    assert order.state == "done"
    assert sent(original_sandbox) == requests  # the wait sends nothing
    assert rewards_books.paid(USER, "1.23", once=True)


@pytest.mark.parametrize("arrived", [False, True])
async def test_an_order_that_may_have_been_sent_is_sent_again_under_its_nonce(
    example: Any, states: list[str], rewards: Rewards, rewards_books: RewardsBooks, arrived: bool
) -> None:
    if arrived:
        await rewards.client.create_allocation(**ALLOCATION)
    example.Order(*ROW).save("sent")
    await example.settle(example.load(*ROW), rewards.client, rewards.completions)
    assert states == ["sent", "sent", "accepted", "done"]
    assert rewards_books.paid(USER, "1.23", once=True)


@pytest.mark.slow
async def test_an_order_that_never_arrived_is_sent_again(
    example: Any, states: list[str], rewards: Rewards, original_sandbox: OriginalServer, rewards_books: RewardsBooks
) -> None:
    original_sandbox.script(*["drop_before_commit"] * 5)
    await example.settle(example.load(*ROW), rewards.client, rewards.completions, timeout=0.1)
    await example.settle(example.load(*ROW), rewards.client, rewards.completions)
    assert states == ["sent", "unknown", "sent", "sent", "accepted", "done"]
    assert rewards_books.paid(USER, "1.23", once=True)


@pytest.mark.rewards(confirm="never")
async def test_an_order_that_takes_long_is_waited_for_again(
    example: Any, states: list[str], rewards: Rewards, original_sandbox: OriginalServer
) -> None:
    await example.settle(example.load(*ROW), rewards.client, rewards.completions, timeout=0.1)
    assert states == ["sent", "accepted"]
    original_sandbox.settle(original_sandbox.books()["allocations"][0]["uid"])
    await example.settle(example.load(*ROW), rewards.client, rewards.completions)
    assert states == ["sent", "accepted", "done"]
    assert sent(original_sandbox) == 1


@pytest.mark.rewards(fail_rate=1)
async def test_a_failure_on_the_blockchain_ends_an_order(example: Any, states: list[str], rewards: Rewards) -> None:
    await example.settle(example.load(*ROW), rewards.client, rewards.completions)
    assert states == ["sent", "accepted", "failed"]


@pytest.mark.slow
@pytest.mark.rewards(strict=True)
async def test_a_refusal_ends_only_an_order_that_was_never_sent_before(
    example: Any, states: list[str], rewards: Rewards, rewards_books: RewardsBooks
) -> None:
    nobody = ("A-1001", "1", "1.23")
    await example.settle(example.load(*nobody), rewards.client, rewards.completions)
    assert states == ["sent", "rejected"]
    example.Order(*nobody).save("sent")
    await example.settle(example.load(*nobody), rewards.client, rewards.completions, timeout=0.1)
    assert states[2:] == ["sent", "sent", "unknown", "sent"]
    assert not rewards_books.payments


@pytest.mark.slow
@pytest.mark.rewards(strict=True)
async def test_an_order_that_stays_unknown_is_for_a_person(example: Any, states: list[str], rewards: Rewards) -> None:
    example.Order("A-1001", "1", "1.23", attempts=9).save("sent")
    await example.settle(example.load(*ROW), rewards.client, rewards.completions, timeout=0.1)
    assert states[-1] == "person"
    await example.settle(example.load(*ROW), rewards.client, rewards.completions)
    assert states[-1] == "person"


async def test_a_number_that_was_used_for_another_payment_is_for_a_person(
    example: Any, states: list[str], rewards: Rewards, rewards_books: RewardsBooks
) -> None:
    await rewards.completions.wait(await rewards.client.create_allocation(**{**ALLOCATION, "amount": "9"}))
    await example.settle(example.load(*ROW), rewards.client, rewards.completions)
    assert states == ["sent", "person"]
    assert rewards_books.paid(USER, "9", once=True)


@pytest.mark.parametrize("before", ["planned", "sent"])
@pytest.mark.parametrize("problem", [Unauthorized("the key was revoked", status=401), ConnectFailed("no network")])
async def test_what_says_nothing_about_an_order_leaves_its_state(
    example: Any, rewards: Rewards, before: str, problem: RewardsError
) -> None:
    class Client:
        async def create_allocation(self, **_: Any) -> None:
            raise problem

    example.Order(*ROW).save(before)
    with pytest.raises(type(problem)):
        await example.settle(example.load(*ROW), Client(), rewards.completions)
    assert example.load(*ROW).state == before


@pytest.mark.slow
def test_the_program_tells_how_an_order_ended(original_sandbox: OriginalServer, tmp_path: Path) -> None:
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(EXAMPLES / "recover_unknown.py"), *ROW],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "A-1001: done\n"
    assert sent(original_sandbox) == 1
