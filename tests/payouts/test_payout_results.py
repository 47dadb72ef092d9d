"""The file of results holds every row and no formula, and is whole or not there."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, cast

import pytest

from payouts.cells import protect
from payouts.ledger.reader import LedgerReader
from payouts.report.results import replacing, write_results
from payouts.states import Entry
from tests.payouts.report_kit import HOSTILE, paid

__all__ = ["paid"]


@pytest.mark.slow
def test_results_hold_every_row_and_no_formula(paid: tuple[Path, list[Entry]], tmp_path: Path) -> None:
    path, entries = paid
    results = tmp_path / "results.csv"
    with LedgerReader(path) as reader:
        assert write_results(reader, reader.campaign(), results) == len(entries)
    with results.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["state"] for row in rows] == [entry.state for entry in entries]
    assert [row["id"].removeprefix("'") for row in rows] == [entry.id for entry in entries]
    assert [row["amount"] for row in rows] == [entry.amount for entry in entries]
    by_id = {row["id"]: row for row in rows}
    assert by_id["'=r1"]["problem"] == HOSTILE
    assert by_id["m1"]["problem"] == "'-other amount"
    assert by_id["t1"]["note"] == "seen in the console"
    assert by_id["d0"]["sent_at"] == "2026-07-25T17:20:00.500+00:00"
    assert (by_id["p1"]["sent_at"], by_id["p1"]["settled_by"]) == ("", "")
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert results.stat().st_mode & 0o777 == 0o600


def test_results_are_of_a_reader_and_its_campaign(paid: tuple[Path, list[Entry]], tmp_path: Path) -> None:
    place, wrong = tmp_path / "results.csv", cast("Any", str(paid[0]))
    with LedgerReader(paid[0]) as reader:
        with pytest.raises(TypeError, match=r"^reader: give LedgerReader\(\.\.\.\), not "):
            write_results(wrong, reader.campaign(), place)
        with pytest.raises(TypeError, match=r"^campaign: give Campaign\(\.\.\.\), not "):
            write_results(reader, wrong, place)
    assert not place.exists()


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_cell_that_a_spreadsheet_would_run_begins_with_an_apostrophe(cell: str) -> None:
    assert protect(cell) == f"'{cell}"


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path: Path) -> None:
    place = tmp_path / "report.html"
    place.write_text("old")

    def write() -> None:
        with replacing(place) as stream:
            stream.write("half")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert place.read_text() == "old"
