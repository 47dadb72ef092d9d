"""No asset is minted twice for a row, whatever is killed, although the vendor mints every request."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from original_async import OriginalClient
from payouts import Entry, PostgresLedger, State, pay_row
from tests.payouts.mint_kit import COLLECTION, HEADER, MINT, QUICK, client_of, mint_row, minted
from tests.payouts.payout_kit import waiting
from tests.payouts.postgres_ledger_kit import LedgerDatabase
from tests.payouts.process_kit import KEY, ROOT, SECRET, end, free_port, original_at, payouts, quiet_books, sandbox
from tests.payouts.test_payout_murder import Murders, rows_in
from tests.payouts.test_worker_murder import entries, murder, plan
from tests.postgres_server import postgres_server
from vendor_sandboxes import OriginalSandbox

TROUBLE = ("--p503-after-commit=0.03", "--drop-after-commit=0.05", "--webhook-loss=0.05", "--commit-late=1", "--list-lag=0.5")
FROZEN = 3600.0


def write_users(path: Path, count: int) -> None:
    lines = [f"row-{n},{100_000_000_000 + n // 5},{COLLECTION},Badge {n},https://img.example/{n}.png\n" for n in range(count)]
    path.write_text(HEADER + "".join(lines))


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_no_row_is_minted_twice_however_often_the_process_is_killed(tmp_path: Path) -> None:
    count, wanted = 100, 4
    users, ledger, port = tmp_path / "users.csv", tmp_path / "payouts.db", free_port()
    write_users(users, count)
    hook = f"--webhook-url=http://127.0.0.1:{port}/webhooks/original"
    options = ("--seed=7", "--confirm=0.05:0.4", "--latency=0.005:0.03", "--duplicate-external-id=mint", hook)
    with sandbox("original", *options, *TROUBLE) as url:
        env = {**original_at(url), "XDG_STATE_HOME": str(tmp_path)}
        murders = Murders(11, ledger)
        which: tuple[str | Path, ...] = ("--campaign=badges", "--ledger", ledger)
        run: tuple[str | Path, ...] = ("run", users, "--vendor=original", "--kind=mint", "--yes", *which)
        run += ("--rate=0", "--concurrency=10", f"--webhook-port={port}", "--poll-after=0.5", "--polls-per-second=500")
        run += ("--lookup-timeout=4",)
        code = murders.run(*run, env=env, kills=wanted, rows=count)
        check(quiet_books(url), rows_in(ledger), count)
        if code != 0:  # requests that were never sent: only a person may decide to mint those rows under another key
            lost = [entry.id for entry in rows_in(ledger) if entry.state is State.UNKNOWN]
            for command in (
                ("resolve", *lost, "--as=rejected", "--note=never sent", *which),
                ("retry", *lost, "--yes", *which),
                run,
            ):
                process = payouts(*command, env=env)
                told = end(process)
                assert process.returncode == 0, told
        known = quiet_books(url)
    assert murders.while_sent >= wanted // 2
    found = rows_in(ledger)
    check(known, found, count)
    assert {entry.state for entry in found} == {State.DONE}


def check(known: dict[str, Any], rows: list[Entry], count: int) -> None:
    """See that no row has two assets, and that exactly those have one that the ledger says so of."""
    assert len(rows) == count
    assert set(known["assets_asked"].values()) == {1}, "a request was repeated"
    held = minted(known)
    assert set(held.values()) == {1}
    assert held.keys() <= {entry.key for entry in rows}
    for entry in rows:
        assert (entry.key in held) == (entry.state is State.DONE)
        assert entry.state in {State.DONE, State.UNKNOWN}


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_no_row_is_minted_twice_by_workers_that_are_killed_or_frozen(tmp_path: Path) -> None:
    count = 120
    options = ("--seed=7", "--confirm=0.05:0.4", "--latency=0.005:0.03", "--duplicate-external-id=mint")
    with postgres_server(durable=True) as server, sandbox("original", *options, *TROUBLE) as url:
        asyncio.run(plan(server.url, MINT, [mint_row(f"row-{n}", user_uid=f"{10**11 + n // 5}") for n in range(count)]))
        codes = murder(server, MINT, {**original_at(url), "XDG_STATE_HOME": str(tmp_path)}, soak=False)
        known = quiet_books(url)
        found = asyncio.run(entries(server.url, MINT))
    assert set(codes) == {0}
    check(known, found, count)


async def pay(ledger: PostgresLedger, client: OriginalClient) -> Entry:
    async with waiting(client) as completions:
        return await pay_row(mint_row("r1"), client=client, completions=completions, ledger=ledger, options=QUICK)


@pytest.mark.parametrize("carried_out", [True, False])
async def test_a_row_of_a_killed_worker_is_looked_up_by_another_and_not_minted_again(
    database: LedgerDatabase, carried_out: bool
) -> None:
    options: dict[str, Any] = {"confirm": (0.0, 0.0), "slow_seconds": FROZEN, "duplicate_external_id": "mint"}
    async with OriginalSandbox(api_key=KEY, api_secret=SECRET, **options) as vendor:
        vendor.script("slow_after_commit" if carried_out else "none", path="asset")
        vendor.options.latency = None if carried_out else (FROZEN, FROZEN)
        command = [sys.executable, "-m", "tests.payouts.row_process", database.url, database.schema, str(database.state)]
        process = subprocess.Popen([*command, MINT, "r1"], cwd=ROOT, env=original_at(vendor.url))
        await vendor.until(lambda: any(each.method == "POST" for each in vendor.requests), timeout=300.0)
        process.kill()
        await asyncio.to_thread(process.wait)
        vendor.options.latency = None
        await database.advance(91.0)
        async with database.ledger(vendor=MINT) as ledger, client_of(vendor) as client:
            entry = await pay(ledger, client)
            assert entry.state is (State.DONE if carried_out else State.UNKNOWN)
            assert (await pay(ledger, client)).state is entry.state
        assert vendor.request_counts["POST"] == 1
        assert minted(vendor.books()) == ({entry.key: 1} if carried_out else {})
