"""A refused row counts as not paid once look-ups a day apart, asked of complete lists, did not show it."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from aioresponses import aioresponses
from attrs import evolve

from original_async import OriginalClient
from payouts.audit.absence import is_proven, look_up, was_refused
from payouts.request_budget import RequestBudget
from payouts.states import Entry, State
from rewards_core.errors import OutcomeUnknown, RateLimited
from tests.payouts.by_hand_kit import (
    BULK,
    DAY,
    NOBODY,
    NOW,
    Clock,
    Lists,
    clock,
    decided,
    lead,
    lists,
    raw,
    refuse,
    refused,
    row_of,
    states,
)
from tests.payouts.command_kit import REWARD, Call, entries, records
from tests.payouts.payout_kit import token_row
from tests.texts import said
from tests.virtual_time import virtual_time

__all__ = ["clock", "lists"]


@pytest.mark.parametrize("status", [400, 404, 409, 422, 410])
def test_a_row_whose_last_answer_was_a_refusal_counts_as_refused(folder: Path, status: int) -> None:
    refuse(folder, "r1", status=status)
    assert was_refused(entries(folder)["r1"])


@pytest.mark.parametrize("status", [401, 403, 408, 423, 425, 429, 500, 503, 302, None])
def test_a_row_whose_last_answer_says_nothing_about_it_does_not(folder: Path, status: int | None) -> None:
    lead(folder, [token_row("r1")], State.UNKNOWN, OutcomeUnknown("no answer", status=status))
    assert not was_refused(entries(folder)["r1"])


def test_the_first_look_up_settles_nothing_and_says_from_when_on_it_can(
    call: Call, folder: Path, lists: Lists, clock: Clock
) -> None:
    refuse(folder, "r1", "r2")
    result = call(*BULK, "--yes", env=NOBODY)
    assert (result.exit_code, states(folder), decided(folder)) == (4, {"r1": "unknown", "r2": "unknown"}, [])
    (summary,) = records(result)
    assert (summary["waiting"], summary["settled"], summary["settle_after"]) == (2, 0, "2026-11-28T03:41:00.000+00:00")
    assert [(row.absent_since, row.absent_at) for row in entries(folder).values()] == [(NOW, NOW)] * 2


@pytest.mark.parametrize(("later", "code", "state"), [(DAY - 1, 4, "unknown"), (DAY, 0, "rejected")])
def test_a_day_has_to_pass_between_two_look_ups(
    call: Call, folder: Path, lists: Lists, clock: Clock, later: float, code: int, state: str
) -> None:
    refuse(folder, "r1", "r2")
    assert call(*BULK, "--yes", env=NOBODY).exit_code == 4
    clock.now += later
    assert call(*BULK, "--yes", env=NOBODY).exit_code == code
    assert states(folder) == {"r1": state, "r2": state}


@pytest.mark.slow
@pytest.mark.parametrize("days", [1, 400])
def test_a_clock_that_was_set_forward_makes_no_refusal_final(
    call: Call, folder: Path, lists: Lists, clock: Clock, days: int
) -> None:
    refuse(folder, "r1")
    assert call(*BULK, "--yes", env=NOBODY).exit_code == 4
    clock.set_by = days * DAY
    clock.now += 60
    result = call(*BULK, "--yes", env=NOBODY)
    assert (result.exit_code, states(folder)) == (4, {"r1": "unknown"})
    after = datetime.fromisoformat(records(result)[-1]["settle_after"]).timestamp()
    assert 0 <= after - (clock() + DAY - 60) < 60
    clock.now += DAY - 120
    assert call(*BULK, "--yes", env=NOBODY).exit_code == 4
    clock.now += 120
    assert call(*BULK, "--yes", env=NOBODY).exit_code == 0
    assert states(folder) == {"r1": "rejected"}


@pytest.mark.slow
def test_evidence_is_no_older_once_a_clock_that_was_set_is_believed(call: Call, folder: Path, lists: Lists, clock: Clock) -> None:
    refuse(folder, "r1")
    assert call(*BULK, "--yes", env=NOBODY).exit_code == 4
    clock.set_by = 3 * DAY
    call(*BULK, "--yes", env=NOBODY)
    clock.now += DAY - 60
    with raw(folder) as database:  # the evidence of a row that was looked up for the first time a minute ago
        database.execute("UPDATE rows SET absent_since = ?, absent_at = ?", (clock.now, clock.now))
    clock.now += 60
    assert call(*BULK, "--yes", env=NOBODY).exit_code == 4
    clock.now += DAY - 120
    assert call(*BULK, "--yes", env=NOBODY).exit_code == 4
    clock.now += 60
    assert call(*BULK, "--yes", env=NOBODY).exit_code == 0


def test_what_is_settled_carries_its_evidence(call: Call, folder: Path, lists: Lists, clock: Clock) -> None:
    refuse(folder, "r1", status=404)
    call(*BULK, "--yes", env=NOBODY)
    clock.now += DAY + 60
    result = call(*BULK, "--yes", "--note=ticket 4711", env=NOBODY)
    evidence = (
        "refused with HTTP 404; complete look-ups on 27 November 2026, 03:40 UTC and 28 November 2026, 03:41 UTC showed nothing"
    )
    resolved, summary = records(result)
    assert (resolved["id"], resolved["state"]) == ("r1", "rejected")
    assert (resolved["note"], resolved["evidence"]) == ("ticket 4711", evidence)
    assert (summary["settled"], summary["waiting"]) == (1, 0)
    row = entries(folder)["r1"]
    assert (row.settled_by, row.note, row.settled_at) == ("hand", "ticket 4711", NOW + DAY + 60)
    (decision,) = decided(folder)
    assert (decision.kind, decision.was, decision.became) == ("resolve", "unknown", "rejected")
    assert (decision.note, decision.evidence) == ("ticket 4711", evidence)


@pytest.mark.slow
def test_what_is_settled_without_a_word_shows_its_evidence_and_no_advice_that_no_longer_holds(
    call: Call, folder: Path, lists: Lists, clock: Clock
) -> None:
    refuse(folder, "r1", status=404)
    before = row_of(folder, "r1")
    call(*BULK, "--yes", env=NOBODY)
    clock.now += DAY + 60
    assert call(*BULK, "--yes", env=NOBODY).exit_code == 0
    (decision,) = decided(folder)
    row = entries(folder)["r1"]
    assert (decision.note, row.note, row.problem, row.answer) == (None, None, decision.evidence, 404)
    listed = call("status", "--json", "--all")
    told = next(each for each in records(listed) if each["event"] == "row")
    assert (told["answer"], told["absent_since"]) == (404, "2026-11-27T03:40:30.000+00:00")
    assert told["absent_at"] == "2026-11-28T03:41:30.000+00:00"
    said("status: a row that was settled in bulk", call("status", "--text").output)
    assert call("decisions", "--text").output.count("showed nothing") == 1
    assert call("resolve", "r1", "--undo", "--note=no").exit_code == 0
    assert row_of(folder, "r1")["problem"] == before["problem"]


@pytest.mark.slow
def test_a_run_in_between_starts_the_day_again(call: Call, folder: Path, lists: Lists, clock: Clock) -> None:
    refuse(folder, "r1")
    call(*BULK, "--yes", env=NOBODY)
    with raw(folder) as database:
        database.execute("UPDATE campaigns SET run_at = ?", (NOW + DAY,))
    clock.now += DAY + 60
    assert call(*BULK, "--yes", env=NOBODY).exit_code == 4
    clock.now += DAY - 1
    assert call(*BULK, "--yes", env=NOBODY).exit_code == 4
    clock.now += 1
    assert call(*BULK, "--yes", env=NOBODY).exit_code == 0


def test_evidence_from_before_a_run_is_none(folder: Path) -> None:
    refuse(folder, "r1")
    row = evolve(entries(folder)["r1"], absent_since=NOW, absent_at=NOW + DAY)
    assert (is_proven(row, None), is_proven(row, NOW - 1), is_proven(row, NOW), is_proven(row, NOW + 1)) == (
        True,
        True,
        False,
        False,
    )


@virtual_time
async def test_a_look_up_counts_from_when_it_is_asked() -> None:
    times: list[float] = []

    def clock() -> float:
        return NOW + asyncio.get_running_loop().time()

    async def shows_nothing(rows: Sequence[Entry]) -> dict[int, Any]:
        if problems:
            raise problems.pop()
        return {}

    async def absent(_: object, at: float) -> None:
        times.append(at)

    rows = [
        Entry(number=n, id=f"r{n}", line=n, recipient=f"u{n}", item=REWARD, amount="1", key="k", state=State.UNKNOWN, answer=400)
        for n in (1, 2)
    ]
    problems = [RateLimited("slower", retry_after=500.0)]
    budget = RequestBudget(rate=0.001)
    await look_up(shows_nothing, rows[:1], budget=budget, absent=absent, looked=lambda _: None, clock=clock)
    await look_up(shows_nothing, rows[1:], budget=budget, absent=absent, looked=lambda _: None, clock=clock)
    assert times == [NOW + 1000, NOW + 2000]


@virtual_time
async def test_a_vendor_that_wants_fewer_requests_for_good_ends_the_look_ups() -> None:
    asked: list[str] = []

    async def slower(rows: Sequence[Entry]) -> dict[int, Any]:
        asked.append(rows[0].recipient)
        raise RateLimited("slower", retry_after=1.0)

    async def absent(_: object, __: float) -> None:
        raise AssertionError

    rows = [
        Entry(number=n, id=f"r{n}", line=n, recipient=f"u{n}", item=REWARD, amount="1", key="k", state=State.UNKNOWN, answer=400)
        for n in range(40)
    ]
    budget = RequestBudget(rate=None)
    found = await look_up(slower, rows, budget=budget, absent=absent, looked=lambda _: None, clock=lambda: NOW)
    assert isinstance(found.problem, RateLimited)
    assert set(Counter(asked).values()) == {10}
    assert len(set(asked)) <= 10


def test_a_list_that_shows_one_row_and_is_incomplete_proves_nothing_about_another(
    call: Call, folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OriginalClient, "get_reward", lambda _, uid: Lists().reward(uid))
    lead(folder, [token_row(f"r{n}", to_user_uid="32", amount=str(n)) for n in (1, 2)], State.UNKNOWN, refused())
    key = entries(folder)["r1"].key
    shown = {"uid": "9001", "status": "pending", "reward_uid": REWARD, "to_user_uid": "32", "amount": "1", "nonce": key}
    with aioresponses() as wire:
        wire.get(re.compile(r".*user_uid=32.*"), payload={"success": True, "data": [shown], "count": 2}, repeat=True)
        result = call(*BULK, "--yes", env=NOBODY)
    assert {each["reason"] for each in records(result) if each["event"] == "kept"} == {"not_looked_up"}
    assert (result.exit_code, [row.absent_at for row in entries(folder).values()]) == (7, [None, None])
