"""Rows settled by hand: one by one, in bulk on the vendor's own lists, and put back as they were."""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aioresponses import aioresponses
from attrs import evolve

from original_async import Allocation, OriginalClient
from payouts.audit.absence import is_proven, look_up, was_refused
from payouts.ledger.sqlite import Ledger
from payouts.request_budget import RequestBudget
from payouts.states import Entry, State
from rewards_core.errors import Forbidden, OutcomeUnknown, RateLimited, ServerFailed, Unauthorized
from rewards_core.operations import OperationStatus
from tests.payouts.audit_kit import hold as hold_at
from tests.payouts.audit_kit import key_of, rows_of
from tests.payouts.audit_kit import lead as lead_to
from tests.payouts.by_hand_kit import DAY, NOBODY, decided, lead, prepare, raw, refused, row_of
from tests.payouts.command_kit import HEADER, REWARD, Call, entries, for_people, records, run_of
from tests.payouts.payout_kit import coin_row, token_row
from tests.payouts.process_kit import books, enkash_at, free_port, original_at, playing, sandbox
from tests.texts import said
from tests.virtual_time import virtual_time
from vendor_sandboxes import OriginalSandbox

NOW = 1_795_750_830.0  # 27 November 2026, 03:40:30 UTC
BULK = ("resolve", "--unknown", "--refused", "--as=rejected")


class Clock:
    """What the machine takes for the time; `set_by` is how far somebody set its clock."""

    def __init__(self) -> None:
        self.now = NOW
        self.set_by = 0.0

    def __call__(self) -> float:
        return self.now + self.set_by


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("time.time", clock)
    monkeypatch.setattr("payouts.audit.absence.uptime", lambda: clock.now)
    return clock


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sits before the terminal."""
    monkeypatch.setattr("payouts.cli.confirmation.has_terminal", lambda: True)
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)


class Lists:
    """What the vendor lists, by user: nothing, unless a test says otherwise."""

    def __init__(self) -> None:
        self.of: dict[str, list[Any]] = {}
        self.problems: dict[str, Exception] = {}
        self.asked: list[str] = []
        self.rewards: list[str] = []

    async def reward(self, uid: str) -> None:
        self.rewards.append(uid)

    async def __call__(self, user: str, *, before_page: object = None, timeout: float | None = None) -> list[Any]:
        self.asked.append(user)
        if user in self.problems:
            raise self.problems[user]
        return self.of.get(user, [])


@pytest.fixture
def lists(monkeypatch: pytest.MonkeyPatch) -> Lists:
    found = Lists()
    monkeypatch.setattr(OriginalClient, "get_allocations_by_user_uid", lambda _, user, **more: found(user, **more))
    monkeypatch.setattr(OriginalClient, "get_reward", lambda _, uid: found.reward(uid))
    return found


def refuse(folder: Path, *rows: str, status: int = 400) -> None:
    """Make rows that may have been sent in an outage and were refused afterwards."""
    lead(folder, [token_row(row) for row in rows], State.UNKNOWN, refused(status))


def hold(folder: Path, row_id: str) -> Any:
    """Return the allocation that the vendor would list for a row."""
    entry = entries(folder)[row_id]
    return Allocation(
        uid=entry.uid or "9001",
        status=OperationStatus.PENDING,
        reward_uid=entry.item,
        to_user_uid=entry.recipient,
        amount=Decimal(entry.amount or 0),
        nonce=entry.key,
    )


def states(folder: Path) -> dict[str, str]:
    return {row_id: entry.state.value for row_id, entry in entries(folder).items()}


# by their ids


def test_many_rows_are_settled_by_hand_with_one_note(call: Call, folder: Path) -> None:
    prepare(folder, State.UNKNOWN, rows=3)
    result = call("resolve", "r1", "r3", "r1", "--as=done", "--note=ticket 4711")
    assert [(record["id"], record["state"]) for record in records(result)] == [("r1", "done"), ("r3", "done")]
    assert [(entry.state, entry.note) for entry in entries(folder).values()] == [
        (State.DONE, "ticket 4711"),
        (State.UNKNOWN, None),
        (State.DONE, "ticket 4711"),
    ]


def test_one_row_that_cannot_be_settled_by_hand_leaves_all_as_they_are(call: Call, folder: Path) -> None:
    prepare(folder, State.UNKNOWN)
    assert call("resolve", "r1", "--as=done", "--note=seen").exit_code == 0
    result = call("resolve", "r2", "r1", "--as=done", "--note=seen")
    assert (result.exit_code, states(folder)["r2"], len(decided(folder))) == (6, "unknown", 1)
    said("resolve: a row that is done", result.output)
    assert call("resolve", "r2", "r9", "--as=done", "--note=seen").exit_code == 5


@pytest.mark.parametrize("to", ["done", "unknown"])
def test_a_row_that_was_wrongly_called_rejected_is_put_right_by_hand(call: Call, folder: Path, to: str) -> None:
    prepare(folder, State.REJECTED)
    (record,) = records(call("resolve", "r1", f"--as={to}", "--note=seen in the console"))
    assert (record["id"], record["state"]) == ("r1", to)
    row = entries(folder)["r1"]
    assert (row.state, row.note) == (State(to), "seen in the console")


@pytest.mark.parametrize("state", [State.REJECTED, State.UNKNOWN])
def test_a_row_is_not_settled_as_what_it_is(call: Call, folder: Path, state: State) -> None:
    prepare(folder, state)
    assert call("resolve", "r1", f"--as={state}", "--note=seen").exit_code == 6


def test_coins_are_not_looked_up_again(call: Call, folder: Path) -> None:
    lead(folder, [coin_row("r1")], State.REJECTED, TimeoutError("no such event"), vendor="enkash")
    result = call("resolve", "r1", "--as=unknown", "--note=seen")
    assert (result.exit_code, states(folder)) == (6, {"r1": "rejected"})
    said("resolve: coins as unknown", result.output)


CONTRADICTORY = (
    "",
    "r1",
    "r1 --as=done",
    "r1 --as=done --note=",
    "r1 --as=done --undo --note=x",
    "--undo --note=x",
    "r1 --as=done --note=x --yes",
    "--unknown --as=rejected",
    "--refused --as=rejected",
    "r1 --unknown --refused --as=rejected",
    "--unknown --refused --undo --note=x",
    "--unknown --refused",
    "--unknown --refused --as=done",
)


def test_contradictory_options_change_nothing(call: Call, folder: Path) -> None:
    refuse(folder, "r1")
    before = row_of(folder, "r1")
    told = []
    for options in CONTRADICTORY:
        result = call("resolve", *options.split())
        assert (result.exit_code, row_of(folder, "r1"), decided(folder)) == (2, before, []), options
        told.append(f"{options or 'nothing'}: {result.output.strip()}")
    said("resolve: contradictory options", "\n".join(told))


def test_a_ledger_in_use_is_not_touched(call: Call, folder: Path) -> None:
    prepare(folder, State.UNKNOWN)

    async def meanwhile(*what: str) -> Any:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="diwali-2026"):
            return await asyncio.to_thread(call, *what, env=NOBODY)

    for what in (("resolve", "r1", "--as=done", "--note=x"), ("resolve", "r1", "--undo", "--note=x"), (*BULK, "--yes")):
        assert asyncio.run(meanwhile(*what)).exit_code == 7


# decisions that are taken back


@pytest.mark.parametrize("state", [State.UNKNOWN, State.REJECTED])
def test_a_settlement_is_taken_back_to_the_last_detail(call: Call, folder: Path, state: State) -> None:
    refuse(folder, "r1", "r2")
    if state is State.REJECTED:
        assert call("resolve", "r1", "r2", "--as=rejected", "--note=an older one").exit_code == 0
    before = row_of(folder, "r1")
    assert call("resolve", "r1", "r2", "--as=done", "--note=seen").exit_code == 0
    result = call("resolve", "r1", "--undo", "--note=it was another user's")
    assert (result.exit_code, records(result)[0]["state"]) == (0, state.value)
    assert row_of(folder, "r1") == before
    assert states(folder) == {"r1": state.value, "r2": "done"}


def test_a_retry_is_taken_back_as_long_as_its_key_was_not_sent(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lead(folder, [token_row("r1")], State.REJECTED, refused())
    before = row_of(folder, "r1")
    retry_all(call, monkeypatch)
    renewed = row_of(folder, "r1")
    assert (renewed["state"], renewed["key"] != before["key"], len(renewed["retired"])) == ("planned", True, 1)
    assert (before["answer"], renewed["answer"]) == (400, None)
    result = call("resolve", "r1", "--undo", "--note=wrong campaign")
    assert (result.exit_code, records(result)[0]["key"]) == (0, before["key"])
    assert row_of(folder, "r1") == before
    retry_all(call, monkeypatch)
    assert row_of(folder, "r1")["key"] == renewed["key"]


def test_decisions_are_taken_back_one_after_the_other_and_each_once(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(folder, State.UNKNOWN, rows=1)
    before = row_of(folder, "r1")
    assert call("resolve", "r1", "--as=rejected", "--note=first").exit_code == 0
    retry_all(call, monkeypatch)
    for state in ("rejected", "unknown"):
        assert records(call("resolve", "r1", "--undo", "--note=no"))[0]["state"] == state
    assert row_of(folder, "r1") == before
    result = call("resolve", "r1", "--undo", "--note=no")
    assert result.exit_code == 6
    said("resolve: nothing to take back", result.output)
    assert [(each.kind, each.undone_by) for each in decided(folder)] == [
        ("resolve", 4),
        ("retry", 3),
        ("undo", None),
        ("undo", None),
    ]


def retry_all(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    async def find_allocation(*_: object, **__: object) -> None:
        return None

    monkeypatch.setattr(OriginalClient, "find_allocation", find_allocation)
    assert call("retry", "--state=rejected", "--yes", env=NOBODY).exit_code == 0


def test_a_retry_whose_key_was_sent_is_not_taken_back(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(folder, State.REJECTED, rows=1)
    retry_all(call, monkeypatch)

    async def send(*then: State) -> None:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="diwali-2026") as ledger:
            entry = await ledger.find("r1")
            assert entry is not None
            for state in then:
                entry = await ledger.move(entry, state)

    asyncio.run(send(State.SENT))
    before = row_of(folder, "r1")
    result = call("resolve", "r1", "--undo", "--note=no")
    assert (result.exit_code, row_of(folder, "r1")) == (6, before)
    said("resolve: a retry that was sent", result.output)
    asyncio.run(send(State.PLANNED))  # it never left
    assert call("resolve", "r1", "--undo", "--note=no").exit_code == 0


def test_a_row_that_a_run_may_have_sent_again_does_not_become_rejected_by_an_undo(call: Call, folder: Path) -> None:
    prepare(folder, State.REJECTED, rows=1)
    assert call("resolve", "r1", "--as=unknown", "--note=look again").exit_code == 0
    asyncio.run(begin_a_run(folder))
    before = row_of(folder, "r1")
    result = call("resolve", "r1", "--undo", "--note=no")
    assert (result.exit_code, row_of(folder, "r1")) == (6, before)
    said("resolve: a run came between", result.output)


async def begin_a_run(folder: Path) -> None:
    async with Ledger(folder / "payouts.db", vendor="original", campaign="diwali-2026") as ledger, ledger.one_run():
        pass


def test_a_row_that_moved_since_and_came_back_is_not_taken_back(call: Call, folder: Path) -> None:
    prepare(folder, State.UNKNOWN, rows=1)
    assert call("resolve", "r1", "--as=rejected", "--note=first").exit_code == 0

    async def moves() -> None:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="diwali-2026") as ledger:
            entry = await ledger.find("r1")
            assert entry is not None
            entry = await ledger.move(entry, State.UNKNOWN, settled_by="audit", note="the vendor holds it")
            await ledger.move(entry, State.REJECTED, settled_by="hand", note="after all")

    asyncio.run(moves())
    with raw(folder) as database:  # the last decision is gone, so that the first one is the last
        database.execute("DELETE FROM decisions WHERE number > 1")
    before = row_of(folder, "r1")
    assert call("resolve", "r1", "--undo", "--note=no").exit_code == 6
    assert row_of(folder, "r1") == before


def test_all_rows_are_taken_back_or_none(call: Call, folder: Path) -> None:
    prepare(folder, State.UNKNOWN, rows=2)
    assert call("resolve", "r1", "--as=done", "--note=seen").exit_code == 0
    assert call("resolve", "r1", "r2", "--undo", "--note=no").exit_code == 6
    assert states(folder) == {"r1": "done", "r2": "unknown"}
    assert [each.kind for each in decided(folder)] == ["resolve"]


def test_for_people_what_was_taken_back_is_told(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(folder, State.UNKNOWN, rows=1)
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    done = call("resolve", "r1", "--as=done", "--note=seen in the console, ticket 4711")
    said("resolve: done, and taken back", done.output + call("resolve", "r1", "--undo", "--note=another user's").output)


# refused rows in bulk


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


def test_a_row_that_was_settled_by_hand_shows_what_was_said_of_it_last(call: Call, folder: Path) -> None:
    refuse(folder, "r1")
    assert call("resolve", "r1", "--as=rejected", "--note=EnKash's list of today").exit_code == 0
    said("status: a row that was settled by hand", call("status", "--text").output)


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


def test_a_row_that_the_vendor_holds_is_left_alone(call: Call, folder: Path, lists: Lists, clock: Clock) -> None:
    refuse(folder, "r1", "r2")
    call(*BULK, "--yes", env=NOBODY)
    clock.now += DAY
    lists.of["user-r1"] = [hold(folder, "r1")]
    result = call(*BULK, "--yes", env=NOBODY)
    assert (result.exit_code, states(folder)) == (4, {"r1": "unknown", "r2": "rejected"})
    kept, *_, summary = records(result)
    assert (kept["event"], kept["id"], kept["reason"], summary["held"]) == ("kept", "r1", "held", 1)


def test_a_row_whose_list_cannot_be_had_now_is_left_alone_whatever_was_seen_before(
    call: Call, folder: Path, lists: Lists, clock: Clock
) -> None:
    refuse(folder, "r1", "r2")
    call(*BULK, "--yes", env=NOBODY)
    clock.now += DAY
    with raw(folder) as database:  # as if an audit had seen it just now
        database.execute("UPDATE rows SET absent_at = ?", (clock.now,))
    lists.problems["user-r1"] = ServerFailed("503")
    result = call(*BULK, "--yes", env=NOBODY)
    assert (result.exit_code, states(folder)) == (7, {"r1": "unknown", "r2": "rejected"})
    kept, *_, summary = records(result)
    assert (kept["id"], kept["reason"], summary["not_looked_up"], summary["settled"]) == ("r1", "not_looked_up", 1, 1)


@pytest.mark.parametrize("problem", [Unauthorized("credentials refused (HTTP 401)"), Forbidden("not allowed (HTTP 403)")])
def test_refused_credentials_end_the_command_at_once(
    call: Call, folder: Path, lists: Lists, clock: Clock, problem: Exception
) -> None:
    refuse(folder, *(f"r{n}" for n in range(40)))
    lists.problems = {f"user-r{n}": problem for n in range(40)}
    result = call(*BULK, "--yes", "--rate=0", env=NOBODY)
    assert (result.exit_code, len(lists.asked) <= 10, set(states(folder).values())) == (7, True, {"unknown"})
    said(f"resolve: {problem}", result.output)


def test_one_list_after_the_other_that_fails_ends_the_command(call: Call, folder: Path, lists: Lists, clock: Clock) -> None:
    refuse(folder, *(f"r{n}" for n in range(40)))
    lists.problems = {f"user-r{n}": ServerFailed("HTTP 503") for n in range(40)}
    result = call(*BULK, "--yes", "--rate=0", env=NOBODY)
    assert (result.exit_code, len(lists.asked) < 20, set(states(folder).values())) == (7, True, {"unknown"})


def test_one_list_serves_all_rows_of_a_recipient(call: Call, folder: Path, lists: Lists, clock: Clock) -> None:
    lead(folder, [token_row(f"r{n}", to_user_uid=f"user-{n % 2}", amount=str(n + 1)) for n in range(6)], State.UNKNOWN, refused())
    assert call(*BULK, "--yes", env=NOBODY).exit_code == 4
    assert sorted(lists.asked) == ["user-0", "user-1"]


def test_lists_that_do_not_show_a_row_that_was_accepted_prove_nothing(
    call: Call, folder: Path, lists: Lists, clock: Clock
) -> None:
    lead(folder, [token_row("paid")], State.DONE, refused())
    refuse(folder, "r1")
    result = call(*BULK, "--yes", env=NOBODY)
    assert (result.exit_code, entries(folder)["r1"].absent_at) == (6, None)
    said("resolve: another app's lists", result.output)
    lists.of["user-paid"] = [hold(folder, "paid")]
    assert call(*BULK, "--yes", env=NOBODY).exit_code == 4


def test_where_no_row_is_known_to_the_vendor_the_key_must_see_the_rewards(call: Call, folder: Path, clock: Clock) -> None:
    with playing(OriginalSandbox(rewards=["112144981245"])) as vendor:  # the books of another app
        lead(folder, [token_row("r1")], State.UNKNOWN, refused(), target=vendor.url)
        env = original_at(vendor.url)
        result = call(*BULK, "--yes", env=env)
        clock.now += DAY
        assert (result.exit_code, call(*BULK, "--yes", env=env).exit_code) == (6, 6)
        assert (states(folder), entries(folder)["r1"].absent_at) == ({"r1": "unknown"}, None)
        said("resolve: another app's rewards", result.output)
        vendor.state.add_reward(REWARD, "deployed")
        assert call(*BULK, "--yes", env=env).exit_code == 4


def test_a_row_of_another_campaign_does_not_vouch_for_the_key(call: Call, folder: Path, clock: Clock) -> None:
    with playing(OriginalSandbox(rewards=["112144981245"])) as vendor:
        other = {"reward_uid": "112144981245"}
        uid = hold_at(vendor, "user-paid", key_of("paid", "holi"), reward="112144981245")
        lead_to(folder / "payouts.db", vendor.url, {"paid": State.DONE}, campaign="holi", uids={"paid": uid}, **other)
        lead(folder, [token_row("r1")], State.UNKNOWN, refused(), target=vendor.url)
        result = call(*BULK, "--campaign=diwali-2026", "--yes", env=original_at(vendor.url))
        assert (result.exit_code, rows_of(folder / "payouts.db")["r1"].absent_at) == (6, None)


def test_of_many_rewards_some_are_asked_about(call: Call, folder: Path, lists: Lists, clock: Clock) -> None:
    lead(folder, [token_row(f"r{n}", reward_uid=str(7000 + n // 2)) for n in range(60)], State.UNKNOWN, refused())
    assert call(*BULK, "--yes", "--rate=0", env=NOBODY).exit_code == 4
    assert lists.rewards == [str(7000 + n) for n in range(20)]


def test_another_place_than_the_campaigns_is_not_asked(call: Call, folder: Path, lists: Lists, clock: Clock) -> None:
    lead(folder, [token_row("r1")], State.UNKNOWN, refused(), target="https://api.getoriginal.com/v1")
    assert (call(*BULK, "--yes", env=NOBODY).exit_code, lists.asked) == (7, [])


def test_an_older_copy_of_the_ledger_settles_nothing(
    call: Call, folder: Path, lists: Lists, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(folder, "r1")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    assert (call(*BULK, "--yes", env={**NOBODY, "XDG_STATE_HOME": str(folder)}).exit_code, lists.asked) == (7, [])


def test_only_unknown_rows_that_were_refused_are_looked_up(call: Call, folder: Path, lists: Lists, clock: Clock) -> None:
    prepare(folder, State.UNKNOWN, rows=1)
    result = call(*BULK, "--yes", env=NOBODY)
    assert (result.exit_code, lists.asked) == (6, [])
    said("resolve: no refused rows", result.output)


def test_coins_cannot_be_looked_up_in_bulk(call: Call, folder: Path) -> None:
    lead(folder, [coin_row("r1")], State.UNKNOWN, refused(), vendor="enkash")
    result = call(*BULK, "--yes", env=enkash_at("http://127.0.0.1:1", Path(os.environ["XDG_STATE_HOME"])))
    assert (result.exit_code, states(folder)) == (6, {"r1": "unknown"})
    said("resolve: coins in bulk", result.output)


def test_without_a_terminal_and_without_yes_nobody_is_asked_and_nothing_changes(
    call: Call, folder: Path, lists: Lists, clock: Clock
) -> None:
    refuse(folder, "r1")
    before = row_of(folder, "r1")
    assert (call(*BULK, env=NOBODY).exit_code, lists.asked, row_of(folder, "r1")) == (2, [], before)


@pytest.mark.slow
def test_a_person_types_the_campaigns_name_once_for_all_rows(
    call: Call, folder: Path, lists: Lists, clock: Clock, somebody: None
) -> None:
    rows = [token_row(f"r{n}", to_user_uid=f"user-{n % 40}", amount="1453.50875") for n in range(600)]
    lead(folder, rows, State.UNKNOWN, refused())
    first = call(*BULK, "--rate=0", env=NOBODY)
    assert first.exit_code == 4
    clock.now += DAY
    no = call(*BULK, "--rate=0", text="diwali\n", env=NOBODY)
    assert (no.exit_code, set(states(folder).values()), decided(folder)) == (6, {"unknown"}, [])
    yes = call(*BULK, "--rate=0", text="diwali-2026\n", env=NOBODY)
    assert (yes.exit_code, set(states(folder).values()), len(decided(folder))) == (0, {"rejected"}, 600)
    said("resolve: in bulk", f"{first.output}\n{no.output}\n{yes.output}")


def test_rows_that_are_left_alone_are_told_and_not_all_of_them(
    call: Call, folder: Path, lists: Lists, clock: Clock, somebody: None
) -> None:
    refuse(folder, *(f"r{n}" for n in range(30)))
    held = {f"user-r{n}": [hold(folder, f"r{n}")] for n in range(29)}
    lists.of = held
    lists.problems["user-r29"] = ServerFailed("HTTP 503")
    result = call(*BULK, "--rate=0", env=NOBODY)
    assert result.exit_code == 7
    said("resolve: rows that are left alone", result.output)


@pytest.mark.slow
def test_rows_that_were_rejected_before_are_told_from_those_that_were_settled_now(
    call: Call, folder: Path, lists: Lists, clock: Clock
) -> None:
    lead(folder, [token_row("r0")], State.REJECTED, refused())
    refuse(folder, "r1", "r2")
    first = call(*BULK, "--yes", "--text", env=NOBODY)
    clock.now += DAY
    second = call(*BULK, "--yes", "--text", env=NOBODY)
    assert [result.stdout[:1] for result in (first, second)] == ["2", "2"]  # no empty line before the first
    said("resolve: in bulk, where a row was rejected before", first.output + second.output)


@pytest.mark.slow
@pytest.mark.repeats_itself
def test_an_outage_and_then_refusals_leave_no_row_to_be_settled_one_by_one(
    call: Call, folder: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = range(12)
    (folder / "rewards.csv").write_text(HEADER + "".join(f"r{n},{REWARD},{n},1.50\n" for n in users))
    port = free_port()
    env = original_at(f"http://127.0.0.1:{port}/v1")
    with sandbox("original", f"--port={port}", "--p503=1"):
        assert call(*run_of("rewards.csv", "--outage-timeout=0", "--concurrency=12"), env=env).exit_code in {3, 7}
    assert set(states(folder).values()) == {"unknown"}
    with sandbox("original", f"--port={port}", "--strict") as url:
        assert call(*run_of("rewards.csv", "--outage-timeout=0"), env=env).exit_code == 3
        assert {entry.answer for entry in entries(folder).values()} == {404}
        clock.now = entries(folder)["r1"].settled_at or 0.0
        clock.now += 60
        assert call(*BULK, "--yes", env=env).exit_code == 4
        clock.now += DAY
        before = books(url)["requests"]
        assert call(*BULK, "--yes", env=env).exit_code == 0
        assert set(states(folder).values()) == {"rejected"}
        assert sum(books(url)["requests"].values()) - sum(before.values()) <= len(users) + 1
    assert [each.evidence is not None for each in decided(folder)] == [True] * len(users)


def test_an_unknown_row_is_settled_by_hand_with_a_note(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lose() -> None:
        async with Ledger(folder / "payouts.db", vendor="original", campaign="c") as ledger:
            for entry in await ledger.plan([token_row("r1"), token_row("r2"), token_row("r3")]):
                if entry.id != "r3":
                    await ledger.move(await ledger.move(entry, State.SENT), State.UNKNOWN, problem=TimeoutError("no answer"))

    asyncio.run(lose())
    assert call("resolve", "r1", "--as=done", "--note= ").exit_code == 2
    result = call("resolve", "r1", "--as=done", "--note=seen in the console")
    assert records(result) == [{"event": "resolved", "id": "r1", "state": "done", "note": "seen in the console"}]
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    assert call("resolve", "r2", "--as=rejected", "--note=asked them").exit_code == 0
    found = entries(folder)
    assert (found["r1"].state, found["r1"].settled_by, found["r1"].problem) == (State.DONE, "hand", "no answer")
    assert found["r2"].state is State.REJECTED
    assert call("resolve", "r3", "--as=done", "--note=x").exit_code == 6
