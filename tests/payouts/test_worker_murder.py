"""Workers are killed and frozen beyond their lease while PostgreSQL restarts: the vendor's books and the ledger say the same."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from payouts.ledger.postgres import PostgresLedger
from payouts.ledger.postgres_schema import SCHEMA_NAME
from payouts.ledger.worker import HORIZON, PERMIT_LASTS
from payouts.states import Entry, State
from payouts.vendors import EnkashRow, OriginalRow
from tests.payouts.process_kit import ROOT, books, create_event, enkash_at, lines_of, original_at, playing, quiet_books, sandbox
from tests.payouts.test_payout_murder import REWARDS, amount_of, compare
from tests.postgres_server import Server, postgres_server
from vendor_sandboxes import EnkashSandbox
from vendor_sandboxes.__main__ import build

LEASE = 2.0
SOAK_RATE = 100.0
SOAK_WORKERS = 4
TROUBLE = ("--p503=0.01", "--p503-after-commit=0.01", "--drop-after-commit=0.02")
STRANGE = ("--page-size=20", "--known-nonce-text=Allocation already exists.", "--commit-late=3", "--list-lag=1")


def tokens(number: int) -> OriginalRow:
    user = 100_000_000_000 + number // 50
    return OriginalRow(
        id=f"row-{number}", reward_uid=REWARDS[number % 2], to_user_uid=str(user), amount=amount_of(number), line=number + 2
    )


def coins(number: int) -> EnkashRow:
    return EnkashRow(id=f"row-{number}", user_id=f"EK{number:06d}", event="MEAL_CARD_PAYMENT", line=number + 2)


class Fleet:
    """Worker processes that are killed and frozen, and started again."""

    def __init__(self, server: Server, vendor: str, env: dict[str, str], *, workers: int, rate: float) -> None:
        self._command = [sys.executable, "-m", "tests.payouts.worker_process", vendor, str(LEASE), str(rate)]
        self._env = {**env, "LEDGER": server.url}
        self._server = server
        self._chance = random.Random(11)
        self._workers = [self._start() for _ in range(workers)]

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, cwd=ROOT, env=self._env, stdout=subprocess.PIPE)

    def kill_one(self) -> None:
        """Kill a worker once it is done with some more rows, and start another one."""
        place = self._chance.randrange(len(self._workers))
        self._after_some_rows(place)
        self._workers[place].kill()
        self._collect(place)
        self._workers[place] = self._start()

    def freeze_one(self) -> None:
        """Freeze a worker until others have taken its rows, or have nothing left to do."""
        place = self._chance.randrange(len(self._workers))
        self._after_some_rows(place)
        frozen = self._workers[place]
        frozen.send_signal(signal.SIGSTOP)
        others = [each for each in self._workers if each is not frozen]
        while asyncio.run(self._lives(frozen.pid)) and any(each.poll() is None for each in others):
            pass
        frozen.send_signal(signal.SIGCONT)

    async def _lives(self, process: int) -> bool:
        connection = await asyncpg.connect(self._server.url)
        try:
            living = f"SELECT EXISTS (SELECT FROM {SCHEMA_NAME}.workers WHERE process = $1 AND alive)"
            return bool(await connection.fetchval(living, process))
        finally:
            await connection.close()

    def restart_database(self) -> None:
        self._server.stop()
        self._server.start()

    def end(self) -> list[int]:
        return [self._collect(place) for place in range(len(self._workers))]

    def _after_some_rows(self, place: int) -> None:
        rows = self._chance.randrange(5)
        for line in lines_of(self._workers[place]):
            rows -= line["event"] == "row"
            if rows <= 0 or line["event"] == "end":
                break

    def _collect(self, place: int) -> int:
        process = self._workers[place]
        process.communicate()
        return process.returncode


async def plan(url: str, vendor: str, rows: list[Any]) -> None:
    async with PostgresLedger(url, vendor=vendor, campaign="diwali-2026") as ledger:
        await ledger.plan(rows)


async def entries(url: str, vendor: str) -> list[Entry]:
    async with PostgresLedger(url, vendor=vendor, campaign="diwali-2026") as ledger:
        found: list[Entry] = []
        while page := await ledger.entries(tuple(State), after=found[-1].number if found else 0):
            found += page
    return found


def murder(server: Server, vendor: str, env: dict[str, str], *, soak: bool) -> list[int]:
    fleet = Fleet(server, vendor, env, workers=SOAK_WORKERS if soak else 3, rate=SOAK_RATE if soak else 40.0)
    for attempt in range(40 if soak else 2):
        fleet.kill_one()
        fleet.freeze_one()
        if attempt % 20 == 1:
            fleet.restart_database()
    return fleet.end()


def check_pace(made: list[float]) -> None:
    """Expect no more payments in any second than the rate, its burst, and one of each worker that was stopped.

    A short case ends before its pace shows, and on a busy machine requests arrive in heaps.
    """
    made = sorted(made)
    most = begin = 0
    for end, at in enumerate(made):
        while at - made[begin] >= 1.0:
            begin += 1
        most = max(most, end - begin + 1)
    assert most <= SOAK_RATE + SOAK_RATE * (HORIZON + PERMIT_LASTS) + SOAK_WORKERS


@pytest.mark.timeout(3600)
@pytest.mark.slow
def test_every_row_is_paid_exactly_once_whoever_is_killed_or_frozen(tmp_path: Path, soak: bool) -> None:
    count = 10_000 if soak else 200
    options = ("--seed=7", "--confirm=0.05:0.4", "--latency=0.005:0.03", "--duplicate-nonce=reject", "--amounts=string")
    with postgres_server(durable=True) as server, sandbox("original", *options, *TROUBLE, *STRANGE) as url:
        asyncio.run(plan(server.url, "original", [tokens(number) for number in range(count)]))
        env = {**original_at(url), "XDG_STATE_HOME": str(tmp_path)}
        codes = murder(server, "original", env, soak=soak)
        known = quiet_books(url)
        found = asyncio.run(entries(server.url, "original"))
    assert set(codes) == {0}
    compare(known, found, count)
    if soak:
        check_pace([each["committed_at"] for each in known["allocations"]])


@pytest.mark.timeout(3600)
@pytest.mark.slow
def test_no_coins_are_given_twice_whoever_is_killed_or_frozen(tmp_path: Path, soak: bool) -> None:
    count = 10_000 if soak else 200
    options = ("--seed=7", "--latency=0.005:0.03", "--drop-after-commit=0.02", "--p503=0.01")
    played = build(["enkash", "--port=0", *options])
    assert isinstance(played, EnkashSandbox)
    with postgres_server(durable=True) as server, playing(played):
        url = played.url
        env = enkash_at(url, tmp_path)
        create_event(env, "MEAL_CARD_PAYMENT")
        asyncio.run(plan(server.url, "enkash", [coins(number) for number in range(count)]))
        codes = murder(server, "enkash", env, soak=soak)
        known = books(url)
        found = asyncio.run(entries(server.url, "enkash"))
    given = {credit["requestId"] for credit in known["allocations"]}
    assert set(codes) == {0}
    assert set(known["created"].values()) == {1}, "somebody got coins twice"
    assert {entry.state for entry in found} == {State.DONE, State.UNKNOWN}
    assert len(found) == count
    for entry in found:
        assert entry.key in given or entry.state is State.UNKNOWN, "a row counts as paid that was not"
    assert given <= {entry.key for entry in found}
    if soak:
        check_pace([credit.at for credit in played.coins.credits])
