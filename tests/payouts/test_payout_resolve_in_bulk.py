"""All refused rows settled by one command: what it asks the vendor, what it leaves alone, and when it ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from payouts.states import State
from rewards_core.errors import Forbidden, ServerFailed, Unauthorized
from tests.payouts.audit_kit import hold as hold_at
from tests.payouts.audit_kit import key_of, rows_of
from tests.payouts.audit_kit import lead as lead_to
from tests.payouts.by_hand_kit import (
    BULK,
    DAY,
    NOBODY,
    Clock,
    Lists,
    clock,
    decided,
    hold,
    lead,
    lists,
    prepare,
    raw,
    refuse,
    refused,
    row_of,
    somebody,
    states,
)
from tests.payouts.command_kit import HEADER, REWARD, Call, entries, records, run_of
from tests.payouts.payout_kit import coin_row, token_row
from tests.payouts.process_kit import books, enkash_at, free_port, original_at, playing, sandbox
from tests.texts import said
from vendor_sandboxes import OriginalSandbox

__all__ = ["clock", "lists", "somebody"]


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
