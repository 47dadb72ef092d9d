"""Faults hit as seed and options say, before or after the commit, and each is counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.texts import said
from vendor_sandboxes import OriginalSandbox
from vendor_sandboxes.faults import FaultPlan
from vendor_sandboxes.options import OriginalOptions, SandboxOptions, read_span

if TYPE_CHECKING:
    from tests.sandboxes.conftest import Caller

CallerOf = Callable[[OriginalSandbox], "Caller"]


def committed(sandbox: OriginalSandbox) -> int:
    return len(sandbox.books()["allocations"])


async def test_503_before_commit_does_nothing(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, p503=1) as sandbox:
        answer = await caller_of(sandbox).allocate()
        assert (answer.status, answer.error["type"], answer.error["detail"]["code"]) == (503, "server_error", "error")
        assert committed(sandbox) == 0
        assert sandbox.books()["faults"] == {"p503": 1}


async def test_503_after_commit_has_done_it(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, p503_after_commit=1) as sandbox:
        assert (await caller_of(sandbox).allocate()).status == 503
        assert committed(sandbox) == 1


async def test_429_says_how_long_to_wait(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, p429=1, retry_after=2) as sandbox:
        answer = await caller_of(sandbox).allocate()
        assert (answer.status, answer.headers["Retry-After"], answer.error["detail"]["code"]) == (429, "2", "throttled")
        assert committed(sandbox) == 0


@pytest.mark.parametrize(
    ("fault", "done"),
    [
        ("p429", 0),
        ("p503", 0),
        ("drop_before_commit", 0),
        ("p503_after_commit", 1),
        ("drop_after_commit", 1),
        ("slow_after_commit", 1),
    ],
)
async def test_faults_happen_before_or_after_the_commit_as_their_names_say(caller_of: CallerOf, fault: str, done: int) -> None:
    async with OriginalSandbox(confirm=None, slow_seconds=0) as sandbox:
        sandbox.script(fault, "none")
        with suppress(aiohttp.ClientConnectionError):
            await caller_of(sandbox).allocate("nonce_1")
        assert committed(sandbox) == done
        assert (await caller_of(sandbox).allocate("nonce_1")).status == (400 if done else 201)


@pytest.mark.parametrize(("fault", "done"), [("drop_before_commit", 0), ("drop_after_commit", 1)])
async def test_dropped_connection_brings_no_reply_and_no_noise(
    caller_of: CallerOf, caplog: pytest.LogCaptureFixture, fault: str, done: int
) -> None:
    with caplog.at_level(logging.INFO):
        options: dict[str, Any] = {fault: 1}
        async with OriginalSandbox(confirm=None, **options) as sandbox:
            with pytest.raises(aiohttp.ClientConnectionError):
                await caller_of(sandbox).allocate()
            assert committed(sandbox) == done
            assert sandbox.books()["faults"] == {fault: 1}
    assert not [record for record in caplog.records if record.name.startswith("aiohttp")]


async def test_slow_answer_has_committed_long_before_it_comes(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, slow_after_commit=1, slow_seconds=3600) as sandbox:
        asking = asyncio.ensure_future(caller_of(sandbox).allocate())
        await sandbox.until(lambda: committed(sandbox) == 1)
        assert not asking.done()
    assert (await asking).status == 201  # closing ends every pause


async def test_slow_answer_comes_in_the_end(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None, slow_after_commit=1, slow_seconds=0.001, latency="0.001:0.002") as sandbox:
        assert (await caller_of(sandbox).allocate()).status == 201


async def test_reads_are_never_hit_after_commit(caller_of: CallerOf) -> None:
    async with OriginalSandbox(p503_after_commit=1, drop_after_commit=1, slow_after_commit=1) as sandbox:
        assert (await caller_of(sandbox).call("GET", "/reward/764893807463")).status == 200


async def test_faults_are_switched_while_it_runs(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        statuses = []
        for number, chance in enumerate((0, 1, 0)):
            sandbox.options.p503 = chance
            statuses.append((await caller.allocate(f"nonce_{number}")).status)
        assert statuses == [201, 503, 201]


async def test_script_says_what_happens_to_the_next_writes(caller_of: CallerOf) -> None:
    async with OriginalSandbox(confirm=None) as sandbox:
        caller = caller_of(sandbox)
        sandbox.script("p503_after_commit", "none", "p429")
        assert (await caller.call("GET", "/reward/764893807463")).status == 200
        assert [(await caller.allocate("nonce_1")).status for _ in range(4)] == [503, 400, 429, 400]
        sandbox.script("p503", method="GET", path="/balance")
        assert (await caller.call("GET", "/reward/764893807463")).status == 200
        assert (await caller.call("GET", "/reward/balance?reward_uid=764893807463&user_uid=1")).status == 503
        assert sandbox.books()["faults"] == {"p503_after_commit": 1, "p429": 1, "p503": 1}


def test_script_refuses_faults_that_cannot_hit_a_request() -> None:
    with pytest.raises(ValueError, match="webhook_loss"):
        FaultPlan(SandboxOptions(), 0).script("webhook_loss")


def hits(seed: int, **options: Any) -> list[str]:
    plan = FaultPlan(SandboxOptions(**options), seed)
    return [plan.for_request("POST", "/") for _ in range(300)]


def test_equal_seeds_give_equal_faults() -> None:
    chances = {"p503": 0.1, "drop_after_commit": 0.1, "p429": 0.05}
    assert hits(7, **chances) == hits(7, **chances)
    assert hits(7, **chances) != hits(8, **chances)


def test_switching_one_fault_on_does_not_change_another() -> None:
    alone, beside = hits(7, p503_after_commit=0.1), hits(7, p503_after_commit=0.1, drop_after_commit=0.3)
    assert [fault == "p503_after_commit" for fault in alone] == [fault == "p503_after_commit" for fault in beside]


def test_faults_hit_about_as_often_as_they_should_and_are_counted() -> None:
    plan = FaultPlan(SandboxOptions(p503=0.2), 1)
    met = [plan.for_request("GET", "/") for _ in range(10_000)]
    assert met.count("p503") == plan.counts["p503"]
    assert 1800 < plan.counts["p503"] < 2200


@pytest.mark.slow
async def test_equal_seeds_give_equal_books(caller_of: CallerOf) -> None:
    chances: dict[str, Any] = {"fail_rate": 0.3, "fail_then_done": 0.3, "p503": 0.2}
    stories = []
    for _ in range(2):
        async with OriginalSandbox(confirm=(0, 0), seed=5, clock=lambda: 1.7e9, **chances) as sandbox:
            caller = caller_of(sandbox)
            for number in range(40):
                await caller.allocate(f"nonce_{number}")
            await sandbox.quiet()
            stories.append(sandbox.books())
    assert stories[0] == stories[1]
    assert set(chances) == set(stories[0]["faults"])


async def test_another_seed_gives_other_uids(caller_of: CallerOf) -> None:
    uids = set()
    for seed in range(3):
        async with OriginalSandbox(seed=seed) as sandbox:
            uids.add((await caller_of(sandbox).allocate()).data["uid"])
    assert len(uids) == 3
    assert all(len(uid) == 12 and uid.isdecimal() for uid in uids)


def test_impossible_options_are_refused() -> None:
    impossible: list[dict[str, Any]] = [
        {"p503": 2},
        {"p503": float("nan")},
        {"slow_seconds": -1},
        {"confirm": "3:1"},
        {"webhook_body": "full,none"},
        {"webhook_body": ()},
        {"page_size": 2.5},
        {"known_nonce_status": 500},
        {"read_path": "any"},
    ]
    errors = []
    for options in impossible:
        with pytest.raises(ValueError) as caught:
            OriginalOptions(**options)
        errors.append(str(caught.value))
    said("options: impossible values", "\n".join(errors))
    with pytest.raises(ValueError):
        OriginalOptions(confirm="soon")  # type: ignore[arg-type]


def test_impossible_options_are_refused_while_it_runs_too() -> None:
    options = OriginalOptions()
    with pytest.raises(ValueError, match="p503"):
        options.p503 = -0.1
    assert options.p503 == 0


@pytest.mark.parametrize(
    ("given", "read"),
    [("0.5:3", (0.5, 3.0)), ("2", (2.0, 2.0)), (1, (1.0, 1.0)), ((0, 1), (0.0, 1.0)), ("never", None), (None, None)],
)
def test_spans_are_read_in_every_form(given: Any, read: Any) -> None:
    assert read_span(given) == read
