"""A decision that a person takes back puts its row back as it was, as long as nothing came of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from original_async import OriginalClient
from payouts.ledger.sqlite import Ledger
from payouts.states import State
from tests.payouts.by_hand_kit import NOBODY, decided, lead, prepare, raw, refuse, refused, row_of, states
from tests.payouts.command_kit import Call, for_people, records
from tests.payouts.payout_kit import token_row
from tests.texts import said


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
