"""Files as spreadsheets and programs save them: harmless oddities are read and told, a respelled id is never paid."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payouts.cells import protect, unprotect
from payouts.cli.preflight import Mistakes
from payouts.ledger.reader import LedgerReader
from payouts.report import results
from payouts.rows import Row
from payouts.source.checks import FileSummary, check_rows
from payouts.source.files import read_rows
from payouts.source.layout import Layout
from payouts.source.mistakes import Mistake, Note
from payouts.states import Entry
from payouts.vendors import FIELDS, OriginalRow
from rewards_core.cli.output import Output
from tests.payouts.command_kit import for_people
from tests.payouts.payout_kit import ledger_at, token_row
from tests.texts import said

CSV = Layout(vendor="original")
HEADER = "id,reward_uid,to_user_uid,amount\r\n"
REWARD = "764893807463"
DAY1 = HEADER + "".join(
    f"{100001000000 + number},{REWARD},{900000000000 + 7919 * number},{Decimal('1.00') + number * Decimal('0.25')}\r\n"
    for number in range(20)
)
BAD = "\n".join(
    [
        "id,reward_uid,to_user_uid,amount",
        *(
            f"{number},{REWARD},{user},2.5"
            for number, user in enumerate(["nan", "None", "NULL", "9.6908E+11", "969080318628.0", "'969080318628"], start=1)
        ),
        "",
    ]
)


def checked(content: str | bytes, layout: Layout = CSV) -> tuple[FileSummary, list[Mistake]]:
    found: list[Mistake] = []
    stream = io.BytesIO(content if isinstance(content, bytes) else content.encode())
    return check_rows(stream, layout, on_mistake=found.append), found


def rows_of(content: str | bytes, layout: Layout = CSV) -> list[Row]:
    return list(read_rows(io.BytesIO(content if isinstance(content, bytes) else content.encode()), layout))


def kinds(notes: list[Note]) -> list[str]:
    return [note.kind for note in notes]


def at(line: int, *names: str) -> list[tuple[int, str]]:
    return [(line, name) for name in names]


IDS = ("id", "reward_uid", "to_user_uid")
ONE = HEADER + "diwali-0001,764893807463,969080318628,2.5\r\n"

REFUSED: dict[str, tuple[str | bytes, list[tuple[int, str]], str]] = {
    "Excel: a recipient in scientific notation": (
        HEADER + "diwali-0001,7.64894E+11,9.6908E+11,2.5\r\n",
        at(2, "reward_uid", "to_user_uid"),
        "scientific",
    ),
    "Excel: a row id in scientific notation": (
        HEADER + "1.00001E+11,764893807463,969080318628,2.5\r\n",
        at(2, "id"),
        "scientific",
    ),
    "Excel: ids and users in scientific notation": (
        HEADER + "e-1,7.64894E+11,1.10985E+11,1.23\r\ne-2,7.64894E+11,1.10985E+11,2\r\n",
        at(2, "reward_uid", "to_user_uid") + at(3, "reward_uid", "to_user_uid"),
        "scientific",
    ),
    "Excel: an amount in scientific notation": (
        HEADER + "e-1,764893807463,110985463782,1E+05\r\n",
        at(2, "amount"),
        "scientific",
    ),
    "Excel: thousands separators": (
        HEADER + 'diwali-0001,764893807463,969080318628,"1,234.50"\r\n',
        at(2, "amount"),
        "separator",
    ),
    "Excel: a currency": (HEADER + "diwali-0001,764893807463,969080318628,₹ 100.00\r\n", at(2, "amount"), "currency"),
    "Excel: error cells": (
        HEADER + "diwali-0001,764893807463,#N/A,2.5\r\ndiwali-0002,#REF!,104611751030,173\r\n",
        at(2, "to_user_uid") + at(3, "reward_uid"),
        "error",
    ),
    "Excel: apostrophes": (HEADER + "'diwali-0001,'764893807463,'969080318628,2.5\r\n", at(2, *IDS), "text_mark"),
    "pandas: ids as floats": (
        HEADER + "1001.0,764893807463.0,969080318628.0,2.5\r\n1002.0,764893807463.0,104611751030.0,173.0\r\n",
        at(2, *IDS) + at(3, *IDS),
        "float",
    ),
    "pandas: missing values": (
        HEADER + "diwali-0001,764893807463,nan,2.5\r\ndiwali-0002,764893807463,None,173\r\ndiwali-0003,764893807463,NULL,1\r\n",
        at(2, "to_user_uid") + at(3, "to_user_uid") + at(4, "to_user_uid"),
        "missing",
    ),
    "an Excel workbook under another name": (
        b"PK\x03\x04\x14\x00\x00\x00\x08\x00\xb9\xb5y]F\xc7MH\x95\x00\x00\x00\xcd\x00\x00\x00\x10\x00\x00\x00docProps/app.xml",
        at(1, ""),
        "workbook",
    ),
    "an old Excel workbook": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(56), at(1, ""), "workbook"),
    "full-width digits": (
        HEADER + "diwali-0001,764893807463,\uff19\uff16\uff19\uff10\uff18\uff10\uff13\uff11\uff18\uff16\uff12\uff18,2.5\r\n",
        at(2, "to_user_uid"),
        "full_width",
    ),
    "results.csv cut down to some columns": (
        HEADER + "'+910000000001,764893807463,969080318628,2.5\r\n'-1001,764893807463,969080318628,2.5\r\n"
        "'@handle,764893807463,969080318628,2.5\r\n",
        at(2, "id") + at(3, "id") + at(4, "id"),
        "text_mark",
    ),
    "the first day's file saved by Excel": (HEADER + f"1.00001E+11,{REWARD},900000000000,1.00\r\n", at(2, "id"), "scientific"),
    "the first day's file saved by pandas": (
        DAY1.replace("1000010000", "1000010000").replace(f",{REWARD}", f".0,{REWARD}"),
        [(line, "id") for line in range(2, 22)],
        "float",
    ),
    "a cell with commas and no quotes": (ONE + "r2,764893807463,969080318628,1,234.50\r\n", at(3, ""), "width"),
    "a cell with semicolons and no quotes": (
        ONE.replace(",", ";") + "r2;764893807463;969080318628;1;234\r\n",
        at(3, ""),
        "width",
    ),
    "a row that is cut off": (ONE + "r2,764893807463,96908", at(3, ""), "width"),
    "rows alone, without a header": ("r1,764893807463,969080318628,2.5\n", at(1, ""), "header"),
    "two columns of one name": (
        HEADER.replace("\r\n", ",ID\r\n") + "r1,764893807463,969080318628,2.5,7\r\n",
        at(1, "id"),
        "header",
    ),
}

READ: dict[str, tuple[str | bytes, int, list[str]]] = {
    "day1": (DAY1, 20, []),
    "Excel: a line sep=": (
        "sep=,\r\n" + ONE + "diwali-0002,764893807463,104611751030,173\r\n",
        2,
        ["sep"],
    ),
    "a line sep= in quotes": ('"sep=;"\r\n' + ONE.replace(",", ";"), 1, ["sep"]),
    "a line sep= with a tab": ("sep=\t\r\n" + ONE.replace(",", "\t"), 1, ["sep"]),
    "a line sep= saved as a row": ("sep=,,,,\r\n" + ONE, 1, ["sep"]),
    "Excel: empty rows at the end": (ONE + "diwali-0002,764893807463,104611751030,173\r\n,,,\r\n,,,\r\n", 2, ["empty_rows"]),
    "empty rows between": (ONE + ",,,\r\n , ,,\r\n" + "r2,764893807463,104611751030,173\r\n,,,\r\n", 2, ["empty_rows"]),
    "an empty row between": (ONE + ",,,\r\nr2,764893807463,104611751030,173\r\n", 2, ["empty_rows"]),
    "ids that begin like formulas": (
        HEADER + "".join(f"{row},764893807463,969080318628,2.5\r\n" for row in ("+910000000001", "-1001", "@handle")),
        3,
        ["formula"],
    ),
    "header names in other case": (ONE.replace(HEADER, "ID,Reward_UID,To_User_UID,Amount\r\n"), 1, ["header_names"]),
    "header names with spaces and hyphens": (ONE.replace(HEADER, "Id, Reward UID ,to-user-uid,AMOUNT\r\n"), 1, ["header_names"]),
    "byte-order mark": (b"\xef\xbb\xbf" + ONE.encode(), 1, ["bom"]),
    "semicolons": (ONE.replace(",", ";"), 1, ["delimiter"]),
    "tabs": (ONE.replace(",", "\t"), 1, ["delimiter"]),
    "vertical bars": (ONE.replace(",", "|"), 1, ["delimiter"]),
    "semicolons and a column with commas": (
        "id;a,b,c,d,e;reward_uid;to_user_uid;amount\nr1;x,y;764893807463;969080318628;2.5\n",
        1,
        ["delimiter", "ignored"],
    ),
    "all cells in quotes": (ONE.replace(",", '","').replace("\r\n", '"\r\n"')[:-1].join(['"', ""]), 1, ["quoted_cells"]),
    "empty columns at the right": (ONE.replace("\r\n", ",,\r\n"), 1, ["empty_columns"]),
    "empty columns at the right of some rows": (ONE + "r2,764893807463,969080318628,1,, \r\n", 2, ["empty_columns"]),
    "columns that are not read": (ONE.replace("amount", "amount,name,,city").replace("2.5", "2.5,Asha,,Pune"), 1, ["ignored"]),
    "a blank nonce": (ONE.replace("amount", "amount,Nonce").replace("2.5", "2.5, "), 1, ["header_names"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_was_changed_on_its_way_is_refused_with_its_place(name: str) -> None:
    content, places, kind = REFUSED[name]
    found = checked(content)[1]
    assert [(mistake.line, mistake.name) for mistake in found] == places
    assert {mistake.kind for mistake in found} == {kind}


@pytest.mark.parametrize("name", READ)
def test_harmless_oddities_are_read_and_told(name: str) -> None:
    content, rows, notes = READ[name]
    result, found = checked(content)
    assert found == []
    assert (result.rows, kinds(result.notes)) == (rows, notes)


def test_words_about_harmless_oddities() -> None:
    told = [f"{name}: {note.message}" for name, (content, _, _) in READ.items() for note in checked(content)[0].notes]
    said("files: harmless oddities", "\n".join(told))


def test_words_about_files_that_are_refused() -> None:
    told = [f"{name}: {checked(content)[1][0]}" for name, (content, _, _) in REFUSED.items()]
    said("files: refused", "\n".join(told))


def test_each_missing_value_and_each_other_sort_of_mistake_is_found_by_its_kind() -> None:
    found = checked(BAD)[1]
    assert [(mistake.line, mistake.name) for mistake in found] == [(line, "to_user_uid") for line in range(2, 8)]
    assert [mistake.kind for mistake in found] == ["missing", "missing", "missing", "scientific", "float", "text_mark"]


@pytest.mark.parametrize(
    ("content", "given_delimiter"),
    [(ONE.replace(",", ";"), ","), (ONE, ";"), (ONE.replace(",", "\t"), "|"), (ONE, "x")],
)
def test_a_wrong_delimiter_is_one_mistake(content: str, given_delimiter: str) -> None:
    found = checked(content * 3, Layout(vendor="original", delimiter=given_delimiter))[1]
    assert [(mistake.kind, mistake.line) for mistake in found] == [("delimiter", 1)]


def test_a_line_sep_that_lies_is_one_mistake() -> None:
    assert [(mistake.kind, mistake.line) for mistake in checked("sep=;\n" + ONE)[1]] == [("delimiter", 2)]


def test_words_about_delimiters() -> None:
    given_one = Layout(vendor="original", delimiter=",")
    found = [checked(ONE.replace(",", "\t"), given_one)[1][0], checked("sep=;\n" + ONE)[1][0]]
    said("files: a wrong delimiter", "\n".join(map(str, found)))


def test_a_given_delimiter_is_known_to_a_file_that_names_it_too() -> None:
    assert checked("sep=;\n" + ONE.replace(",", ";"), Layout(vendor="original", delimiter=";"))[0].rows == 1


def test_columns_named_by_hand_are_found_in_other_case_too() -> None:
    layout = Layout(vendor="original", names={"id": "Order No", "to_user_uid": "order-no"})
    content = "order_no,Order No,order-no,reward uid,AMOUNT\nx,r1,32,21,1\n"
    assert [(row.id, row.recipient) for row in rows_of(content, layout)] == [("r1", "32")]
    layout = Layout(vendor="original", names={"id": "Order No"})
    assert [row.id for row in rows_of("ORDER_NO,reward_uid,to_user_uid,amount\nr1,21,32,1\n", layout)] == ["r1"]


HOSTILE = ["=1+1", "+91", "-1", "@x", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201", "\t1", "\r1", "\n1", "'=1", "''=1"]
PLAIN = ["", "r1", "'r1", "''", "r'=", "a=b"]


@pytest.mark.parametrize("cell", HOSTILE)
def test_no_cell_of_results_begins_like_a_formula(cell: str) -> None:
    assert protect(cell) == f"'{cell}"
    assert unprotect(f"'{cell}") == cell


@pytest.mark.parametrize("cell", PLAIN)
def test_other_cells_of_results_stay_as_they_are(cell: str) -> None:
    assert protect(cell) == cell
    assert unprotect(cell) == cell


@given(st.text("'=+-@\t\r\n\uff1d1a", max_size=6))
def test_reading_a_cell_of_results_is_the_inverse_of_writing_it(cell: str) -> None:
    assert unprotect(protect(cell)) == cell
    assert protect(cell)[:1] not in {"=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"}


async def planned(path: Path, rows: list[OriginalRow]) -> list[Entry]:
    async with ledger_at(path) as ledger:
        return await ledger.plan(rows)


def test_results_of_a_campaign_are_read_as_the_rows_that_were_paid(tmp_path: Path) -> None:
    users = {"+91": "=u", "-1001": "@handle", "r3": "-7"}
    entries = asyncio.run(planned(tmp_path / "payouts.db", [token_row(name, to_user_uid=user) for name, user in users.items()]))
    with LedgerReader(tmp_path / "payouts.db") as reader:
        results.write_results(reader, reader.campaign(), tmp_path / "results.csv")
    content = (tmp_path / "results.csv").read_bytes()
    result, found = checked(content)
    assert found == []
    assert kinds(result.notes) == ["results", "formula"]
    read = [(row.id, row.recipient, row.item, row.amount, row.given_key) for row in rows_of(content)]
    assert read == [(entry.id, entry.recipient, entry.item, entry.amount, entry.key) for entry in entries]
    cut = b"\n".join(line.rpartition(b",")[0] for line in content.splitlines()) + b"\n"
    assert {(mistake.line, mistake.name, mistake.kind) for mistake in checked(cut)[1]} == {
        (2, "id", "text_mark"),
        (2, "to_user_uid", "text_mark"),
        (3, "id", "text_mark"),
        (3, "to_user_uid", "text_mark"),
        (4, "to_user_uid", "text_mark"),
    }


@pytest.mark.parametrize("vendor", ["original", "enkash"])
def test_the_header_of_results_names_every_field_of_a_file_of_rows(vendor: str) -> None:
    assert set(Layout(vendor=vendor).fields) <= {*results.header_of(vendor)}
    assert set(FIELDS[vendor]) <= set(results.header_of(vendor))


def scientific(value: str) -> str:
    return f"{Decimal(value):.5E}"


RESPELLINGS: dict[str, Callable[[str], str]] = {
    "scientific": scientific,
    "scientific, all digits": lambda value: f"{Decimal(value):.{len(value) - 1}E}",
    "scientific, comma": lambda value: scientific(value).replace(".", ","),
    "float": lambda value: f"{value}.0",
    "grouped": lambda value: f"{int(value):,}",
    "apostrophe": lambda value: f"'{value}",
    "quoted twice": lambda value: f'"{value}"',
    "formula": lambda value: f'="{value}"',
    "padded left": lambda value: f" {value}",
    "padded right": lambda value: f"{value}\u00a0",
    "full-width": lambda value: "".join(chr(ord(each) + 0xFEE0) for each in value),
    "quoted by CSV": lambda value: value,
}
some_ids = st.lists(st.integers(10_000_000, 999_999_999_999).map(str), min_size=1, max_size=6, unique=True)


def as_csv(rows: list[dict[str, str]], delimiter: str, *, all_quoted: bool) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, quoting=csv.QUOTE_ALL if all_quoted else csv.QUOTE_MINIMAL)
    writer.writerows([list(rows[0]), *(list(row.values()) for row in rows)])
    return stream.getvalue()


@given(
    some_ids, st.sampled_from([*RESPELLINGS]), st.sampled_from([*IDS, "nonce"]), st.booleans(), st.sampled_from([*",;\t|", ""])
)
def test_no_respelling_gives_a_row_with_other_ids(
    ids: list[str], how: str, column: str, all_quoted: bool, delimiter: str
) -> None:
    plain = [
        {"id": f"9{value}", "reward_uid": f"8{value}", "to_user_uid": value, "amount": "1", "nonce": f"7{value}"} for value in ids
    ]
    respelled = [row | {column: RESPELLINGS[how](row[column])} for row in plain]
    layout, first = (CSV, 2) if delimiter else (Layout(vendor="original", form="jsonl"), 1)
    content = as_csv(respelled, delimiter, all_quoted=all_quoted) if delimiter else "\n".join(map(json.dumps, respelled))
    refused: set[int] = set()
    read = list(read_rows(io.BytesIO(content.encode()), layout, on_mistake=lambda mistake: refused.add(mistake.line)))
    assert refused | {row.line for row in read} == set(range(first, len(ids) + first))
    for row in read:
        assert row == OriginalRow(**plain[row.line - first], line=row.line)
    if how != "quoted by CSV":
        assert read == []


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Output:
    monkeypatch.setattr("rewards_core.cli.output.Output.__init__", for_people)
    return Output()


def tell(output: Output, content: str, *, all_errors: bool = False) -> None:
    mistakes = Mistakes(output, all_errors=all_errors)
    for mistake in checked(content)[1]:
        mistakes.add(mistake)
    mistakes.tell()


FLOATS = HEADER + "".join(f"{number}.0,{REWARD}.0,32,1\n" for number in range(1, 501)) + f"r1,{REWARD},nan,1\nr2,{REWARD},,1\n"


def test_a_mistake_in_many_rows_is_told_once(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    tell(output, FLOATS + f"r3,{REWARD},,1\n")
    said("files: mistakes in many rows", capsys.readouterr().out)


@pytest.mark.slow
def test_all_errors_are_told_one_by_one_on_demand(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    tell(output, FLOATS, all_errors=True)
    assert len(capsys.readouterr().out.splitlines()) == 1002


def test_at_most_twenty_lines_are_told(output: Output, capsys: pytest.CaptureFixture[str]) -> None:
    mistakes = Mistakes(output, all_errors=False)
    for number in range(50):
        mistakes.add(Mistake(kind=f"kind-{number}", line=number + 1, column=1, message="something is wrong"))
    mistakes.tell()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21
    said("files: more kinds of mistake than are told", lines[-1])


def test_mistakes_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    tell(Output(as_json=True), FLOATS)
    told: list[dict[str, Any]] = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert all(each.pop("message") for each in told)
    assert told[0] == {
        "event": "mistake",
        "kind": "float",
        "line": 2,
        "column": 1,
        "name": "id",
        "count": 500,
        "places": [[line, "id"] for line in range(2, 12)],
    }
    assert [(each["kind"], each["name"], each["count"]) for each in told[1:]] == [
        ("float", "reward_uid", 500),
        ("missing", "to_user_uid", 1),
        ("empty", "to_user_uid", 1),
    ]
    tell(Output(as_json=True), FLOATS, all_errors=True)
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(each["line"], each["count"], each["places"]) for each in told[:2]] == [
        (2, 1, [[2, "id"]]),
        (2, 1, [[2, "reward_uid"]]),
    ]
    assert len(told) == 1002
