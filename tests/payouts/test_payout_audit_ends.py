"""An audit that ends early keeps what it has compared and is continued by the next one."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from original_async import Allocation
from payouts.audit import records as audit_records
from payouts.cli import audit as audit_command
from payouts.cli.audit_display import AuditDisplay
from payouts.ledger.sqlite import Ledger
from payouts.request_budget import BudgetSpent, RequestBudget
from payouts.states import State
from rewards_core.cli.output import Output
from rewards_core.errors import ConnectFailed, RateLimited
from tests.payouts.audit_kit import AUDIT, CAMPAIGN, env, event, hold, key_of, kinds, lead, rows_of, summary, vendor
from tests.payouts.command_kit import Call, for_people, records
from tests.payouts.payout_kit import StubOriginal, Time
from tests.payouts.process_kit import original_at, playing
from tests.texts import said
from tests.virtual_time import virtual_time
from vendor_sandboxes import OriginalSandbox

__all__ = ["env", "vendor"]


def test_an_audit_ends_with_its_budget_and_the_next_one_continues_it(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    names = [f"r{number}" for number in range(5)]
    uids = {row: hold(vendor, f"user-{row}", key_of(row)) for row in names}
    lead(path, vendor.url, dict.fromkeys(names, State.DONE) | {"r0": State.REJECTED}, uids=uids)
    first = call(*AUDIT, "--max-requests=2", env=env)
    assert (first.exit_code, summary(first)["complete"], summary(first)["rows"]) == (4, False, 2)
    assert vendor.request_counts["GET"] == 2
    second = call(*AUDIT, "--max-requests=2", env=env)
    assert (second.exit_code, summary(second)["rows"]) == (4, 4)
    continued = event(second, "continued")
    assert continued is not None
    assert continued["rows"] == 2
    third = call(*AUDIT, env=env)
    assert (third.exit_code, kinds(third), summary(third)["requests"]) == (3, {"r0": "held"}, 5)
    assert (summary(third)["complete"], vendor.request_counts["GET"]) == (True, 5)
    assert event(call(*AUDIT, env=env), "continued") is None


def test_a_small_budget_is_spent_on_the_first_recipient_who_needs_it(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    names = [f"r{number}" for number in range(9)]
    uids = dict.fromkeys(names, "999999999999")
    lead(folder / "payouts.db", vendor.url, dict.fromkeys(names, State.DONE), uids=uids)
    first = call(*AUDIT, "--max-requests=4", env=env)
    assert (first.exit_code, summary(first)["rows"]) == (4, 2)


def test_rows_of_one_recipient_stay_together_where_the_ledger_is_read_page_by_page(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_records, "ROWS_AT_ONCE", 3)
    path = folder / "payouts.db"
    for user in ("asha", "Asha", "asha-b", "ashab", "bela"):
        names = [f"{user}-{number}" for number in range(4)]
        uids = {row: hold(vendor, user, key_of(row)) for row in names}
        lead(path, vendor.url, dict.fromkeys(names, State.DONE), uids=uids, to_user_uid=user)
    result = call(*AUDIT, env=env)
    assert (result.exit_code, summary(result)["agree"], summary(result)["requests"]) == (0, 20, 5)


def test_a_page_counts_against_the_budget(call: Call, folder: Path) -> None:
    with playing(OriginalSandbox(confirm="never", page_size=2)) as vendor:
        states = dict.fromkeys([f"r{number}" for number in range(6)], State.PLANNED)
        for row in states:
            hold(vendor, "asha", key_of(row))
        lead(folder / "payouts.db", vendor.url, states, to_user_uid="asha")
        env = original_at(vendor.url)
        result = call(*AUDIT, "--max-requests=2", env=env)
        assert (result.exit_code, summary(result)["rows"], vendor.request_counts["GET"]) == (4, 0, 2)
        assert call(*AUDIT, "--max-requests=3", "--apply", env=env).exit_code == 0


def test_an_audit_of_one_campaign_is_not_continued_as_one_of_all(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    lead(path, vendor.url, {"a": State.PLANNED, "z": State.PLANNED})
    lead(path, vendor.url, {"b": State.PLANNED}, campaign="holi")
    hold(vendor, "user-b", key_of("b", "holi"))
    assert call(*AUDIT, f"--campaign={CAMPAIGN}", "--max-requests=1", env=env).exit_code == 4
    result = call(*AUDIT, env=env)
    assert (result.exit_code, kinds(result), event(result, "continued")) == (3, {"b": "held"}, None)
    assert event(call(*AUDIT, f"--campaign={CAMPAIGN}", env=env), "continued") is not None


def test_what_an_earlier_part_left_to_be_applied_is_asked_again(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    lead(path, vendor.url, {"a": State.PLANNED, "b": State.PLANNED})
    hold(vendor, "user-a", key_of("a"))
    assert call(*AUDIT, "--max-requests=1", env=env).exit_code == 4
    result = call(*AUDIT, "--apply", env=env)
    assert (result.exit_code, event(result, "continued"), rows_of(path)["a"].state) == (0, None, State.DONE)


def interrupting(vendor: OriginalSandbox, *numbers: int, user: str = "user-r005") -> None:
    """Have this process interrupted while the vendor is asked for a user's list."""

    class Lists(dict[str, Any]):
        def get(self, asked: str, default: object = None) -> object:
            if asked == user:
                vendor.options.latency = (60.0, 60.0) if len(numbers) > 1 else None
                for number in numbers:
                    os.kill(os.getpid(), number)
            return dict.get(self, asked, default)

    vendor.state.by_user["allocation"] = Lists(vendor.state.by_user["allocation"])


@pytest.mark.slow
@pytest.mark.repeats_itself
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_audit_keeps_what_it_has_compared(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str], number: int
) -> None:
    path = folder / "payouts.db"
    lead(path, vendor.url, dict.fromkeys([f"r{place:03}" for place in range(300)], State.PLANNED))
    interrupting(vendor, number)
    result = call("audit", env=env)
    assert (result.exit_code, summary(result)["complete"]) == (4, False), result.output
    assert 0 < summary(result)["rows"] < 300
    vendor.state.by_user["allocation"] = {}
    result = call(*AUDIT, env=env)
    assert (result.exit_code, summary(result)["agree"], vendor.request_counts["GET"] <= 300 + 10) == (0, 300, True)


@pytest.mark.slow
def test_a_second_interrupt_ends_the_audit_at_once(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    lead(folder / "payouts.db", vendor.url, dict.fromkeys([f"r{place:03}" for place in range(300)], State.PLANNED))
    interrupting(vendor, signal.SIGINT, signal.SIGTERM)
    result = call(*AUDIT, env=env)
    assert (result.exit_code, summary(result)["complete"]) == (4, False), result.output


def test_an_audit_that_cannot_be_shown_ends_and_keeps_what_it_has_compared(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: AuditDisplay) -> None:
        raise BrokenPipeError

    lead(folder / "payouts.db", vendor.url, {"r1": State.PLANNED})
    with monkeypatch.context() as broken_pipe:
        broken_pipe.setattr(AuditDisplay, "begin", broken)
        assert call(*AUDIT, env=env).exit_code == 4
    assert call(*AUDIT, env=env).exit_code == 0


@define
class Unreachable(StubOriginal):
    """A vendor whose calls end in the same way, each time."""

    problem: Exception = field(kw_only=True)
    asked: list[str] = field(factory=list)

    async def __aenter__(self) -> Unreachable:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def get_allocations_by_user_uid(self, user_uid: str, **_: object) -> list[Allocation]:
        self.asked.append(user_uid)
        raise self.problem


def test_a_vendor_that_cannot_be_reached_ends_the_audit(
    call: Call, folder: Path, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lead(folder / "payouts.db", env["ORIGINAL_BASE_URL"], dict.fromkeys([f"r{place:03}" for place in range(50)], State.PLANNED))
    client = Unreachable(problem=ConnectFailed("no connection"))
    monkeypatch.setattr(audit_command, "client_of", lambda *_: client)
    monkeypatch.setattr(Output, "__init__", lambda self, as_json=None: for_people(self))
    result = call(*AUDIT, env=env)
    assert (result.exit_code, len(client.asked) <= 10) == (7, True)
    said("audit: a vendor that cannot be reached", result.stdout + result.stderr)


@virtual_time
async def test_a_vendor_that_wants_fewer_requests_is_asked_again_when_it_said() -> None:
    budget = RequestBudget(rate=None)
    asked_at: list[float] = []
    problems: list[Exception] = [
        RateLimited("slower", retry_after=7.0),
        RateLimited("slower"),
        RateLimited("slower", retry_after=1.0),
    ]

    async def answer() -> str:
        asked_at.append(asyncio.get_running_loop().time())
        if problems:
            raise problems.pop(0)
        return "here"

    assert await budget.call(answer) == "here"
    assert (asked_at, budget.spent) == ([0.0, 7.0, 12.0, 13.0], 4)


@virtual_time
async def test_a_vendor_that_wants_fewer_requests_ten_times_in_a_row_is_left_alone() -> None:
    budget = RequestBudget(rate=None)

    async def slower() -> None:
        raise RateLimited("slower", retry_after=2.0)

    with pytest.raises(RateLimited):
        await budget.call(slower)
    assert (asyncio.get_running_loop().time(), budget.spent) == (9 * 2.0, 10)


def test_an_audit_stops_where_the_vendor_wants_fewer_requests_for_good_and_keeps_what_it_has(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lead(folder / "payouts.db", vendor.url, dict.fromkeys([f"r{place:03}" for place in range(50)], State.PLANNED))
    assert call(*AUDIT, "--max-requests=3", env=env).exit_code == 4
    client = Unreachable(problem=RateLimited("slower", retry_after=1e-9))
    with monkeypatch.context() as busy:
        busy.setattr(audit_command, "client_of", lambda *_: client)
        result = call(*AUDIT, env=env)
    assert (result.exit_code, summary(result)["rows"], len(client.asked) <= 10 * 10) == (7, 3, True)
    assert summary(call(*AUDIT, env=env))["requests"] == 50 + len(client.asked)


@virtual_time
async def test_requests_leave_at_the_rate_that_was_asked_for() -> None:
    budget = RequestBudget(rate=4.0, max_requests=5)
    for _ in range(5):
        await budget.take()
    with pytest.raises(BudgetSpent):
        await budget.take()
    assert (budget.spent, asyncio.get_running_loop().time()) == (5, 1.0)


def test_progress_is_told_every_five_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    time = Time()

    @define
    class Run:
        begun: Any
        done: int = 3
        found: int = 1
        unchecked: int = 0

    @define
    class Begun:
        rows: int = 9

    shown = AuditDisplay(Run(Begun()), RequestBudget(), Output(True), clock=time)  # type: ignore[arg-type]  # what it reads of a run
    shown.begin()
    for time.now in (1004.9, 1005.0, 1006.0, 1010.0):
        shown.refresh()
    shown.end()
    told = records(capsys.readouterr().out)
    assert told == [{"event": "progress", "rows": 3, "of": 9, "differences": 1, "unchecked": 0, "requests": 0}] * 2


def test_refused_credentials_end_the_audit(call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]) -> None:
    secret = "another-api-secret-of-more-than-thirty-two-characters"
    lead(folder / "payouts.db", vendor.url, {"r1": State.PLANNED, "r2": State.PLANNED})
    result = call(*AUDIT, env={**env, "ORIGINAL_API_SECRET": secret})
    assert (result.exit_code, summary(result)["complete"]) == (7, False)
    assert secret not in result.output
    assert vendor.request_counts["GET"] <= 2


def test_missing_credentials_are_told_before_anything(call: Call, folder: Path) -> None:
    lead(folder / "payouts.db", "", {"r1": State.PLANNED})
    assert call(*AUDIT).exit_code == 2
    assert call(*AUDIT, "--ledger=nowhere.db").exit_code == 7
    assert not (folder / "nowhere.db").exists()


def test_campaigns_begun_elsewhere_are_left_out_and_told(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    lead(path, "https://elsewhere.example/v1", {"r1": State.DONE})
    assert call(*AUDIT, env=env).exit_code == 7
    lead(path, vendor.url, {"r2": State.PLANNED}, campaign="holi")
    result = call(*AUDIT, env=env)
    left_out = event(result, "left_out")
    assert left_out is not None
    assert (result.exit_code, left_out["campaign"], summary(result)["rows"]) == (0, CAMPAIGN, 1)


def test_a_running_payout_keeps_the_audit_away(call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]) -> None:
    async def meanwhile() -> int:
        async with Ledger(folder / "payouts.db", vendor="original", campaign=CAMPAIGN):
            result = await asyncio.to_thread(call, *AUDIT, env=env)
        return result.exit_code

    assert asyncio.run(meanwhile()) == 7
