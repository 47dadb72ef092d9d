"""A campaign that moved from a file to a database goes on there: workers pay the rest, and decisions can be undone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from payouts.cli.connections import original_client
from payouts.keys import derive_key
from payouts.ledger.reader import LedgerReader
from payouts.ledger.sqlite import Ledger
from payouts.states import State
from tests.payouts.command_kit import HEADER, QUICK, REWARD, TWO, Call
from tests.payouts.payout_kit import token_row
from tests.payouts.process_kit import books

CAMPAIGN = "diwali-2026"
RUN = ("run", "rewards.csv", "--vendor=original", f"--campaign={CAMPAIGN}", "--yes", *QUICK)


def test_a_decision_of_the_file_is_undone_in_the_database(call: Call, folder: Path, url: str) -> None:
    async def decide() -> None:
        async with Ledger(folder / "payouts.db", vendor="original", campaign=CAMPAIGN) as ledger:
            (entry,) = await ledger.plan([token_row("r1")])
            sent = await ledger.move(entry, State.SENT)
            unknown = await ledger.move(sent, State.UNKNOWN, problem=TimeoutError("no answer"))
            await ledger.move(unknown, State.DONE, settled_by="hand", note="seen")

    asyncio.run(decide())
    assert call("move", f"--to={url}").exit_code == 0
    assert call("resolve", "r1", "--undo", "--note=another", f"--ledger={url}").exit_code == 0
    with LedgerReader(url) as reader:
        assert [each.state for each in reader.entries(reader.campaign())] == [State.UNKNOWN]


@pytest.mark.slow
def test_workers_pay_the_rest_of_a_moved_campaign_once(call: Call, folder: Path, url: str, vendor: str) -> None:
    path = folder / "payouts.db"
    (folder / "rewards.csv").write_text(TWO)
    assert call(*RUN).exit_code == 0
    many = HEADER + "".join(f"r{n},{REWARD},{31 + n},{n}.5\n" for n in range(3, 6))
    rows = [token_row(f"r{n}", reward_uid=REWARD, to_user_uid=str(31 + n), amount=f"{n}.5") for n in range(3, 6)]

    async def send() -> None:
        async with Ledger(path, vendor="original", campaign=CAMPAIGN) as ledger:
            first, lost, _ = await ledger.plan(rows)
            for entry in (first, lost):
                await ledger.move(entry, State.SENT)
            refused = (await ledger.plan([token_row("r6", reward_uid=REWARD, to_user_uid="37", amount="6.5")]))[0]
            sent = await ledger.move(refused, State.SENT)
            renewed = await ledger.renew_key(await ledger.move(sent, State.REJECTED, problem=ValueError("closed")))
            await ledger.move(await ledger.move(renewed, State.SENT), State.REJECTED, problem=ValueError("closed"))

    asyncio.run(send())
    arrived = pay_one(vendor, rows[0])  # its answer was lost
    assert call("move", f"--to={url}").exit_code == 0
    worked = call("work", *QUICK, f"--ledger={url}")
    assert worked.exit_code == 3, worked.stderr
    assert call("retry", "r6", "--yes", f"--ledger={url}").exit_code == 0
    assert call("work", *QUICK, f"--ledger={url}").exit_code == 0
    paid = books(vendor)["allocations"]
    assert len(paid) == len({each["nonce"] for each in paid}) == 6
    with LedgerReader(url) as reader:
        found = {each.id: each for each in reader.entries(reader.campaign())}
    assert {each.state for each in found.values()} == {State.DONE}
    assert {each["nonce"] for each in paid} == {each.key for each in found.values()}
    assert found["r3"].uid == arrived
    assert found["r6"].key == derive_key("original", CAMPAIGN, "r6", retry=2)
    assert call("audit", f"--ledger={url}").exit_code == 0
    (folder / "more.csv").write_text(TWO + many.removeprefix(HEADER))
    again = ("run", "more.csv", *RUN[2:], f"--ledger={url}")
    assert call(*again).exit_code == 0
    assert len(books(vendor)["allocations"]) == 6


def pay_one(vendor: str, row: Any) -> str:
    """Pay a row as a run does whose answer is lost, and return the uid."""

    async def pay() -> str:
        async with original_client() as client:
            made = await client.create_allocation(
                reward_uid=row.reward_uid,
                to_user_uid=row.to_user_uid,
                amount=row.amount,
                nonce=derive_key("original", CAMPAIGN, row.id),
            )
        return str(made.uid)

    return asyncio.run(pay())
