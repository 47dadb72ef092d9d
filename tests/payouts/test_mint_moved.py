"""A campaign of mints that moved to a database: workers mint what the file planned, with all that its rows say."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from payouts import LedgerReader, State
from payouts.ledger.sqlite import Ledger
from tests.payouts.command_kit import QUICK, Call
from tests.payouts.mint_kit import COLLECTION, HEADER, MINT, mint_row, minted
from tests.payouts.process_kit import books


@pytest.mark.slow
def test_workers_mint_the_rest_of_a_moved_campaign(call: Call, folder: Path, url: str, vendor: str) -> None:
    async def plan() -> None:
        async with Ledger(folder / "payouts.db", vendor=MINT, campaign="badges") as ledger:
            await ledger.plan([mint_row("r1", user_uid="12345", name="Moved", description="\u2728")])

    asyncio.run(plan())
    assert call("move", f"--to={url}").exit_code == 0
    worked = call("work", *QUICK, f"--ledger={url}")
    assert worked.exit_code == 0, worked.stderr
    (asset,) = books(vendor)["assets"]
    assert (asset["metadata"]["name"], asset["metadata"]["description"]) == ("Moved", "\u2728")


def test_a_planned_file_is_minted_by_workers_and_a_changed_one_is_refused(
    call: Call, folder: Path, url: str, vendor: str
) -> None:
    (folder / "users.csv").write_text(HEADER + f"r1,12345,{COLLECTION},Badge,https://img.example/i.png\n")
    plan = ("plan", "users.csv", "--vendor=original", "--kind=mint", "--campaign=badges", "--yes", f"--ledger={url}")
    assert call(*plan).exit_code == 0
    assert call("work", *QUICK, f"--ledger={url}").exit_code == 0
    assert call(*plan).exit_code == 0
    with LedgerReader(url) as reader:
        (entry,) = reader.entries(reader.campaign())
    assert (entry.state, minted(books(vendor))) == (State.DONE, {entry.key: 1})
    (folder / "users.csv").write_text(HEADER + f"r1,12345,{COLLECTION},Badge,https://img.example/j.png\n")
    changed = call(*plan)
    assert changed.exit_code == 2
    assert "j.png" in changed.output
