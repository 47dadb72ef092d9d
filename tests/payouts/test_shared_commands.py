"""The commands on a ledger in PostgreSQL: plan on one machine, work on any number, decide by hand when nobody works."""

from __future__ import annotations

import asyncio
import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from payouts.ledger.place import place_of
from payouts.ledger.postgres import PostgresLedger
from payouts.ledger.reader import LedgerReader
from payouts.states import State
from tests.payouts.command_kit import HEADER, QUICK, REWARD, TWO, Call, records
from tests.payouts.payout_kit import coin_row, token_row
from tests.payouts.postgres_ledger_kit import run_sql
from tests.payouts.process_kit import books, create_event, enkash_at, sandbox
from tests.texts import said, without_places

CAMPAIGN = "diwali-2026"
PLAN = ("plan", "rewards.csv", "--vendor=original", f"--campaign={CAMPAIGN}", "--yes")
WORK = ("work", *QUICK)


@pytest.fixture
def url(url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PAYOUTS_LEDGER", url)
    return url


def states(url: str) -> dict[str, str]:
    with LedgerReader(url) as reader:
        return {entry.id: entry.state.value for entry in reader.entries(reader.campaign())}


def lead(url: str, rows: list[Any], *states: State, vendor: str = "original", **facts: Any) -> None:
    """Lead rows through states."""

    async def moves() -> None:
        async with PostgresLedger(url, vendor=vendor, campaign=CAMPAIGN) as ledger:
            for entry in await ledger.plan(rows):
                now = entry
                for state in states:
                    now = await ledger.move(now, state, **(facts if state is states[-1] else {}))

    asyncio.run(moves())


def execute(url: str, statement: str, *values: Any) -> list[Any]:
    return asyncio.run(run_sql(url, statement, *values))


@pytest.mark.slow
def test_a_file_is_planned_once_and_paid_by_whoever_works(call: Call, folder: Path, url: str, vendor: str) -> None:
    (folder / "rewards.csv").write_text(TWO)
    planned = call(*PLAN)
    assert (planned.exit_code, records(planned)[-1]) == (0, {"event": "planned", "campaign": CAMPAIGN, "rows": 2})
    assert books(vendor)["allocations"] == []
    assert call(*PLAN).exit_code == 0
    assert states(url) == {"r1": "planned", "r2": "planned"}
    worked = call(*WORK, "--report=report.html")
    assert (worked.exit_code, states(url)) == (0, {"r1": "done", "r2": "done"})
    assert len(books(vendor)["allocations"]) == 2
    assert CAMPAIGN in (folder / "report.html").read_text()
    assert call(*WORK).exit_code == 0
    assert len(books(vendor)["allocations"]) == 2


def test_a_run_plans_and_pays(call: Call, folder: Path, url: str, vendor: str) -> None:
    (folder / "rewards.csv").write_text(TWO)
    run = ("run", "rewards.csv", "--vendor=original", f"--campaign={CAMPAIGN}", "--yes", *QUICK)
    paid = call(*run, "--results=results.csv")
    assert (paid.exit_code, states(url)) == (0, {"r1": "done", "r2": "done"})
    assert next(each for each in records(paid) if each["event"] == "begin")["rows"] == 2
    with (folder / "results.csv").open() as stream:
        assert [row["state"] for row in csv.DictReader(stream)] == ["done", "done"]
    assert call(*run).exit_code == 0
    assert len(books(vendor)["allocations"]) == 2


def test_a_dry_run_makes_no_tables(call: Call, folder: Path, url: str) -> None:
    (folder / "rewards.csv").write_text(TWO)
    assert call(*PLAN, "--dry-run").exit_code == 0
    assert not place_of(url).exists()
    missing = call("status")
    assert missing.exit_code == 7
    said("status: a database without a ledger", without_places(missing.stderr))


@pytest.mark.slow
def test_a_changed_row_is_a_mistake_before_anything_is_planned(call: Call, folder: Path, url: str) -> None:
    (folder / "rewards.csv").write_text(TWO)
    call(*PLAN)
    (folder / "rewards.csv").write_text(TWO.replace("1.50", "1.75") + f"r3,{REWARD},34,1\n")
    changed = call(*PLAN)
    assert (changed.exit_code, records(changed)[0]["kind"], len(states(url))) == (2, "changed", 2)


def test_workers_share_no_file(call: Call, folder: Path) -> None:
    (folder / "rewards.csv").write_text(TWO)
    for command in (PLAN, WORK, ("pause",), ("resume",), ("stop",)):
        refused = call(*command, "--ledger=payouts.db")
        assert refused.exit_code == 2
        said("workers: a ledger that is a file", refused.stderr)
    assert not (folder / "payouts.db").exists()


@pytest.mark.parametrize("command", [PLAN, WORK, ("pause",), ("resume",), ("stop",)], ids=lambda command: command[0])
def test_a_command_of_workers_needs_a_ledger_that_it_can_use(call: Call, folder: Path, command: tuple[str, ...]) -> None:
    shown = call(command[0], "-h").stdout
    assert "payouts.db" not in shown
    assert re.search(r"\* +--ledger +URL .*\[required\]", shown)
    missing = call(*command)
    told = "Missing option '--ledger'. Give it, set PAYOUTS_LEDGER, or set ledger in the file of --config."
    assert (missing.exit_code, told in missing.stderr) == (2, True)
    (folder / "payouts.toml").write_text('ledger = "payouts.db"\n')
    for preset in (call(*command, "--config=payouts.toml"), call(*command, env={"PAYOUTS_LEDGER": "payouts.db"})):
        assert (preset.exit_code, "payouts.db: " in preset.stderr) == (2, True)
    assert [path.name for path in folder.iterdir()] == ["payouts.toml"]


def test_a_password_in_the_url_is_never_shown(call: Call, folder: Path) -> None:
    for command in (("status",), (*PLAN,), WORK):
        failed = call(*command, "--ledger=postgresql://pay:geheim@127.0.0.1:1/none")
        assert failed.exit_code == 7
        assert "geheim" not in failed.stdout + failed.stderr


@pytest.mark.parametrize(
    "url",
    [
        "Postgresql://pay:geheim@db/x",
        " postgresql://pay:geheim@db/x",
        "postgresql+psycopg://pay:geheim@db/x",
        "host=db user=pay password=geheim",
        "postgres:/pay:geheim@db",
    ],
)
def test_a_url_that_is_misspelled_becomes_no_file(call: Call, folder: Path, url: str) -> None:
    (folder / "rewards.csv").write_text(TWO)
    for command in (("status",), (*PLAN,), ("run", "rewards.csv", "--vendor=original", "--campaign=c", "--yes")):
        refused = call(*command, f"--ledger={url}")
        assert (refused.exit_code, "geheim" in refused.stdout + refused.stderr) == (2, False)
    assert [path.name for path in folder.iterdir()] == ["rewards.csv"]


def test_a_pause_a_resume_and_a_stop_are_decisions(call: Call, folder: Path, url: str, vendor: str) -> None:
    (folder / "rewards.csv").write_text(TWO)
    call(*PLAN)
    for verb in ("pause", "pause", "resume", "stop"):
        assert call(verb).exit_code == 0
    assert [each["kind"] for each in records(call("decisions"))] == ["pause", "resume", "stop"]
    stopped = call(*WORK)
    assert (stopped.exit_code, states(url)) == (4, {"r1": "planned", "r2": "planned"})
    assert "payouts resume" in stopped.stderr
    call("resume")
    assert (call(*WORK).exit_code, states(url)) == (0, {"r1": "done", "r2": "done"})


@pytest.mark.slow
def test_unknown_rows_are_settled_by_hand_and_that_can_be_undone(call: Call, url: str) -> None:
    lead(url, [token_row("r1")], State.SENT, State.UNKNOWN, problem=TimeoutError("no answer"))
    assert (call("resolve", "r1", "--as=done", "--note=seen").exit_code, states(url)) == (0, {"r1": "done"})
    assert (call("resolve", "r1", "--undo", "--note=another").exit_code, states(url)) == (0, {"r1": "unknown"})
    assert [each["kind"] for each in records(call("decisions"))] == ["resolve", "undo"]


@pytest.mark.slow
def test_a_rejected_row_is_paid_under_a_new_key(call: Call, url: str, vendor: str) -> None:
    lead(url, [token_row("r1")], State.SENT, State.REJECTED, problem=ValueError("no such user"))
    execute(url, "UPDATE campaigns SET target = $1", vendor)
    assert (call("retry", "r1", "--yes").exit_code, states(url)) == (0, {"r1": "planned"})
    assert (call(*WORK).exit_code, states(url)) == (0, {"r1": "done"})


def test_rows_that_were_refused_are_settled_in_bulk_by_two_lists(call: Call, url: str, vendor: str) -> None:
    from tests.payouts.by_hand_kit import refused

    lead(url, [token_row("r1", reward_uid=REWARD)], State.SENT, State.UNKNOWN, problem=refused())
    first = call("resolve", "--unknown", "--refused", "--as=rejected", "--yes")
    assert (first.exit_code, states(url)) == (4, {"r1": "unknown"})
    assert records(first)[-1]["waiting"] == 1


@pytest.mark.slow
def test_an_audit_agrees_and_says_what_differs(call: Call, folder: Path, url: str, vendor: str) -> None:
    (folder / "rewards.csv").write_text(TWO)
    call(*PLAN)
    call(*WORK)
    assert call("audit").exit_code == 0
    execute(
        url,
        "UPDATE row_states SET state = 'unknown', uid = NULL, settled_by = NULL FROM row_contents "
        "WHERE row_contents.number = row_states.number AND id = 'r2'",
    )
    assert call("audit").exit_code == 3
    assert (call("audit", "--apply").exit_code, states(url)["r2"]) == (0, "done")


@pytest.mark.slow
def test_nobody_decides_by_hand_while_a_worker_lives(call: Call, url: str) -> None:
    lead(url, [token_row("r1")], State.SENT, State.UNKNOWN, problem=TimeoutError("no answer"))

    async def while_working() -> list[Any]:
        async with PostgresLedger(url, vendor="original", campaign=CAMPAIGN) as ledger, ledger.one_worker():
            commands = (("resolve", "r1", "--as=done", "--note=seen"), ("retry", "r1", "--yes"), ("audit",))
            return [await asyncio.to_thread(call, *each) for each in commands]

    for refused in asyncio.run(while_working()):
        assert (refused.exit_code, f"payouts stop --campaign {CAMPAIGN} --vendor original." in refused.stderr) == (7, True)
    assert states(url) == {"r1": "unknown"}
    assert call("resolve", "r1", "--as=done", "--note=seen").exit_code == 0


@pytest.mark.slow
def test_a_restored_dump_pays_nothing_before_an_audit_or_a_word(call: Call, folder: Path, url: str, vendor: str) -> None:
    (folder / "rewards.csv").write_text(TWO)
    call(*PLAN)
    execute(url, "UPDATE ledger SET tables = tables || '0'")  # a dump brings tables of its own
    for command in (WORK, PLAN, ("retry", "r1", "--yes"), ("resolve", "r1", "--as=done", "--note=seen")):
        refused = call(*command)
        assert (refused.exit_code, " dump" in refused.stderr) == (7, True)
    vouched = call("audit", "--newest")
    assert (vouched.exit_code, records(vouched)[-1]["event"]) == (0, "released")
    assert (call(*WORK).exit_code, states(url)) == (0, {"r1": "done", "r2": "done"})


@pytest.mark.slow
def test_an_older_copy_is_audited_and_then_looks_up_every_row_before_it_is_sent(
    call: Call, folder: Path, url: str, vendor: str
) -> None:
    (folder / "rewards.csv").write_text(TWO)
    call(*PLAN)
    call(*WORK)
    execute(url, "UPDATE row_states SET state = 'planned', uid = NULL, sent_at = NULL, accepted_at = NULL, settled_at = NULL")
    execute(url, "UPDATE campaigns SET generation = 0")
    older = call(*WORK)
    assert older.exit_code == 7
    said("work: a database from which less was sent than before", without_places(older.stderr))
    assert call("audit", "--newest").exit_code == 6
    assert (call("audit", "--apply").exit_code, states(url)) == (0, {"r1": "done", "r2": "done"})
    (folder / "rewards.csv").write_text(TWO + f"r3,{REWARD},34,1\n")
    call(*PLAN)
    assert (call(*WORK).exit_code, len(books(vendor)["allocations"])) == (0, 3)


@pytest.mark.slow
def test_coins_of_a_campaign_that_an_older_copy_has_lost_are_not_given_again(
    call: Call, folder: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "coins.csv").write_text("id,user_id,event\nr1,EK1,MEAL\n")
    plan = ("plan", "coins.csv", "--vendor=enkash", f"--campaign={CAMPAIGN}", "--yes")
    with sandbox("enkash") as base:
        env = enkash_at(base, folder / "state")
        create_event(env, "MEAL")
        assert (call(*plan, env=env).exit_code, call(*WORK, env=env).exit_code) == (0, 0)
        lead(url, [coin_row("other")], State.SENT, vendor="enkash")
        execute(
            url,
            "WITH lost AS (DELETE FROM row_contents WHERE id = 'r1' RETURNING number) "
            "DELETE FROM row_states USING lost WHERE row_states.number = lost.number",
        )
        execute(url, "UPDATE campaigns SET generation = 0")
        assert call(*plan, env=env).exit_code == 7
        assert call("audit", "--vendor=enkash", "--apply", env=env).exit_code == 4
        assert call(*plan, env=env).exit_code == 0
        call(*WORK, env=env)
        assert len(books(base)["allocations"]) == 1
    assert states(url) == {"other": "unknown", "r1": "unknown"}


@pytest.mark.slow
def test_status_and_report_are_those_of_a_file(call: Call, folder: Path, url: str, vendor: str) -> None:
    (folder / "rewards.csv").write_text(TWO)
    call(*PLAN)
    call(*WORK)
    told = records(call("status"))[0]
    assert (told["rows"], told["done"], told["sums"]) == (2, 2, {REWARD: {"done": "3.75"}})
    assert json.loads(call("status", "r1").stdout)["state"] == "done"
    assert call("report", "--results=rows.csv").exit_code == 0
    assert (folder / "payouts.html").exists()
    assert call("report", "--out=rewards.csv/none").exit_code == 2
    assert HEADER
