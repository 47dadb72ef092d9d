"""A ledger that was put back from a backup pays nobody a second time, whatever the newer copy has done meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from payouts.states import State
from tests.payouts.audit_kit import AUDIT, env, event, hold, key_of, lead, retried, rows_of, unreadable
from tests.payouts.command_kit import HEADER, REWARD, Call, run_of
from tests.payouts.process_kit import original_at, playing
from vendor_sandboxes import OriginalSandbox

__all__ = ["env"]


@pytest.fixture
def vendor() -> Iterator[OriginalSandbox]:
    with playing(OriginalSandbox(confirm=(0.0, 0.0))) as sandbox:
        yield sandbox


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_a_row_that_a_newer_copy_has_retried_and_paid_is_not_paid_again_from_an_older_one(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str], known: bool
) -> None:
    """Its key of today is one that the older copy has never heard of; the row is in that copy as rejected, or not at all."""
    path = folder / "payouts.db"
    lead(path, vendor.url, {"r1": State.SENT} | ({"r2": State.REJECTED} if known else {}))
    shutil.copy(path, folder / "backup.db")
    if not known:
        lead(path, vendor.url, {"r2": State.REJECTED})
    renewed = retried(path, "r2")
    (folder / "rewards.csv").write_text(HEADER + f"r1,{REWARD},user-r1,1.50\nr2,{REWARD},user-r2,1.50\n")
    assert call(*run_of(), env=env).exit_code == 0
    shutil.copy(folder / "backup.db", path)
    assert call(*run_of(), env=env).exit_code == 7
    call(*AUDIT, "--apply", env=env)
    assert call(*run_of(), env=env).exit_code == 0
    nonces = {each.nonce for each in vendor.state.operations["allocation"].values()}
    assert nonces == {key_of("r1"), renewed.key}
    assert len(vendor.state.operations["allocation"]) == 2
    assert rows_of(path)["r2"].state is State.DONE


def test_a_row_whose_list_cannot_be_read_is_not_sent_from_a_restored_ledger(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    lead(path, vendor.url, {"r1": State.PLANNED})
    shutil.copy(path, folder / "backup.db")
    lead(path, vendor.url, {"r1": State.SENT})
    shutil.copy(folder / "backup.db", path)
    assert event(call(*AUDIT, "--apply", env=env), "released") is not None
    unreadable(vendor, hold(vendor, "user-new", "another"))
    before = len(vendor.state.operations["allocation"])
    (folder / "rewards.csv").write_text(HEADER + f"new,{REWARD},user-new,1.50\n")
    assert call(*run_of(), env=env).exit_code == 3
    assert (rows_of(path)["new"].state, len(vendor.state.operations["allocation"])) == (State.UNKNOWN, before)


def test_nothing_is_decided_about_an_older_copy(call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]) -> None:
    path = folder / "payouts.db"
    lead(path, vendor.url, {"r1": State.REJECTED, "r2": State.UNKNOWN})
    shutil.copy(path, folder / "backup.db")
    lead(path, vendor.url, {"r3": State.SENT})
    shutil.copy(folder / "backup.db", path)
    assert call("retry", "r1", "--yes", env=env).exit_code == 7
    assert call("resolve", "r2", "--as=rejected", "--note=asked", env=env).exit_code == 7
    assert [entry.state for entry in rows_of(path).values()] == [State.REJECTED, State.UNKNOWN]


@pytest.mark.slow
def test_a_campaign_that_an_older_copy_has_lost_is_not_paid_again_under_a_mistyped_name(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    lead(path, vendor.url, {"r1": State.SENT}, campaign="first")
    shutil.copy(path, folder / "backup.db")
    (folder / "rewards.csv").write_text(HEADER + f"q1,{REWARD},user-q1,1.50\n")
    assert call(*run_of(), env=env).exit_code == 0
    shutil.copy(folder / "backup.db", path)
    assert event(call(*AUDIT, "--apply", env=env), "released") is not None
    mistyped = [each.replace("diwali-2026", "diwali-206") for each in run_of()]
    result = call(*mistyped, env=env)
    assert (result.exit_code, (event(result, "repeats") or {})["campaign"]) == (2, "diwali-2026")
    assert call(*run_of(), env=env).exit_code == 0
    assert len(vendor.state.operations["allocation"]) == 1
    assert call(*mistyped, env=env).exit_code == 2  # now its rows are known


def test_a_ledger_with_campaigns_at_two_places_is_released_once_both_were_compared(
    call: Call, folder: Path, vendor: OriginalSandbox, env: dict[str, str]
) -> None:
    path = folder / "payouts.db"
    with playing(OriginalSandbox(confirm=(0.0, 0.0))) as another:
        lead(path, vendor.url, {"r1": State.PLANNED})
        lead(path, another.url, {"q1": State.PLANNED}, campaign="holi-2027")
        shutil.copy(path, folder / "backup.db")
        lead(path, vendor.url, {"r1": State.SENT})
        shutil.copy(folder / "backup.db", path)
        first = call(*AUDIT, "--apply", env=env)
        assert (first.exit_code, event(first, "released")) == (4, None)
        second = call(*AUDIT, "--apply", env=original_at(another.url))
        assert (second.exit_code, event(second, "released") is not None) == (0, True)
