"""`webhook-listener backup`: a copy of the store in use, complete or not there."""

from __future__ import annotations

import stat
from pathlib import Path

from tests.texts import said
from tests.webhooks.command_kit import fill, lines, run, screen, some_events
from tests.webhooks.store_contract import event


def test_a_copy_is_a_store_of_its_own(folder: Path) -> None:
    fill(folder, some_events)
    (row,) = lines(run("backup", "copy.db"))
    assert row == {"store": "sqlite:///inbox.db", "file": "copy.db", "bytes": (folder / "copy.db").stat().st_size}
    assert stat.S_IMODE((folder / "copy.db").stat().st_mode) == 0o600
    fill(folder, lambda store: store.accept(event("later")))
    assert [one["id"] for one in lines(run("events", "list", "--store", "sqlite:///copy.db"))] == [3, 2, 1]
    assert [one["id"] for one in lines(run("events", "list"))] == [4, 3, 2, 1]


def test_a_person_is_told_where_the_copy_is(folder: Path) -> None:
    fill(folder, some_events)
    (folder / "copy.db").write_text("what stood there")
    (line,) = screen("backup", "copy.db")
    assert line == f"sqlite:///inbox.db copied to copy.db ({(folder / 'copy.db').stat().st_size:,} bytes)"


def test_an_earlier_copy_is_replaced_but_not_once_it_was_used_as_a_store(folder: Path) -> None:
    fill(folder, some_events)
    for _ in range(2):
        assert run("backup", "copy.db").exit_code == 0
    run("events", "list", "--store", "sqlite:///copy.db")
    before = (folder / "copy.db").read_bytes()
    result = run("backup", "copy.db")
    assert result.exit_code == 7
    said("backup: the copy was used as a store", result.stderr)
    assert (folder / "copy.db").read_bytes() == before


def test_where_no_copy_can_be_nothing_is_backed_up(folder: Path) -> None:
    fill(folder, some_events)
    (folder / "used.db").write_text("a database")
    (folder / "used.db-wal").write_text("its log")
    errors = []
    for to in ("inbox.db", "inbox.db.lock", "none/copy.db", ".", "used.db"):
        result = run("backup", to)
        assert (result.exit_code, result.stdout) == (7, "")
        errors.append(result.stderr)
    said("backup: files that cannot be the copy", "".join(errors))
    assert len(lines(run("events", "list"))) == 3
    assert (folder / "used.db").read_text() == "a database"
