"""Coins cannot be looked up; balances show what has changed since they were stored, and never more than that."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from enkash_async import EnkashClient, PasswordCredentials
from payouts.audit.balances import snapshot
from payouts.ledger.sqlite import Ledger
from payouts.request_budget import BudgetSpent, RequestBudget
from payouts.states import State
from payouts.vendors.coin_payer import CoinPayer
from rewards_core.cli.output import Output
from rewards_core.errors import RequestRejected, Unauthorized
from tests.payouts.audit_kit import event, kinds, rows_of, summary
from tests.payouts.by_hand_kit import raw
from tests.payouts.command_kit import Call, for_people, records
from tests.payouts.payout_kit import coin_row
from tests.payouts.process_kit import create_event, enkash_at, playing
from tests.texts import new_lines, said
from vendor_sandboxes import EnkashSandbox

AUDIT = ("audit", "--rate=0", "--vendor=enkash")
CAMPAIGN = "diwali-2026"


@pytest.fixture
def vendor() -> Iterator[EnkashSandbox]:
    with playing(EnkashSandbox()) as sandbox:
        yield sandbox


@pytest.fixture
def env(vendor: EnkashSandbox, folder: Path) -> dict[str, str]:
    return enkash_at(vendor.url, folder / "state")


@pytest.fixture(autouse=True)
def state(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))


def lead(path: Path, target: str, states: dict[str, State], *, event: str = "MEAL") -> None:
    """Lead each row, of a user of the same name, to its state."""

    async def steps() -> None:
        async with Ledger(path, vendor="enkash", campaign=CAMPAIGN, target=target) as ledger:
            for entry in await ledger.plan([coin_row(row, user_id=row, event=event) for row in states]):
                if entry.state is State.PLANNED and states[entry.id] is not State.PLANNED:
                    sent = await ledger.move(entry, State.SENT)
                    if states[entry.id] is not State.SENT:
                        await ledger.move(sent, states[entry.id])

    asyncio.run(steps())


def give(vendor: EnkashSandbox, **coins: int) -> None:
    vendor.coins.balances.update(coins)


def test_a_balance_that_changed_by_what_was_paid_agrees_and_any_other_differs(
    call: Call, folder: Path, vendor: EnkashSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    users = ["exact", "less", "more", "unpaid"]
    lead(path, vendor.url, dict.fromkeys(users, State.PLANNED) | {"before": State.DONE})
    give(vendor, exact=100, before=6)
    stored = call(*AUDIT, "--snapshot", env=env)
    assert (stored.exit_code, records(stored)[-1]) == (0, {"event": "snapshot", "stored": 5, "unchecked": 0})
    lead(path, vendor.url, dict.fromkeys(users[:3], State.DONE) | {"unpaid": State.REJECTED})
    give(vendor, exact=6, less=5, more=12, unpaid=6)
    result = call(*AUDIT, "--coins=MEAL=6", "--apply", env=env)
    assert result.exit_code == 3
    assert kinds(result) == {"less": "balance_lower", "more": "balance_higher", "unpaid": "balance_higher"}
    told = {each["recipient"]: (each["ledger"], each["vendor"]) for each in records(result) if each["event"] == "difference"}
    assert told == {"less": ("+6", "+5"), "more": ("+6", "+12"), "unpaid": ("+0", "+6")}
    found = summary(result)
    assert (found["rows"], found["agree"], found["unchecked"], found["applied"]) == (5, 1, 1, 0)
    assert rows_of(path)["unpaid"].state is State.REJECTED


@pytest.mark.slow
def test_a_row_that_was_sent_before_the_snapshot_and_settled_by_hand_after_it_is_not_missing(
    call: Call, folder: Path, vendor: EnkashSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    lead(path, vendor.url, {"u1": State.UNKNOWN, "u2": State.UNKNOWN, "u3": State.UNKNOWN})
    with raw(folder) as database:  # as if it came from a restored copy, which does not know whether it was sent
        database.execute("UPDATE rows SET sent_at = NULL WHERE id = 'u2'")
    give(vendor, u1=6, u2=6)
    assert call(*AUDIT, "--snapshot", env=env).exit_code == 0
    assert call("resolve", "u1", "u2", "u3", "--as=done", "--note=seen").exit_code == 0
    give(vendor, u3=6)  # it arrived late
    result = call(*AUDIT, "--coins=MEAL=6", env=env)
    assert (result.exit_code, summary(result)["differences"], summary(result)["unchecked"]) == (4, {}, 3)


@pytest.mark.slow
def test_a_balance_says_nothing_about_rows_that_are_unknown_or_were_sent_before_it_was_stored(
    call: Call, folder: Path, vendor: EnkashSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    before = {"done": State.DONE, "rejected": State.REJECTED, "sent": State.SENT, "unknown": State.UNKNOWN}
    lead(path, vendor.url, before | {"planned": State.PLANNED, "later": State.PLANNED})
    assert call(*AUDIT, "--snapshot", env=env).exit_code == 0
    lead(path, vendor.url, {"later": State.DONE})
    give(vendor, later=6)
    result = call(*AUDIT, "--coins=MEAL=6", env=env)
    found = summary(result)
    assert (result.exit_code, found["agree"], found["unchecked"], found["differences"]) == (4, 2, 4, {})
    told = [(each["rows"], "unknown" in each["reason"]) for each in records(result) if each["event"] == "unchecked"]
    assert sorted(told) == [(2, False), (2, True)]
    give(vendor, unknown=6)
    found = summary(call(*AUDIT, "--coins=MEAL=6", env=env))
    assert (found["agree"], found["unchecked"], found["differences"]) == (2, 3, {"balance_higher": 1})


@pytest.mark.slow
def test_without_the_worth_of_an_event_only_the_change_is_told(
    call: Call, folder: Path, vendor: EnkashSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    lead(path, vendor.url, {"u1": State.PLANNED})
    assert call(*AUDIT, "--snapshot", env=env).exit_code == 0
    lead(path, vendor.url, {"u1": State.DONE})
    give(vendor, u1=6)
    for more in ([], ["--coins=ANOTHER=6"]):
        result = call(*AUDIT, *more, env=env)
        assert (result.exit_code, summary(result)["unchecked"]) == (4, 1)
        assert event(result, "change") == {"event": "change", "recipient": "u1", "change": 6, "ledger": "1 paid"}


def test_without_a_snapshot_nothing_is_checked(call: Call, folder: Path, vendor: EnkashSandbox, env: dict[str, str]) -> None:
    lead(folder / "payouts.db", vendor.url, {"u1": State.DONE})
    result = call(*AUDIT, "--coins=MEAL=6", env=env)
    assert (result.exit_code, summary(result)["agree"], summary(result)["unchecked"]) == (4, 0, 1)


@pytest.mark.parametrize("given", ["MEAL", "=6", "MEAL=six", "MEAL=-6"])
def test_the_worth_of_an_event_is_a_name_and_a_number(call: Call, folder: Path, given: str) -> None:
    assert call(*AUDIT, f"--coins={given}").exit_code == 2


def test_balances_are_for_coins(call: Call, folder: Path, vendor: EnkashSandbox, env: dict[str, str]) -> None:
    lead(folder / "payouts.db", vendor.url, {"u1": State.DONE})
    assert call("audit", "--vendor=original", "--snapshot", env=env).exit_code == 2
    assert call("audit", "--vendor=original", env=env).exit_code == 2


def test_a_restored_ledger_of_coins_is_released_by_apply_and_its_unpaid_rows_are_unknown(
    call: Call, folder: Path, vendor: EnkashSandbox, env: dict[str, str]
) -> None:
    path, backup = folder / "payouts.db", folder / "backup.db"
    lead(path, vendor.url, {"u1": State.PLANNED, "u2": State.DONE})
    shutil.copy(path, backup)
    lead(path, vendor.url, {"u1": State.SENT})
    shutil.copy(backup, path)
    kept = call(*AUDIT, env=env)
    assert (event(kept, "released"), rows_of(path)["u1"].state) == (None, State.PLANNED)
    result = call("audit", "--rate=0", "--apply", env=env)
    assert event(result, "released") == {"event": "released", "coins_unknown": 1}
    assert {row: entry.state for row, entry in rows_of(path).items()} == {"u1": State.UNKNOWN, "u2": State.DONE}


async def test_a_snapshot_keeps_what_it_has_read_when_it_has_asked_enough(folder: Path, blocking_calls_fail: object) -> None:
    async with EnkashSandbox() as sandbox:
        credentials = PasswordCredentials(sandbox.client_id, sandbox.client_secret, "9000000000", "sandbox-password")
        client = EnkashClient(coins_base_url=sandbox.url, auth_base_url=sandbox.url, credentials=credentials)
        async with client, Ledger(folder / "payouts.db", vendor="enkash", campaign=CAMPAIGN) as ledger:
            with pytest.raises(BudgetSpent):
                await snapshot(
                    ledger,
                    CoinPayer(client),
                    ["u1", "u2", "u3"],
                    budget=RequestBudget(rate=None, max_requests=2),
                    clock=lambda: 7.0,
                )
            kept = await ledger.transact(
                lambda database: database.execute("SELECT recipient, coins, at FROM balances").fetchall()
            )
            assert sorted(kept) == [("u1", 0, 7.0), ("u2", 0, 7.0)]
            assert await snapshot(ledger, CoinPayer(client), iter(["u1", "u2", "u3"]), budget=RequestBudget(rate=None)) == (
                3,
                0,
            )


class SlowBalances:
    """Balances of which one is read only when all others are."""

    def __init__(self, users: int) -> None:
        self.others = users - 1
        self.read = asyncio.Event()

    async def balance_of(self, recipient: str) -> int:
        if recipient == "u0":
            await self.read.wait()
            return 0
        self.others -= 1
        if not self.others:
            self.read.set()
        return 1


async def test_a_balance_that_is_read_slowly_holds_up_no_other(folder: Path) -> None:
    users = [f"u{number}" for number in range(40)]
    async with Ledger(folder / "payouts.db", vendor="enkash", campaign=CAMPAIGN) as ledger:
        async with asyncio.timeout(60):
            stored = await snapshot(ledger, SlowBalances(40), users, budget=RequestBudget(rate=None))
        assert stored == (40, 0)


class RefusedBalances:
    """Balances of which some are refused, until the credentials are."""

    async def balance_of(self, recipient: str) -> int:
        if recipient == "u20":
            raise Unauthorized("the credentials are refused")
        if recipient in {"u1", "u5"}:
            raise RequestRejected("no such user")
        return 1


async def test_an_error_of_all_balances_ends_a_snapshot_and_one_of_a_user_does_not(folder: Path) -> None:
    users = [f"u{number}" for number in range(100)]
    async with Ledger(folder / "payouts.db", vendor="enkash", campaign=CAMPAIGN) as ledger:
        assert await snapshot(ledger, RefusedBalances(), users[:20], budget=RequestBudget(rate=None)) == (18, 2)
        with pytest.raises(Unauthorized, match="the credentials are refused"):
            await snapshot(ledger, RefusedBalances(), users[20:], budget=RequestBudget(rate=None))
        (kept,) = await ledger.transact(lambda database: database.execute("SELECT count(*) FROM balances").fetchone())
        assert 18 <= kept < 18 + 20


def test_a_person_reads_what_cannot_be_known(
    call: Call, folder: Path, vendor: EnkashSandbox, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "payouts.db"
    monkeypatch.setattr(Output, "__init__", lambda self, as_json=None: for_people(self))
    lead(path, vendor.url, {"u1": State.PLANNED})
    said("audit: coins, a snapshot", call(*AUDIT, "--snapshot", env=env).stdout)
    lead(path, vendor.url, {"u1": State.DONE, "u2": State.DONE})
    give(vendor, u1=5)
    without = call(*AUDIT, env=env)
    said("audit: coins, what changed", without.stdout + without.stderr)
    result = call(*AUDIT, "--coins=MEAL=6", env=env)
    said("audit: coins, what differs", new_lines(result.stdout + result.stderr, without.stdout + without.stderr))


@pytest.mark.slow
def test_a_run_can_store_the_balances_before_it_pays(
    call: Call, folder: Path, vendor: EnkashSandbox, env: dict[str, str]
) -> None:
    (folder / "coins.csv").write_text("id,user_id,event\na,u1,MEAL\nb,u2,MEAL\nc,u1,MEAL\n")
    create_event(env, "MEAL")
    give(vendor, u1=5)
    run = ("run", "coins.csv", "--vendor=enkash", f"--campaign={CAMPAIGN}", "--yes", "--rate=0", "--snapshot")
    result = call(*run, env=env)
    assert (result.exit_code, event(result, "snapshot")) == (0, {"event": "snapshot", "stored": 2, "unchecked": 0})
    assert call(*AUDIT, "--coins=MEAL=6", env=env).exit_code == 0
    assert call(*AUDIT, "--coins=MEAL=7", env=env).exit_code == 3


def test_a_run_whose_balances_cannot_be_read_pays_nothing(
    call: Call, folder: Path, vendor: EnkashSandbox, env: dict[str, str]
) -> None:
    (folder / "coins.csv").write_text("id,user_id,event\na,u1,MEAL\n")
    run = ("run", "coins.csv", "--vendor=enkash", f"--campaign={CAMPAIGN}", "--yes", "--rate=0", "--snapshot")
    result = call(*run, env=env | {"ENKASH_PASSWORD": "wrong"})
    assert (result.exit_code, vendor.coins.credits) == (7, [])
    assert call("run", "coins.csv", "--vendor=original", "--campaign=c", "--dry-run", "--snapshot").exit_code == 2
