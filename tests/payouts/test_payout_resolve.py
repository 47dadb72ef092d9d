"""Rows that a person settles by hand, named by their ids."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from payouts.ledger.sqlite import Ledger
from payouts.states import State
from tests.payouts.by_hand_kit import BULK, NOBODY, decided, lead, prepare, refuse, row_of, states
from tests.payouts.command_kit import Call, entries, for_people, records
from tests.payouts.payout_kit import coin_row, token_row
from tests.texts import said


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


def test_a_row_that_was_settled_by_hand_shows_what_was_said_of_it_last(call: Call, folder: Path) -> None:
    refuse(folder, "r1")
    assert call("resolve", "r1", "--as=rejected", "--note=EnKash's list of today").exit_code == 0
    said("status: a row that was settled by hand", call("status", "--text").output)


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
