"""Workbooks that are damaged, hostile or no workbooks at all are one clear mistake, and take no memory."""

from __future__ import annotations

import io
import random
import re
import tracemalloc
import zipfile

import pytest

from payouts.rows import Row
from payouts.source import workbooks
from payouts.source.checks import FileSummary, check_rows
from payouts.source.files import read_rows
from payouts.source.layout import Layout
from payouts.source.mistakes import FileRefused, Mistake
from tests.payouts.command_kit import HEADER, REWARD
from tests.payouts.workbook_kit import GOOD, shared, sheet, table_book, text, texts, workbook, zipped
from tests.texts import said

BOOK = Layout(vendor="original", form="workbook")
TITLES = texts("id", "reward_uid", "to_user_uid", "amount")
ONE = texts("r1", REWARD, "110985463782", "1.50")
TWO = texts("r2", REWARD, "969080318628", "2.25")
PAYROLL = sheet({1: TITLES, 2: ONE})


def checked(content: bytes) -> tuple[FileSummary, list[Mistake]]:
    found: list[Mistake] = []
    return check_rows(io.BytesIO(content), BOOK, on_mistake=found.append), found


def rows_of(content: bytes) -> list[Row]:
    return list(read_rows(io.BytesIO(content), BOOK))


def _relations(*kinds: str) -> str:
    each = '<Relationship Id="rId{}" Type="x/{}" Target="worksheets/sheet1.xml"/>'
    return f"<Relationships>{''.join(each.format(*pair) for pair in enumerate(kinds, 1))}</Relationships>"


_ONE_PART = _relations("worksheet", "worksheet")
_TWO_STYLES = _relations("worksheet", "styles", "styles")
OLD = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504)
BROKEN: dict[str, bytes] = {
    "empty": b"",
    "CSV under another name": HEADER.encode(),
    "old Excel": OLD,
    "a password": OLD + bytes(1 << 20) + "EncryptedPackage".encode("utf-16-le") + bytes(99),
    "cut off": GOOD[: len(GOOD) // 2],
    "a zip file": zipped({"a.txt": "a"}),
    "LibreOffice": zipped({"mimetype": "application/vnd.oasis.opendocument.spreadsheet", "content.xml": "<a/>"}),
    "no sheet in its place": workbook({"S": PAYROLL}, parts={"xl/_rels/workbook.xml.rels": "<Relationships/>"}),
    "a sheet that ends early": workbook({"S": sheet({1: TITLES, 2: ONE})[:-30]}),
    "a sheet that is no XML": workbook({"S": "id,reward_uid"}),
    "a text that is not there": workbook({"S": sheet({1: TITLES, 2: [shared(7), *ONE[1:]]})}),
    "a text without a number": workbook({"S": sheet({1: TITLES, 2: ['<c t="s"><v>-1</v></c>', *ONE[1:]]})}),
    "two rows of one number": workbook({"S": sheet({1: TITLES, 2: '<row r="1"/>'})}),
    "a row that no sheet has": workbook({"S": sheet({1: TITLES, 1_048_577: ONE})}),
    "a row that is no number": workbook({"S": sheet({1: TITLES, 2: '<row r="x"/>'})}),
    "two cells in one place": workbook({"S": sheet({1: TITLES, 2: '<row r="2"><c r="A2"/><c r="A2"/></row>'})}),
    "a cell in another row": workbook({"S": sheet({1: TITLES, 2: '<row r="2"><c r="A3"/></row>'})}),
    "a cell beyond the last column": workbook({"S": sheet({1: TITLES, 2: '<row r="2"><c r="XFE2"/></row>'})}),
    "a cell of an unknown type": workbook({"S": sheet({1: TITLES, 2: ['<c t="z"><v>1</v></c>', *ONE[1:]]})}),
    "two values in a cell": workbook({"S": sheet({1: TITLES, 2: ['<c t="inlineStr"><is><t>1</t></is><is><t>2</t></is></c>']})}),
    "a value beside a text": workbook({"S": sheet({1: TITLES, 2: ['<c t="inlineStr"><is><t>1</t></is><v>2</v></c>']})}),
    "a text of another type": workbook({"S": sheet({1: TITLES, 2: ['<c t="str"><is><t>1</t></is></c>']})}),
    "rows twice": workbook({"S": PAYROLL.replace("</worksheet>", "<sheetData/></worksheet>")}),
    "two sheets of one name": workbook({"S": PAYROLL, "s": sheet({})}),
    "two sheets in one part": workbook(
        {"S": PAYROLL, "T": ""}, states={"T": "hidden"}, parts={"xl/_rels/workbook.xml.rels": _ONE_PART}
    ),
    "one relationship twice": workbook({"S": PAYROLL}, parts={"xl/_rels/workbook.xml.rels": _ONE_PART.replace("rId2", "rId1")}),
    "two sets of texts": workbook({"S": PAYROLL}, parts={"xl/_rels/workbook.xml.rels": _TWO_STYLES}),
    "two parts of one name": workbook({"S": PAYROLL}, parts={"xl/Worksheets/Sheet1.xml": PAYROLL}),
    "two workbooks in one file": GOOD + GOOD,
    "bytes after its end": GOOD + b"x",
    "a comment after its end": GOOD[:-2] + b"\x01\x00x",
    "styles without end": workbook(
        {"S": PAYROLL}, parts={"xl/styles.xml": f"<styleSheet><cellXfs>{'<xf/>' * 70_000}</cellXfs></styleSheet>"}
    ),
    "an endless attribute": workbook({"S": PAYROLL.replace('<row r="2"', f'<row r="2" x="{"a" * 2_000_000}"')}),
    "a document type": workbook({"S": f'<!DOCTYPE w [<!ENTITY a "r1">]>{PAYROLL}'}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_workbook_that_cannot_be_read_is_one_mistake(name: str) -> None:
    result, found = checked(BROKEN[name])
    assert [(each.line, each.place) for each in found] == [(0, "")]
    with pytest.raises(FileRefused) as refused:
        rows_of(BROKEN[name])
    assert refused.value.mistake == found[0]
    assert result.mistakes == 1


@pytest.mark.slow
def test_words_about_workbooks_that_cannot_be_read() -> None:
    said("workbooks: refused", "\n".join(f"{name}: {checked(content)[1][0]}" for name, content in BROKEN.items()))


@pytest.mark.slow
def test_a_changed_byte_never_changes_a_row() -> None:
    """The zip file has a checksum of each part, which is compared before the last row is known."""
    good, source = rows_of(GOOD), random.Random(7)
    for _ in range(400):
        content = bytearray(GOOD)
        content[source.randrange(len(content))] ^= 1 << source.randrange(8)
        result, found = checked(bytes(content))
        if not found:
            assert rows_of(bytes(content)) == good
        assert result.mistakes == len(found)


@pytest.mark.parametrize("size", range(0, len(GOOD), 97))
def test_a_workbook_that_is_cut_off_is_refused(size: int) -> None:
    assert len(checked(GOOD[:size])[1]) == 1


def test_a_zip_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    content = workbook({"S": PAYROLL}, parts={"xl/media/image1.png": bytes(5_000_000)})
    assert checked(content)[1] == []
    monkeypatch.setattr(workbooks, "MAX_BYTES", 4_000_000)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was unpacked"))
    (told,) = checked(content)[1]
    said("workbooks: a zip bomb", re.sub(r"5,0[\d,]+", "5,0NN,NNN", told.message))


def test_a_zip_file_that_lies_about_its_size_is_refused() -> None:
    rows = "".join(f'<row r="{at}"/>' for at in range(3, 100_000))
    content = bytearray(workbook({"S": sheet({1: TITLES, 2: ONE, 3: rows})}))
    real = zipfile.ZipFile(io.BytesIO(bytes(content))).getinfo("xl/worksheets/sheet1.xml").file_size
    assert content.count(real.to_bytes(4, "little")) == 2
    lying = bytes(content).replace(real.to_bytes(4, "little"), (2_000).to_bytes(4, "little"))
    assert [each.kind for each in checked(lying)[1]] == ["workbook"]


def test_two_cells_far_apart_take_no_room() -> None:
    content = workbook(
        {"S": sheet({1: TITLES, 2: ONE, 1_048_576: '<row r="1048576"><c r="XFD1048576" t="str"><v>x</v></c></row>'})}
    )
    tracemalloc.start()
    _, found = checked(content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [each.place for each in found] == [f"S!{letter}1048576" for letter in "ABCD"]
    assert peak < 20_000_000


@pytest.mark.slow
@pytest.mark.repeats_itself
def test_memory_grows_by_the_places_of_the_shared_texts_only() -> None:
    peaks = []
    for size in (1_000, 10_000):
        content = table_book(
            [["id", "reward_uid", "to_user_uid", "amount"], *([f"r{at}", REWARD, f"u{at}", "1"] for at in range(size))]
        )
        tracemalloc.start()
        result, found = checked(content)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert (result.rows, found) == (size, [])
    assert peaks[1] - peaks[0] < 9_000 * 2 * 8 * 3  # two texts a row, eight bytes each, and the room an array keeps


def test_a_row_is_as_long_as_a_line_at_most() -> None:
    strings = [f"<t>{'x' * 70_000}</t>"]
    for cell in (text("x" * 70_000), shared(0)):
        content = workbook({"S": sheet({1: [*TITLES, text("note")], 2: [*ONE, cell], 3: TWO})}, strings=strings)
        assert [(each.kind, each.place) for each in checked(content)[1]] == [("line_length", "S!A2")]
