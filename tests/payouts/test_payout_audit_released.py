"""A restored ledger is paid from again after a complete audit of all campaigns, and after nothing less."""

from __future__ import annotations

import shutil
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from payouts.ledger.generation import GenerationNote
from payouts.ledger.reader import LedgerReader
from payouts.states import State
from rewards_core.cli.output import Output
from tests.payouts.audit_kit import AUDIT, CAMPAIGN, env, event, hold, key_of, kinds, lead, unreadable, vendor
from tests.payouts.command_kit import HEADER, REWARD, Call, for_people, records, run_of
from tests.payouts.process_kit import original_at, playing
from tests.texts import new_lines, said
from vendor_sandboxes import OriginalSandbox

__all__ = ["env", "vendor"]


@pytest.mark.slow
def test_a_restored_ledger_is_paid_from_only_after_an_audit_and_pays_nobody_twice(call: Call, folder: Path) -> None:
    path, backup = folder / "payouts.db", folder / "backup.db"
    with playing(OriginalSandbox(confirm=(0, 0))) as vendor:
        env = original_at(vendor.url)
        for rows in (1, 3):
            (folder / "rewards.csv").write_text(HEADER + "".join(f"r{row},{REWARD},{row},1\n" for row in range(rows)))
            assert call(*run_of(), env=env).exit_code == 0
            if rows == 1:
                shutil.copy(path, backup)
        shutil.copy(backup, path)
        assert call(*run_of(), env=env).exit_code == 7
        audited = call(*AUDIT, env=env)
        assert (audited.exit_code, event(audited, "released")) == (0, {"event": "released", "coins_unknown": 0})
        assert call(*run_of(), env=env).exit_code == 0
        assert set(vendor.books()["created"].values()) == {1}
        assert len(vendor.books()["allocations"]) == 3


def restored(folder: Path, vendor: OriginalSandbox) -> Path:
    """Make an older copy whose row r1 was paid since."""
    path, backup = folder / "payouts.db", folder / "backup.db"
    lead(path, vendor.url, {"r1": State.PLANNED, "r2": State.PLANNED})
    shutil.copy(path, backup)
    lead(path, vendor.url, {"r1": State.SENT})
    hold(vendor, "user-r1", key_of("r1"))
    shutil.copy(backup, path)
    return path


def test_a_restored_ledger_is_released_by_nothing_less_than_a_whole_audit(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = restored(folder, vendor)
    lead(path, vendor.url, {"s1": State.PLANNED}, campaign="holi")
    for less in ([], ["--max-requests=1", "--apply"], [f"--campaign={CAMPAIGN}", "--apply"]):
        assert event(call(*AUDIT, *less, env=env), "released") is None
    stray = hold(vendor, "user-s1", key_of("s1", "holi"))
    unreadable(vendor, stray)
    assert event(call(*AUDIT, "--apply", env=env), "released") is None
    vendor.state.operations["allocation"][stray].amount = Decimal("1.50")
    result = call(*AUDIT, "--apply", env=env)
    assert (result.exit_code, event(result, "released") is not None) == (0, True)
    assert call(*AUDIT, env=env).exit_code == 0


def test_what_was_compared_before_a_newer_copy_was_paid_from_releases_nothing(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path, backup = folder / "payouts.db", folder / "backup.db"
    lead(path, vendor.url, {"r1": State.PLANNED, "r2": State.PLANNED, "sent": State.SENT})
    assert call(*AUDIT, "--max-requests=1", env=env).exit_code == 4
    log = path.with_name("payouts.db-wal")
    assert not (log.exists() and log.stat().st_size)  # a copy of the file is a copy of all of it
    shutil.copy(path, backup)
    lead(path, vendor.url, {"r1": State.SENT})
    hold(vendor, "user-r1", key_of("r1"))
    shutil.copy(backup, path)
    result = call(*AUDIT, "--apply", env=env)
    assert (result.exit_code, kinds(result), event(result, "continued")) == (0, {"r1": "held"}, None)


def test_an_audit_during_which_a_newer_copy_was_paid_from_releases_nothing(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = restored(folder, vendor)
    with LedgerReader(path) as reader:
        note = GenerationNote(reader.generation()[0])

    class Lists(dict[str, Any]):
        def get(self, asked: str, default: object = None) -> object:
            if asked == "user-r2":
                note.take()
                note.write(9, time.time(), ("n" * 16, "n" * 16))
                note.release()
            return dict.get(self, asked, default)

    vendor.state.by_user["allocation"] = Lists(vendor.state.by_user["allocation"])
    assert event(call(*AUDIT, "--apply", env=env), "released") is None
    vendor.state.by_user["allocation"] = dict(vendor.state.by_user["allocation"])
    assert event(call(*AUDIT, "--apply", env=env), "released") is not None


def test_a_person_may_vouch_for_a_ledger_that_this_machine_does_not_know_and_for_no_older_copy(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    restored(folder, vendor)
    assert call("audit", "--newest").exit_code == 6
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "another-machine"))
    moved = folder / "moved.db"
    lead(moved, vendor.url, {"r1": State.SENT})
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "this-machine"))
    result = call("audit", "--ledger=moved.db", "--newest")
    assert (result.exit_code, event(result, "released") is not None) == (0, True)
    assert [each["kind"] for each in records(call("decisions", "--ledger=moved.db")) if "kind" in each] == ["newest"]
    lead(moved, vendor.url, {"r2": State.SENT})


def test_a_person_reads_why_nothing_can_be_sent_yet(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    restored(folder, vendor)
    monkeypatch.setattr(Output, "__init__", lambda self, as_json=None: for_people(self))
    first = call(*AUDIT, env=env)
    said("audit: a restored ledger", first.stdout + first.stderr)
    result = call(*AUDIT, "--apply", env=env)
    said("audit: a restored ledger, applied", new_lines(result.stdout + result.stderr, first.stdout + first.stderr))
