"""Every decision by hand is kept in the commit that carries it out, and can be signed for."""

from __future__ import annotations

import asyncio
import copy
import csv
import itertools
import os
import pickle
import pwd
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from payouts.ledger import decisions
from payouts.ledger.decisions import NotUndone, record
from payouts.ledger.sqlite import Ledger
from payouts.states import State
from rewards_core.clock import TrustedTime, boot_id, uptime
from tests.payouts.by_hand_kit import DAY, NOBODY, decided, lead, prepare, raw, refused, row_of
from tests.payouts.command_kit import REWARD, Call, entries, for_people, records
from tests.payouts.payout_kit import coin_row, token_row
from tests.payouts.process_kit import ROOT
from tests.texts import said

AT = 1_795_750_830.0  # 27 November 2026, 03:40:30 UTC
FORMULA = '=HYPERLINK("http://example.com","click")'
TO_SIGN = "<img src=x onerror=alert(1)> & more"
WIDEST = "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && e.scrollWidth > innerWidth + 1).length"


@pytest.fixture
def by_anita(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody decides at a time that stands still."""
    monkeypatch.setattr(pwd, "getpwuid", lambda _: SimpleNamespace(pw_name="anita"))


def decide(folder: Path, *, notes: tuple[str, ...] = ("ticket 4711", "another user's")) -> None:
    """Make a ledger of two campaigns in which a person decided this and that."""

    async def moves() -> None:
        path = folder / "payouts.db"
        async with Ledger(path, vendor="original", campaign="diwali-2026", clock=lambda: AT) as ledger:
            entries = await ledger.plan([token_row("r1", amount="1234567.50"), token_row("r2"), token_row("r3")])
            sent = await ledger.move_all([(entry, State.SENT, {}) for entry in entries])
            unknown = await ledger.move_all([(entry, State.UNKNOWN, {"problem": refused()}) for entry in sent])
            facts: Any = {"settled_by": "hand", "note": notes[0]}
            _, second, third = await ledger.move_all([(entry, State.REJECTED, facts) for entry in unknown])
            await ledger.renew_key(second)
            await ledger.transact(lambda database: decisions.undo(database, [third], note=notes[1], at=AT + 60))
            await ledger.transact(lambda database: record(database, kind="repeats", at=AT, campaign=ledger.number, note="salary"))
            await ledger.transact(lambda database: record(database, kind="newest", at=AT, campaign=None, note="moved here"))
        async with Ledger(path, vendor="enkash", campaign="coins", clock=lambda: AT) as ledger:
            (entry,) = await ledger.plan([coin_row("c1")])
            entry = await ledger.move(await ledger.move(entry, State.SENT), State.UNKNOWN, problem=refused())
            await ledger.move(entry, State.DONE, settled_by="hand", note=notes[0], evidence="EnKash's list of 22 November")

    asyncio.run(moves())


# what is kept


def test_a_settlement_by_hand_is_kept_with_who_when_and_why(call: Call, folder: Path, by_anita: None) -> None:
    prepare(folder, State.UNKNOWN)
    before = row_of(folder, "r1")
    assert call("resolve", "r1", "--as=done", "--note=seen in the console").exit_code == 0
    (decision,) = decided(folder)
    assert (decision.kind, decision.by, decision.campaign, decision.row) == ("resolve", "anita", "diwali-2026", "r1")
    assert (decision.key, decision.was, decision.became) == (before["key"], "unknown", "done")
    assert (decision.note, decision.at, decision.undone_by) == (
        "seen in the console",
        entries(folder)["r1"].settled_at,
        None,
    )


def test_moves_of_a_run_are_no_decisions(folder: Path) -> None:
    lead(folder, [token_row("r1")], State.DONE, refused())
    assert decided(folder) == []


def test_a_user_without_a_name_is_named_by_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", nobody)
    decide(folder)
    assert {each.by for each in decided(folder)} == {str(os.getuid())}


def test_who_decides_is_not_what_the_environment_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    decide(folder)
    assert "somebody-else" not in {each.by for each in decided(folder)}


async def test_a_retry_is_kept_with_the_old_key_and_taken_back_by_it(tmp_path: Path) -> None:
    async with Ledger(tmp_path / "payouts.db", vendor="original", campaign="diwali-2026") as ledger:
        (entry,) = await ledger.plan([token_row("r1")])
        rejected = await ledger.move(await ledger.move(entry, State.SENT), State.REJECTED, problem=refused())
        renewed = await ledger.renew_key(rejected)
        assert renewed.key != rejected.key
        (back,) = await ledger.transact(lambda database: decisions.undo(database, [renewed], note="no", at=AT))
    assert back == rejected
    assert [(each.kind, each.key, each.was, each.became) for each in await asyncio.to_thread(decided, tmp_path)] == [
        ("retry", rejected.key, "rejected", "planned"),
        ("undo", renewed.key, "planned", "rejected"),
    ]


async def test_a_settlement_is_undone_though_the_clock_moved_while_it_was_written(tmp_path: Path) -> None:
    clock = partial(next, itertools.count(AT))
    async with Ledger(tmp_path / "payouts.db", vendor="original", campaign="diwali-2026", clock=clock) as ledger:
        (entry,) = await ledger.plan([token_row("r1")])
        sent = await ledger.move(entry, State.SENT)
        unknown = await ledger.move(sent, State.UNKNOWN, problem=TimeoutError("no answer"))
        done = await ledger.move(unknown, State.DONE, settled_by="hand", note="seen")
        (back,) = await ledger.transact(partial(decisions.undo, rows=[done], note="no", at=AT))
    assert back == unknown


def test_an_error_that_cannot_be_undone_can_be_pickled() -> None:
    problem = NotUndone("r1", "it moved")
    for same in (pickle.loads(pickle.dumps(problem)), copy.deepcopy(problem)):
        assert (str(same), same.row_id) == (str(problem), "r1")


# a command that is killed

KILLED = """
import os, signal, time
from original_async import OriginalClient
from payouts.ledger import decisions

async def nothing(*_, **__):
    return None

async def no_list(*_, **__):
    return []

OriginalClient.find_allocation = nothing
OriginalClient.get_allocations_by_user_uid = no_list
OriginalClient.get_reward = nothing
time.time = lambda: float(os.environ["NOW"])
real, made = decisions.record, 0

def record(*args, **values):
    global made
    made += 1
    if made == int(os.environ["KILLED_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **values)

decisions.record = record
from payouts.cli import app
app()
"""


def killed(folder: Path, at: int, *arguments: str, now: float = AT) -> None:
    """Run a command that is killed in the moment in which it writes its nth decision."""
    env = {**NOBODY, "KILLED_AT": str(at), "NOW": str(now)}
    command = [sys.executable, "-c", KILLED, *arguments, f"--ledger={folder / 'payouts.db'}"]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.slow
def test_a_settlement_that_is_killed_is_not_there_at_all(folder: Path) -> None:
    prepare(folder, State.UNKNOWN, rows=3)
    before = entries(folder)
    killed(folder, 3, "resolve", "r1", "r2", "r3", "--as=rejected", "--note=seen")
    assert (entries(folder), decided(folder)) == (before, [])


@pytest.mark.slow
def test_a_retry_that_is_killed_has_whole_rows_only(folder: Path) -> None:
    prepare(folder, State.REJECTED, rows=3)
    before = [row_of(folder, f"r{n}") for n in (2, 3)]
    killed(folder, 2, "retry", "--state=rejected", "--yes")
    assert [row_of(folder, f"r{n}") for n in (2, 3)] == before
    assert (row_of(folder, "r1")["state"], [each.row for each in decided(folder)]) == ("planned", ["r1"])


@pytest.mark.slow
def test_an_undo_that_is_killed_is_not_there_at_all(call: Call, folder: Path) -> None:
    prepare(folder, State.UNKNOWN, rows=2)
    assert call("resolve", "r1", "r2", "--as=done", "--note=seen").exit_code == 0
    before = [row_of(folder, f"r{n}") for n in (1, 2)]
    killed(folder, 2, "resolve", "r1", "r2", "--undo", "--note=no")
    assert [row_of(folder, f"r{n}") for n in (1, 2)] == before
    assert [(each.kind, each.undone_by) for each in decided(folder)] == [("resolve", None)] * 2
    assert call("resolve", "r1", "r2", "--undo", "--note=no").exit_code == 0


@pytest.mark.slow
def test_bulk_that_is_killed_has_whole_commits_and_goes_on(folder: Path) -> None:
    rows = [token_row(f"r{n}", to_user_uid="user") for n in range(600)]
    lead(folder, rows, State.UNKNOWN, refused())
    with raw(folder) as database:
        database.execute("UPDATE rows SET absent_since = ?, absent_at = ?", (AT, AT))
        database.execute("CREATE TABLE calendar (kept BLOB NOT NULL)")
        believed = TrustedTime(wall=AT + DAY, uptime=uptime(), boot=boot_id())
        database.execute("INSERT INTO calendar VALUES (?)", (believed.dump(),))
    bulk = ("resolve", "--unknown", "--refused", "--as=rejected", "--yes")
    killed(folder, 550, *bulk, now=AT + DAY)
    settled = [entry.id for entry in entries(folder).values() if entry.state is State.REJECTED]
    assert settled == [each.row for each in decided(folder)]
    assert len(settled) == 500
    killed(folder, 100, *bulk, now=AT + DAY)  # the other hundred are the next commit
    assert len(decided(folder)) == 500


# sign-off


def test_every_decision_is_listed_for_programs(call: Call, folder: Path, by_anita: None) -> None:
    decide(folder)
    result = call("decisions")
    told = records(result)
    assert result.exit_code == 0
    assert [(each["kind"], each["campaign"], each["row"]) for each in told] == [
        ("resolve", "diwali-2026", "r1"),
        ("resolve", "diwali-2026", "r2"),
        ("resolve", "diwali-2026", "r3"),
        ("retry", "diwali-2026", "r2"),
        ("undo", "diwali-2026", "r3"),
        ("repeats", "diwali-2026", None),
        ("newest", None, None),
        ("resolve", "coins", "c1"),
    ]
    first = told[0]
    assert (first["event"], first["at"], first["by"]) == ("decision", "2026-11-27T03:40:30.000+00:00", "anita")
    assert (first["item"], first["amount"], first["recipient"]) == (REWARD, "1234567.50", "user-r1")
    assert (first["from"], first["to"], first["note"]) == ("unknown", "rejected", "ticket 4711")
    assert (told[2]["undone_by"], told[7]["evidence"]) == (5, "EnKash's list of 22 November")


def test_the_decisions_of_one_campaign_are_listed_alone(call: Call, folder: Path) -> None:
    decide(folder)
    assert [each["row"] for each in records(call("decisions", "--campaign=coins"))] == ["c1"]
    assert len(records(call("decisions", "--vendor=original"))) == 6
    assert call("decisions", "--campaign=none").exit_code == 5


def test_decisions_are_listed_for_people(call: Call, folder: Path, by_anita: None, monkeypatch: pytest.MonkeyPatch) -> None:
    decide(folder)
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    said("decisions: of a ledger", call("decisions").output)
    monkeypatch.setattr("payouts.cli.reports.MAX_SHOWN", 2)
    said("decisions: the last two", call("decisions", "--csv=decisions.csv", "--html=decisions.html").output)


def test_the_csv_holds_every_decision_and_no_formula(call: Call, folder: Path, by_anita: None) -> None:
    decide(folder, notes=(FORMULA, "-2+3"))
    result = call("decisions", "--csv=decisions.csv")
    assert (result.exit_code, records(result)[-1]["path"]) == (0, "decisions.csv")
    with (folder / "decisions.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["number"] for row in rows] == [str(number) for number in range(1, 9)]
    assert (rows[0]["note"], rows[4]["note"], rows[0]["amount"], rows[7]["amount"]) == (f"'{FORMULA}", "'-2+3", "1234567.50", "")
    assert [(row["from"], row["to"]) for row in rows[3:5]] == [("rejected", "planned"), ("rejected", "unknown")]
    assert (folder / "decisions.csv").stat().st_mode & 0o777 == 0o600


def test_the_page_adds_up_what_stands_for_each_kind_and_reward(call: Call, folder: Path, by_anita: None) -> None:
    decide(folder)
    assert call("decisions", "--html=decisions.html").exit_code == 0
    page = (folder / "decisions.html").read_text()
    assert (folder / "decisions.html").stat().st_mode & 0o777 == 0o600
    assert "1,234,569.00" in page  # r1 and r2; the decision on r3 was taken back
    assert "default-src 'none'" in page


def test_what_was_taken_back_is_no_money_on_the_page(call: Call, folder: Path) -> None:
    decide(folder)
    assert call("decisions", "--html=decisions.html").exit_code == 0
    totals, every = (folder / "decisions.html").read_text().split("<h2>Every decision</h2>")
    assert ("decision undone" in totals, "decision undone" in every) == (False, True)
    assert "for campaign diwali-2026" in every  # which campaign may repeat others


def test_a_decision_shows_its_words_and_its_evidence_once(call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decide(folder, notes=("the console shows it", "no"))
    assert call("decisions", "--html=decisions.html").exit_code == 0
    page = (folder / "decisions.html").read_text()
    assert page.count("the console shows it<br>EnKash&#x27;s list of 22 November") == 1
    assert page.count("EnKash&#x27;s list of 22 November") == 1


def test_a_note_is_no_markup(call: Call, folder: Path) -> None:
    decide(folder, notes=(TO_SIGN, TO_SIGN))
    assert call("decisions", "--html=decisions.html").exit_code == 0
    page = (folder / "decisions.html").read_text()
    assert (page.count("<img"), page.count("&lt;img")) == (0, 5)


def test_a_page_without_decisions_can_be_signed_too(call: Call, folder: Path) -> None:
    prepare(folder, State.UNKNOWN)
    assert call("decisions", "--csv=decisions.csv", "--html=decisions.html").exit_code == 0
    assert len((folder / "decisions.csv").read_text().splitlines()) == 1
    assert "Checked by" in (folder / "decisions.html").read_text()


@pytest.mark.parametrize("option", ["--csv", "--html"])
def test_the_ledger_is_not_written_over(call: Call, folder: Path, option: str) -> None:
    decide(folder)
    assert call("decisions", f"{option}=payouts.db").exit_code == 2
    assert len(decided(folder)) == 8


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_in_a_browser_the_page_fits_and_no_note_does_anything(
    scheme: str, width: int, tmp_path: Path, folder: Path, call: Call, browser: Any
) -> None:
    await asyncio.to_thread(decide, folder, notes=(TO_SIGN, "x" * 300))
    assert (await asyncio.to_thread(call, "decisions", f"--html={tmp_path / 'decisions.html'}")).exit_code == 0
    await browser.open(tmp_path / "decisions.html", scheme, width=width)
    assert await browser.evaluate("document.documentElement.scrollWidth") <= width
    assert await browser.evaluate(WIDEST) == 0
    text = await browser.evaluate("document.body.innerText")
    for part in (TO_SIGN, "Checked by", "Date", "1,234,567.50", "undone by no. 5"):
        assert part in text
    assert browser.complaints == []
    assert {url for url in browser.requests if not url.startswith("data:")} == {(tmp_path / "decisions.html").as_uri()}


async def test_rows_that_move_beside_one_that_is_settled_by_hand_are_no_decisions(folder: Path) -> None:
    async with Ledger(folder / "payouts.db", vendor="original", campaign="c") as ledger:
        first, second = await ledger.plan([token_row("r1"), token_row("r2")])
        unknown = await ledger.move(await ledger.move(first, State.SENT), State.UNKNOWN, problem="no answer")
        await ledger.move_all([(unknown, State.DONE, {"settled_by": "hand", "note": "seen"}), (second, State.SENT, {})])
        kept = await ledger.transact(lambda database: [each.row for each in decisions.decisions(database)])
    assert kept == ["r1"]
