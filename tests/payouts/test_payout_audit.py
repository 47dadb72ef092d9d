"""The whole ledger is compared with the vendor's books: what differs is told, and put right where the vendor proves it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from attrs import evolve

from payouts.audit.absence import record_absent
from payouts.ledger.reader import LedgerReader
from payouts.ledger.sqlite import Ledger
from payouts.report.page import audit_section
from payouts.states import PROVEN, State
from rewards_core.cli.output import Output
from tests.payouts.audit_kit import AUDIT, CAMPAIGN, env, hold, key_of, kinds, lead, retried, rows_of, summary, unreadable, vendor
from tests.payouts.command_kit import HEADER, REWARD, Call, for_people, records, run_of
from tests.payouts.process_kit import SECRET, original_at, playing
from tests.texts import new_lines, said
from vendor_sandboxes import OriginalSandbox

__all__ = ["env", "vendor"]

OTHER_REWARD = "112144981245"

AGREES, BEHIND = None, "behind"
TABLE: dict[State, tuple[str | None, str | None, str | None, str | None]] = {
    #               nothing     pending     done    failed
    State.PLANNED: (AGREES, "held", "held", BEHIND),
    State.SENT: (AGREES, "held", "held", BEHIND),
    State.UNKNOWN: (AGREES, "held", "held", BEHIND),
    State.REJECTED: (AGREES, "held", "held", BEHIND),
    State.FAILED: (AGREES, "held", "held", AGREES),
    State.ACCEPTED: ("not_held", AGREES, BEHIND, BEHIND),
    State.DONE: ("not_held", "not_done", AGREES, "not_held"),
    State.MISMATCH: ("not_held", "as_asked", "as_asked", "not_held"),
}
BOOKS = (None, "pending", "done", "failed")
BECOMES = {"pending": State.ACCEPTED, "done": State.DONE, "failed": State.FAILED}


def plant_table(ledger: Path, vendor: OriginalSandbox) -> dict[str, str | None]:
    """Make one row for each pair of what the ledger says and what the vendor holds, and return what is to be found."""
    states, uids, expected = {}, {}, {}
    for state, kinds_there in TABLE.items():
        for status, kind in zip(BOOKS, kinds_there, strict=True):
            row = f"{state}-{status}"
            states[row], expected[row] = state, kind
            if status is not None:
                uids[row] = hold(vendor, f"user-{row}", key_of(row), status=status)
            elif state in {State.DONE, State.ACCEPTED}:
                uids[row] = "999999999999"
    lead(ledger, vendor.url, states, uids=uids)
    return expected


@pytest.mark.slow
def test_every_state_is_compared_with_everything_the_vendor_may_hold(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    expected = plant_table(folder / "payouts.db", vendor)
    result = call(*AUDIT, env=env)
    assert result.exit_code == 3, result.output
    assert kinds(result) == {row: kind for row, kind in expected.items() if kind not in {AGREES, BEHIND}}
    found = summary(result)
    assert found["behind"] == sum(kind == BEHIND for kind in expected.values())
    assert found["agree"] == sum(kind is AGREES for kind in expected.values())
    assert (found["complete"], found["rows"], found["unchecked"], found["applied"]) == (True, len(expected), 0, 0)
    assert {row: entry.state for row, entry in rows_of(folder / "payouts.db").items()} == {
        row: State(row.partition("-")[0]) for row in expected
    }
    assert SECRET not in result.output


@pytest.mark.slow
def test_rows_are_moved_to_what_the_vendor_proves_and_paid_ones_never(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    expected = plant_table(path, vendor)
    before = rows_of(path)
    result = call(*AUDIT, "--apply", env=env)
    assert result.exit_code == 3  # what is not held is not put right
    moved = {row for row, kind in expected.items() if kind in {"held", BEHIND}}
    for row, entry in rows_of(path).items():
        if row in moved:
            status = row.partition("-")[2]
            assert (entry.state, entry.settled_by) == (BECOMES[status], "audit"), row
            assert entry.note is not None
            assert entry.note.endswith(f" {entry.uid} as {status}")
        else:
            assert evolve(entry, absent_since=None, absent_at=None) == before[row]
    assert summary(result)["applied"] == len(moved)
    decided = [each for each in records(call("decisions")) if each.get("kind") == "audit"]
    assert {each["row"] if "row" in each else each["id"] for each in decided} == moved
    again = call(*AUDIT, env=env)
    assert set(kinds(again)) == set(kinds(result)) - moved
    assert (again.exit_code, summary(again)["behind"]) == (3, 0)


def test_no_proof_leads_away_from_a_row_that_is_paid() -> None:
    assert State.DONE not in PROVEN


@pytest.mark.parametrize(
    ("kind", "held"),
    [
        ("other_amount", {"amount": "2.50"}),
        ("other_reward", {"reward": OTHER_REWARD}),
        ("other_user", {"user": "somebody-else"}),
        ("other_key", {"key": "of-somebody-else"}),
    ],
)
def test_something_else_under_the_rows_uid_is_told_and_never_applied(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str], kind: str, held: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    uid = hold(vendor, **{"user": "user-r1", "key": key_of("r1"), **held})
    lead(path, vendor.url, {"r1": State.DONE}, uids={"r1": uid})
    result = call(*AUDIT, "--apply", env=env)
    assert (result.exit_code, kinds(result), summary(result)["applied"]) == (3, {"r1": kind}, 0)
    assert rows_of(path)["r1"].state is State.DONE


@pytest.mark.parametrize("held", [{"amount": "2.50"}, {"reward": OTHER_REWARD}, {"user": "user-r2"}])
def test_a_mismatch_that_still_differs_agrees(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str], held: dict[str, str]
) -> None:
    uid = hold(vendor, **{"user": "user-r1", "key": key_of("r1"), **held})
    lead(folder / "payouts.db", vendor.url, {"r1": State.MISMATCH, "r2": State.PLANNED}, uids={"r1": uid})
    assert call(*AUDIT, env=env).exit_code == 0


@pytest.mark.parametrize("state", [State.PLANNED, State.UNKNOWN, State.DONE])
def test_a_row_that_another_recipient_was_paid_for_is_told(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str], state: State
) -> None:
    hold(vendor, "user-r2", key_of("r1"))
    lead(folder / "payouts.db", vendor.url, {"r1": state, "r2": State.PLANNED})
    result = call(*AUDIT, "--apply", env=env)
    assert result.exit_code == 3
    assert "other_user" in {each["kind"] for each in records(result) if each.get("id") == "r1"}
    assert rows_of(folder / "payouts.db")["r1"].state is state


@pytest.mark.parametrize("state", [State.PLANNED, State.UNKNOWN, State.DONE])
def test_a_payment_whose_user_the_list_spells_otherwise_is_told(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str], state: State
) -> None:
    held = vendor.state.operations["allocation"][hold(vendor, "user-r1", key_of("r1"))]
    held.head = held.head.replace("user-r1", "USER-R1")
    lead(folder / "payouts.db", vendor.url, {"r1": state})
    result = call(*AUDIT, "--apply", env=env)
    assert (result.exit_code, kinds(result)) == (3, {"r1": "other_user"})
    entry = rows_of(folder / "payouts.db")["r1"]
    assert (entry.state, entry.absent_since) == (state, None)


def test_two_payments_for_one_row_are_told(call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]) -> None:
    path = folder / "payouts.db"
    uids = {row: hold(vendor, f"user-{row}", key_of(row)) for row in ("same", "once")}
    uids["old"] = hold(vendor, "user-old", key_of("old"), status="failed")
    uids["fine"] = hold(vendor, "user-fine", key_of("fine"), status="failed")
    hold(vendor, "user-same", key_of("same"), reward=OTHER_REWARD)
    states = {"same": State.DONE, "once": State.DONE, "old": State.FAILED, "fine": State.FAILED}
    lead(path, vendor.url, states, uids=uids)
    for row in ("old", "fine"):
        hold(vendor, f"user-{row}", retried(path, row).key)
    vendor.state.settle(vendor.state.operations["allocation"][uids["old"]], "done")  # what had failed was paid after all
    result = call(*AUDIT, "--apply", env=env)
    assert result.exit_code == 3
    told = [(each["id"], each["kind"], each["applied"]) for each in records(result) if each["event"] == "difference"]
    assert sorted(told) == [
        ("fine", "held", True),
        ("old", "held", True),
        ("old", "held_twice", False),
        ("same", "held_twice", False),
    ]


def test_an_allocation_under_a_key_that_a_retry_replaced_is_the_rows_own(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    lead(path, vendor.url, {"r1": State.REJECTED})
    retried(path, "r1")
    uid = hold(vendor, "user-r1", key_of("r1"))
    result = call(*AUDIT, "--apply", env=env)
    assert (result.exit_code, kinds(result)) == (0, {"r1": "held"})
    entry = rows_of(path)["r1"]
    assert (entry.state, entry.uid) == (State.DONE, uid)  # it is not paid a second time under the new key
    assert call(*AUDIT, env=env).exit_code == 0


def test_a_row_that_is_still_pending_under_an_old_key_is_waited_for_and_not_paid_again(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    lead(path, vendor.url, {"r1": State.REJECTED})
    retried(path, "r1")
    uid = hold(vendor, "user-r1", key_of("r1"), status="pending")
    assert call(*AUDIT, "--apply", env=env).exit_code == 0
    vendor.state.settle(vendor.state.operations["allocation"][uid], "done")
    (folder / "rewards.csv").write_text(HEADER + f"r1,{REWARD},user-r1,1.50\n")
    assert call(*run_of(), env=env).exit_code == 0
    assert (rows_of(path)["r1"].state, len(vendor.state.operations["allocation"])) == (State.DONE, 1)


def test_grants_the_ledger_does_not_know_are_told_or_allowed(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    uid = hold(vendor, "user-r1", key_of("r1"))
    lead(path, vendor.url, {"r1": State.DONE}, uids={"r1": uid})
    stray = hold(vendor, "user-r1", "another-program")
    result = call(*AUDIT, env=env)
    (told,) = [each for each in records(result) if each["event"] == "difference"]
    assert (result.exit_code, told["kind"], told["uid"], told["id"]) == (3, "unknown_to_ledger", stray, None)
    allowed = call(*AUDIT, "--allow-unknown", env=env)
    assert (allowed.exit_code, summary(allowed)["unknown_allowed"], summary(allowed)["differences"]) == (0, 1, {})


def test_an_allocation_that_failed_was_granted_to_nobody(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    lead(folder / "payouts.db", vendor.url, {"r1": State.PLANNED, "r2": State.PLANNED})
    hold(vendor, "user-r1", "another-program", status="failed")
    hold(vendor, "user-r1", key_of("r2"), status="failed")
    result = call(*AUDIT, env=env)
    assert (result.exit_code, kinds(result), summary(result)["agree"]) == (0, {}, 2)


def test_one_campaign_is_judged_and_the_rows_of_all_own_what_is_held(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    lead(path, vendor.url, {"a": State.PLANNED}, to_user_uid="asha")
    lead(path, vendor.url, {"b": State.PLANNED, "c": State.PLANNED}, campaign="holi", to_user_uid="Asha")
    hold(vendor, "Asha", key_of("b", "holi"))
    hold(vendor, "asha", key_of("a"))
    result = call(*AUDIT, f"--campaign={CAMPAIGN}", env=env)
    assert (result.exit_code, kinds(result), summary(result)["rows"]) == (3, {"a": "held"}, 1)
    result = call(*AUDIT, "--campaign=holi", env=env)
    assert (result.exit_code, kinds(result), summary(result)["rows"]) == (3, {"b": "held"}, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("page_size", "requests"), [(0, 2), (3, 8)])
def test_a_ledger_that_was_paid_agrees_with_the_books(call: Call, folder: Path, page_size: int, requests: int) -> None:
    rows = "".join(f"r{number},{REWARD},{number % 2},1.5\n" for number in range(20))
    (folder / "rewards.csv").write_text(HEADER + rows)
    with playing(OriginalSandbox(confirm=(0, 0), page_size=page_size)) as vendor:
        env = original_at(vendor.url)
        assert call(*run_of(), env=env).exit_code == 0
        result = call(*AUDIT, env=env)
    assert (result.exit_code, summary(result)["agree"]) == (0, 20)
    assert summary(result)["requests"] == requests  # each page counts


def test_what_could_not_be_checked_is_never_fine(call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]) -> None:
    path = folder / "payouts.db"
    uids = {row: hold(vendor, f"user-{row}", key_of(row)) for row in ("list", "read", "fine")}
    lead(path, vendor.url, {"list": State.DONE, "list2": State.UNKNOWN}, uids=uids, to_user_uid="user-list")
    lead(path, vendor.url, {"read": State.DONE}, uids=uids, to_user_uid="nobody", campaign="holi")
    lead(path, vendor.url, {"fine": State.DONE}, uids=uids)
    unreadable(vendor, uids["list"])
    unreadable(vendor, uids["read"])
    result = call(*AUDIT, env=env)
    assert result.exit_code == 4
    assert (summary(result)["complete"], summary(result)["unchecked"], summary(result)["agree"]) == (True, 3, 1)
    assert rows_of(path)["list2"].absent_at is None  # a list that cannot be read proves no absence
    reasons = [each for each in records(result) if each["event"] == "unchecked"]
    assert sum(each["rows"] for each in reasons) == 3


def test_every_reason_for_which_rows_could_not_be_checked_is_told(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    uids = {row: hold(vendor, f"other-{row}", key_of(row)) for row in ("r1", "r2")}
    lead(folder / "payouts.db", vendor.url, {"r1": State.DONE, "r2": State.DONE}, uids=uids, to_user_uid="asha")
    for uid in uids.values():
        unreadable(vendor, uid)
    result = call(*AUDIT, env=env)
    reasons = [each for each in records(result) if each["event"] == "unchecked"]
    assert (sum(each["rows"] for each in reasons), summary(result)["unchecked"]) == (2, 2)


def test_what_a_complete_list_does_not_show_is_kept_with_the_row(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    lead(path, vendor.url, {"gone": State.UNKNOWN, "named": State.UNKNOWN, "sent": State.SENT}, uids={"named": "999999999999"})
    assert call(*AUDIT, env=env).exit_code == 0
    first = rows_of(path)
    assert first["gone"].absent_since == first["gone"].absent_at is not None
    assert first["named"].absent_at is first["sent"].absent_at is None
    assert call(*AUDIT, env=env).exit_code == 0
    second = rows_of(path)["gone"]
    assert second.absent_since == first["gone"].absent_since
    assert second.absent_at is not None
    assert second.absent_since is not None
    assert second.absent_at > second.absent_since


async def test_evidence_from_before_the_last_run_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "payouts.db"
    await asyncio.to_thread(lead, path, "", {"r1": State.UNKNOWN})
    times: list[tuple[float | None, float | None]] = []
    for at, run_at in ((100.0, None), (200.0, 50.0), (300.0, 250.0), (400.0, 250.0)):
        monkeypatch.setattr("payouts.audit.absence.uptime", lambda at=at: at)
        async with Ledger(path, vendor="original", campaign=CAMPAIGN) as ledger:
            await ledger.transact(lambda database: database.execute("UPDATE campaigns SET run_at = ?", (run_at,)))  # noqa: B023
            await ledger.transact(lambda database: record_absent(database, [1], at))  # noqa: B023
            entry = await ledger.find("r1")
        assert entry is not None
        times.append((entry.absent_since, entry.absent_at))
    assert times == [(100.0, 100.0), (100.0, 200.0), (300.0, 300.0), (300.0, 400.0)]


def test_the_last_audit_of_a_campaign_is_read_from_the_ledger(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    lead(path, vendor.url, {"a": State.PLANNED})
    lead(path, vendor.url, {"b": State.PLANNED}, campaign="holi")
    hold(vendor, "user-a", key_of("a"))
    call(*AUDIT, env=env)
    call(*AUDIT, "--campaign=holi", env=env)
    with LedgerReader(path) as reader:
        diwali, holi = reader.last_audit(reader.campaign(CAMPAIGN)), reader.last_audit(reader.campaign("holi"))
        assert diwali is not None
        assert holi is not None
        assert (diwali.rows, holi.rows) == (2, 1)
        (difference,) = reader.differences(diwali.number, ["held"])
    assert (difference.row_id, difference.vendor) == ("a", "done")


def test_a_person_reads_what_differs_and_what_to_do(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "payouts.db"
    uids = {row: hold(vendor, f"user-{row}", key_of(row)) for row in ("held", "paid")}
    uids["amount"] = hold(vendor, "user-amount", key_of("amount"), amount="2.50")
    lead(path, vendor.url, {"held": State.REJECTED, "paid": State.DONE, "amount": State.DONE, "gone": State.DONE}, uids=uids)
    hold(vendor, "user-paid", "another-program")
    monkeypatch.setattr(Output, "__init__", lambda self, as_json=None: for_people(self))
    said("audit: what differs", first := call(*AUDIT, env=env).stdout)
    said("audit: what differs, applied", new_lines(call(*AUDIT, "--apply", "--allow-unknown", env=env).stdout, first))
    result = call(*AUDIT, "--max-requests=1", env=env)
    said("audit: ended by its budget", new_lines(result.stdout + result.stderr, first))


def test_more_than_twenty_differences_are_counted(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lead(folder / "payouts.db", vendor.url, {f"r{number:02}": State.DONE for number in range(23)})
    monkeypatch.setattr(Output, "__init__", lambda self, as_json=None: for_people(self))
    result = call(*AUDIT, env=env)
    said("audit: more than twenty differences", result.stdout)


def test_differences_read_well_on_eighty_columns(call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]) -> None:
    path = folder / "payouts.db"
    user = "96908030041"
    for place in range(5):
        uids = {f"a{place}": hold(vendor, user, key_of(f"a{place}"), amount="1234567.50")}
        lead(path, vendor.url, {f"a{place}": State.DONE}, uids=uids, to_user_uid=user, amount="2.50")
        hold(vendor, user, f"program-{place}", amount="98765432.1")
        lead(path, vendor.url, {f"order-of-november-{place}": State.DONE}, to_user_uid=user)
        lead(path, vendor.url, {f"h{place}": State.REJECTED}, to_user_uid=user)
        hold(vendor, user, key_of(f"h{place}"))
    result = call(*AUDIT, "--text", env=env | {"COLUMNS": "80"})
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert result.stdout[:1] != "\n"
    said("audit: twenty differences on 80 columns", result.stdout)
    (program,) = {each["vendor"] for each in records(call(*AUDIT, env=env)) if each.get("kind") == "unknown_to_ledger"}
    assert program == f"98765432.1 of {REWARD}, done"


def test_rows_that_were_settled_since_are_no_difference_and_told(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    uids = {"r1": hold(vendor, "user-r1", key_of("r1"))}
    lead(folder / "payouts.db", vendor.url, {"r1": State.ACCEPTED}, uids=uids)
    result = call(*AUDIT, "--text", env=env)
    assert result.exit_code == 0
    said("audit: settled since", result.stdout)


def test_the_report_begins_with_what_the_audit_found_and_nobody_corrected(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    lead(path, vendor.url, {"r1": State.PLANNED, "r2": State.DONE})
    lead(path, vendor.url, {"s1": State.DONE}, campaign="holi")
    hold(vendor, "user-r1", key_of("r1"))
    hold(vendor, "user-r1", "another-program")
    found = []
    for options in ([], ["--apply"], ["--apply", "--allow-unknown"]):
        call(*AUDIT, *options, env=env)
        assert call("report", f"--campaign={CAMPAIGN}", "--out=report.html").exit_code == 0
        page = (folder / "report.html").read_text()
        assert page.index("</dl>") < page.index(" found ") < page.index('id="audit"')
        found.append(re.findall(r"found (\d+ \w+); see", page))
    assert found == [["3 differences"], ["2 differences"], ["1 difference"]]


def test_the_report_says_what_the_last_audit_found_and_shows_a_strangers_text_as_text(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    lead(path, vendor.url, {"r1": State.PLANNED, "<b>": State.DONE})
    lead(path, vendor.url, {"s1": State.DONE}, campaign="holi")
    hold(vendor, "user-r1", key_of("r1"))
    with LedgerReader(path) as reader:
        assert "Not compared" in audit_section(reader, reader.campaign(CAMPAIGN))
    call(*AUDIT, "--apply", env=env)
    with LedgerReader(path) as reader:
        section = audit_section(reader, reader.campaign(CAMPAIGN))
    assert ("held, corrected" in section, "not_held" in section, "s1" in section) == (True, True, False)
    assert "&lt;b&gt;" in section
    assert "<b>not_held</b>" in section
