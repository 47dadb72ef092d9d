"""Workbooks: ids and amounts come from text cells of the right sheet and row, and anything else is refused with its cell."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from payouts.cli.preflight import Mistakes
from payouts.rows import Row
from payouts.source.checks import FileSummary, check_rows
from payouts.source.files import read_rows, rereadable
from payouts.source.layout import Layout
from payouts.source.mistakes import Mistake, column_letters
from payouts.vendors import OriginalRow
from rewards_core.cli.output import Output
from tests.payouts.command_kit import HEADER, REWARD, Call, entries, for_people, records, run_of
from tests.payouts.process_kit import original_at
from tests.payouts.workbook_kit import (
    GOOD,
    MAIN,
    book_of,
    boolean,
    error,
    formula,
    number,
    shared,
    sheet,
    table_book,
    text,
    texts,
    workbook,
)
from tests.payouts.workbook_kit import (
    Row as XmlRow,
)
from tests.texts import said

BOOK = Layout(vendor="original", form="workbook")
TITLES = texts("id", "reward_uid", "to_user_uid", "amount")
ONE = texts("r1", REWARD, "110985463782", "1.50")
TWO = texts("r2", REWARD, "969080318628", "2.25")


def checked(content: bytes, layout: Layout = BOOK) -> tuple[FileSummary, list[Mistake]]:
    found: list[Mistake] = []
    return check_rows(io.BytesIO(content), layout, on_mistake=found.append), found


def rows_of(content: bytes, layout: Layout = BOOK) -> list[Row]:
    return list(read_rows(io.BytesIO(content), layout))


def told_of(content: bytes, layout: Layout = BOOK) -> list[str]:
    return [str(mistake) for mistake in checked(content, layout)[1]]


def notes_of(content: bytes, layout: Layout = BOOK) -> list[tuple[str, str]]:
    result, found = checked(content, layout)
    assert found == []
    return [(note.kind, note.message) for note in result.notes]


def test_a_sheet_of_texts_is_read() -> None:
    content = book_of([TITLES, ONE, TWO])
    assert rows_of(content) == [
        OriginalRow(id="r1", reward_uid=REWARD, to_user_uid="110985463782", amount="1.50", line=2),
        OriginalRow(id="r2", reward_uid=REWARD, to_user_uid="969080318628", amount="2.25", line=3),
    ]
    assert notes_of(content) == []


def test_texts_are_read_however_they_are_kept() -> None:
    strings = [
        "<t>r1</t>",
        "<r><t>1109854</t></r><r><rPr><b/></rPr><t>63782</t></r>",
        "<t>r3</t><rPh sb='0' eb='1'><t>sound</t></rPh>",
        "<t>n_x005F_x0041_</t>",
    ]
    table = sheet(
        {
            1: [*TITLES, text("nonce")],
            2: [shared(0), text(REWARD), shared(1), formula("A1", "1.50"), shared(3)],
            3: [shared(2), formula('CONCAT("7","1")', "71"), text("33"), text("1"), formula('""', "")],
        }
    )
    assert rows_of(workbook({"S": table}, strings=strings)) == [
        OriginalRow(id="r1", reward_uid=REWARD, to_user_uid="110985463782", amount="1.50", nonce="n_x0041_", line=2),
        OriginalRow(id="r3", reward_uid="71", to_user_uid="33", amount="1", line=3),
    ]


WRONG: dict[str, tuple[str, str]] = {
    "a number": (number("110985463782"), "number"),
    "a number in scientific notation": (number("1.10985463782E+17"), "number"),
    "a number of a formula": (formula("1+1", "2", "n"), "number"),
    "a number with a word beside it": (number("5", style=3), "number"),
    "a date": (number("45000", style=1), "date"),
    "a date in a format of one's own": (number("45000", style=2), "date"),
    "a date as text for programs": ('<c t="d"><v>2026-05-01</v></c>', "date"),
    "a boolean": (boolean(True), "boolean"),
    "an error": (error("#N/A"), "error"),
    "an error of a formula": (formula("1/0", "#DIV/0!", "e"), "error"),
    "a formula without a result": (formula("A1", None), "formula"),
    "a formula that a program wrote": ("<c><f>A1</f><v></v></c>", "formula"),
    "a text that a spreadsheet changed": (text("1.10985E+11"), "scientific"),
    "a text that programs read in two ways": (text("u_x0041_1"), "escaped"),
    "half a character of another": (formula("A1", "_xD83D_"), "escaped"),
}


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("name", WRONG)
def test_only_text_cells_are_taken_for_ids_amounts_and_keys(name: str, place: int) -> None:
    cell, kind = WRONG[name]
    row = texts("r1", REWARD, "110985463782", "1.50", "n1")
    row[place] = cell
    _, found = checked(book_of([[*TITLES, text("nonce")], row]))
    assert [(each.kind, each.line, each.column, each.place) for each in found] == [
        (kind, 2, place + 1, f"Sheet1!{'ABCDE'[place]}2")
    ]


@pytest.mark.parametrize("name", WRONG)
def test_columns_that_are_not_read_hold_anything(name: str) -> None:
    content = book_of([[*TITLES, text("joined"), text("")], [*ONE, WRONG[name][0], "", number("7")]])
    assert [row.id for row in rows_of(content)] == ["r1"]
    assert [(kind, told.partition(": ")[2]) for kind, told in notes_of(content)] == [("ignored", "joined")]


def test_words_about_cells_that_are_no_text() -> None:
    told = [f"{name}: {told_of(book_of([TITLES, [*ONE[:2], cell, ONE[3]]]))[0]}" for name, (cell, _) in WRONG.items()]
    said("workbooks: cells that are no text", "\n".join(told))


def test_a_header_may_hold_other_than_text() -> None:
    layout = Layout(vendor="original", form="workbook", names={"amount": "2026"})
    assert [row.amount for row in rows_of(book_of([[*TITLES[:3], number("2026"), error("#REF!")], ONE]), layout)] == ["1.50"]


@pytest.mark.parametrize(("first_row", "first_column"), [(1, 1), (4, 1), (1, 2), (17, 30)])
def test_a_place_is_named_as_the_spreadsheet_shows_it(first_row: int, first_column: int) -> None:
    bad = [*TWO[:2], number("5"), TWO[3]]
    content = book_of([TITLES, ONE, bad], first_row=first_row, first_column=first_column)
    result, found = checked(content)
    cell = f"{column_letters(first_column + 2)}{first_row + 2}"
    assert [each.place for each in found] == [f"Sheet1!{cell}"]
    assert [row.line for row in read_rows(io.BytesIO(content), BOOK, on_mistake=lambda _: None)] == [first_row + 1]
    assert result.notes == []


def test_rows_keep_their_numbers_across_blank_ones() -> None:
    content = workbook({"S": sheet({3: ["", *TITLES], 4: ["", *ONE], 5: ["", text("  ")], 9: ["", *TWO], 12: '<row r="12"/>'})})
    assert [(row.id, row.line) for row in rows_of(content)] == [("r1", 4), ("r2", 9)]
    assert notes_of(content) == [("empty_rows", "4 empty rows between others were skipped")]


def test_rows_and_cells_without_a_place_follow_each_other() -> None:
    rows: list[XmlRow] = [f"<row>{''.join(cells)}</row>" for cells in (TITLES, ONE, [*TWO[:2], number("5"), TWO[3]])]
    assert [each.place for each in checked(book_of(rows))[1]] == ["Sheet1!C3"]


@pytest.mark.parametrize(("column", "name"), [(1, "A"), (26, "Z"), (27, "AA"), (702, "ZZ"), (703, "AAA"), (16_384, "XFD")])
def test_columns_are_named_in_letters(column: int, name: str) -> None:
    assert column_letters(column) == name


@pytest.mark.parametrize("name", ["Payroll", "May 2026", "Bob's", "2026", "दिवाली"])
def test_a_sheet_is_named_as_formulas_spell_it(name: str) -> None:
    shown = {"May 2026": "'May 2026'", "Bob's": "'Bob''s'", "2026": "'2026'"}.get(name, name)
    (told,) = told_of(book_of([TITLES, [*ONE[:3], text("0")]], name=name))
    assert told.startswith(f"{shown}!D2 (amount): ")


PAYROLL, LIST = sheet({1: TITLES, 2: ONE}), sheet({1: texts("name"), 2: texts("Asha")})
EMPTY = sheet({})


def test_the_only_sheet_with_content_is_read_and_named() -> None:
    content = workbook({"Sheet1": EMPTY, "Payroll": PAYROLL, "Sheet3": sheet({2: ["<c s='1'/>", text(" ")]})})
    assert [row.id for row in rows_of(content)] == ["r1"]
    ((kind, told),) = notes_of(content)
    assert kind == "sheet"
    said("workbooks: the only sheet with content", told)


@pytest.mark.parametrize("state", ["hidden", "veryHidden"])
def test_a_hidden_sheet_is_read_only_by_name(state: str) -> None:
    content = workbook({"Payroll": PAYROLL, "Lists": LIST}, states={"Lists": state})
    ((kind, told),) = notes_of(content)
    assert (kind, told.endswith('"Lists" (hidden)')) == ("sheet", True)
    content = workbook({"Sheet1": EMPTY, "Payroll": PAYROLL}, states={"Payroll": state})
    assert [each.kind for each in checked(content)[1]] == ["sheet"]
    assert [row.id for row in rows_of(content, Layout(vendor="original", form="workbook", sheet="Payroll"))] == ["r1"]


def test_a_sheet_is_chosen_by_its_name() -> None:
    other = sheet({1: TITLES, 2: TWO})
    content = workbook({"May": PAYROLL, "June": other})
    layouts = [Layout(vendor="original", form="workbook", sheet=name) for name in ("May", "June")]
    assert [[row.id for row in rows_of(content, layout)] for layout in layouts] == [["r1"], ["r2"]]


def test_words_about_sheets() -> None:
    sheets = {"May": PAYROLL, "June": PAYROLL, "Lists": LIST}
    layout = Layout(vendor="original", form="workbook", sheet="july")
    told = {
        "several sheets": told_of(workbook(sheets, states={"Lists": "hidden"})),
        "no such sheet": told_of(workbook(sheets, states={"Lists": "hidden"}), layout),
        "a given sheet is empty": told_of(workbook({"july": EMPTY, "May": PAYROLL}), layout),
        "only hidden sheets": told_of(workbook({"May": PAYROLL}, states={"May": "hidden"})),
        "no content": told_of(workbook({"May": EMPTY})),
        "many sheets": told_of(workbook({f"S{each}": PAYROLL for each in range(30)})),
        "no header": told_of(book_of([ONE, TWO], first_row=3)),
        "no such column": told_of(book_of([["", *TITLES[1:]], ONE])),
    }
    assert all(len(found) == 1 for found in told.values())
    said("workbooks: sheets that cannot be read", "\n".join(f"{name}: {found[0]}" for name, found in told.items()))


def test_a_chart_sheet_is_no_sheet() -> None:
    sheets = '<sheet name="Chart" r:id="rId9"/><sheet name="S" r:id="rId1"/>'
    book = f'<workbook xmlns="{MAIN}" xmlns:r="urn:r"><sheets>{sheets}</sheets></workbook>'
    content = workbook({"S": PAYROLL}, parts={"xl/workbook.xml": book})
    assert notes_of(content) == []


def test_a_row_that_nobody_sees_is_refused() -> None:
    content = workbook({"S": sheet({1: TITLES, 2: ONE, 3: TWO, 4: [""]}, hidden=[3, 4])})
    _, found = checked(content)
    assert [(each.kind, each.place) for each in found] == [("hidden", "S!A3")]
    said("workbooks: a hidden row", found[0])


@pytest.mark.parametrize("how", ['hidden="1"', 'hidden="true"', 'width="0" customWidth="1"'])
def test_a_column_that_nobody_sees_is_refused_if_it_is_read(how: str) -> None:
    columns = f'<cols><col min="1" max="2" width="9"/><col min="3" max="4" {how}/></cols>'
    _, found = checked(workbook({"S": sheet({1: TITLES, 2: ONE}, columns=columns)}))
    assert [(each.kind, each.place, each.name) for each in found] == [
        ("hidden", "S!C1", "to_user_uid"),
        ("hidden", "S!D1", "amount"),
    ]
    said("workbooks: a hidden column", found[1])
    shown = '<cols><col min="4" max="4" hidden="0" width="9"/><col min="5" max="16384" hidden="1"/></cols>'
    assert len(rows_of(workbook({"S": sheet({1: [*TITLES, text("note")], 2: ONE}, columns=shown)}))) == 1


def test_header_names_and_columns_are_read_as_in_csv() -> None:
    content = book_of(
        [["", *texts("AMOUNT", "Reward UID", "note", "to-user-uid", "ID")], ["", *texts("1", "21", "x", "32", "r1")]]
    )
    assert rows_of(content) == [OriginalRow(id="r1", reward_uid="21", to_user_uid="32", amount="1", line=2)]
    assert [kind for kind, _ in notes_of(content)] == ["header_names", "ignored"]
    twice = checked(book_of([[*TITLES, text("Id")], [*ONE, text("x")]]))[1]
    assert [(each.kind, each.place, each.name) for each in twice] == [("header", "Sheet1!E1", "id")]


def test_a_row_that_repeats_the_header_is_no_payment() -> None:
    titles = texts("ID", "user_id", "event", "note")
    layout = Layout(vendor="enkash", form="workbook")
    again = texts("id", "user_id", " Event ", "another")
    found = checked(book_of([titles, texts("r1", "u1", "e", ""), again, texts("r2", "u2", "e", "")]), layout)[1]
    assert [(each.kind, each.place) for each in found] == [("header", "Sheet1!A3")]
    found = checked(b"id,user_id,event,request_id\nr1,u1,e,k\nid,user_id,event,request_id\n", Layout(vendor="enkash"))[1]
    assert [(each.kind, each.line) for each in found] == [("header", 3)]
    said("files: a row that repeats the header", found[0])


def test_cells_that_are_left_empty_are_empty() -> None:
    found = checked(book_of([[*TITLES, text("nonce")], [ONE[0], "", *ONE[2:]], ONE[:3], TWO]))[1]
    assert [(each.kind, each.place) for each in found] == [
        ("empty", "Sheet1!B2"),
        ("empty", "Sheet1!D3"),
        ("duplicate", "Sheet1!A3"),
    ]


def test_row_numbers_as_ids_are_those_of_the_sheet() -> None:
    layout = Layout(vendor="original", form="workbook", ids_from_line=True)
    assert [row.id for row in rows_of(book_of([TITLES[1:], ONE[1:], [], TWO[1:]], first_row=5), layout)] == ["6", "8"]


def test_words_that_name_another_row() -> None:
    again = [*ONE[:2], *TWO[2:]]
    respelled = [text("R1"), *ONE[1:]]
    formula_like = [text("=r3"), *TWO[1:]]
    result, found = checked(book_of([TITLES, ONE, again, respelled, formula_like], first_row=3))
    assert all(f"on row {4}" in str(each) for each in found)
    assert [each.kind for each in found] == ["duplicate", "respelled"]
    assert "on row 7" in result.notes[0].message


def test_results_opened_and_saved_by_a_spreadsheet_are_read_as_the_rows_that_were_paid() -> None:
    from payouts.report.results import header_of

    titles = header_of("original")
    values = {"id": "'+91", "reward_uid": REWARD, "to_user_uid": "'@handle", "amount": "1.50", "nonce": "k1"}
    content = table_book([titles, [values.get(title, "") for title in titles]])
    assert [(row.id, row.recipient, row.given_key) for row in rows_of(content)] == [("+91", "@handle", "k1")]
    cut = table_book([list(values), list(values.values())])
    assert [(each.kind, each.name) for each in checked(cut)[1]] == [("text_mark", "id"), ("text_mark", "to_user_uid")]


def test_a_workbook_that_is_said_to_be_csv_is_refused() -> None:
    for form in ("csv", "jsonl"):
        assert [each.kind for each in checked(GOOD, Layout(vendor="original", form=form))[1]] == ["workbook"]


def test_a_copy_is_read_twice_with_the_same_result(tmp_path: Path) -> None:
    path = tmp_path / "rewards.xlsx"
    path.write_bytes(GOOD)
    with rereadable(str(path)) as stream:
        first = list(read_rows(stream, BOOK))
        path.write_bytes(b"")
        stream.seek(0)
        assert list(read_rows(stream, BOOK)) == first == rows_of(GOOD)


def test_mistakes_in_many_rows_are_told_once_with_their_cells(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad: Sequence[Sequence[str]] = [[text(f"r{at}"), text(REWARD), number(f"1109854637{at:02}"), text("1")] for at in range(20)]
    content = book_of([TITLES, *bad], name="May 2026")
    for as_json in (True, False):
        if not as_json:
            monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
        mistakes = Mistakes(Output(as_json=as_json), all_errors=False)
        for each in checked(content)[1]:
            mistakes.add(each)
        mistakes.tell()
    program, people = capsys.readouterr().out.split("\n", 1)
    told: dict[str, Any] = json.loads(program)
    assert (told["sheet"], told["cell"], told["line"], told["column"], told["count"]) == ("May 2026", "C2", 2, 3, 20)
    said("workbooks: a mistake in many rows", people)


@pytest.mark.slow
def test_the_sheet_that_was_named_is_paid_and_the_same_rows_as_csv_are_known(call: Call, folder: Path, lenient: str) -> None:
    (folder / "rewards.xlsx").write_bytes(workbook({"May": PAYROLL, "June": sheet({1: TITLES, 2: TWO})}))
    refused = call(*run_of("rewards.xlsx"), env=original_at(lenient))
    assert (refused.exit_code, (folder / "payouts.db").exists()) == (2, False)
    paid = call(*run_of("rewards.xlsx", "--sheet=June"), env=original_at(lenient))
    assert paid.exit_code == 0, paid.output
    assert {name: (entry.recipient, entry.line) for name, entry in entries(folder).items()} == {"r2": ("969080318628", 2)}
    (folder / "rewards.csv").write_text(HEADER + f"r2,{REWARD},969080318628,2.25\n")
    again = call(*run_of("rewards.csv", "--json"), env=original_at(lenient))
    checked = next(each for each in records(again) if each["event"] == "checked")
    assert (checked["rows"], checked["settled"]) == (1, 1)


def test_a_workbook_comes_through_a_pipe_too(call: Call, folder: Path) -> None:
    done = call("run", "-", "--vendor=original", "--campaign=c", "--dry-run", "--json", text=GOOD)
    assert (done.exit_code, records(done)[0]["rows"]) == (0, 2)


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (GOOD, ["--delimiter=;"]),
        (GOOD, ["--encoding=utf-8"]),
        (HEADER.encode(), ["--sheet=May"]),
        (HEADER.encode(), ["--sheet=May", "--format=jsonl"]),
        (GOOD, ["--sheet="]),
    ],
)
def test_options_that_a_file_has_no_use_for_are_refused(call: Call, folder: Path, content: bytes, options: list[str]) -> None:
    done = call("run", "-", "--vendor=original", "--campaign=c", "--dry-run", *options, text=content)
    assert done.exit_code == 2
    said(f"workbooks: {' '.join(options)}", done.stderr)
