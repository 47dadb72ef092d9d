"""Files come as they are; what is wrong is said with line and column, and nothing is held in memory but a line."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from payouts.rows import InvalidRow, Row
from payouts.source.checks import FileSummary, check_rows
from payouts.source.files import form_of, is_piped, read_rows, rereadable
from payouts.source.layout import Layout
from payouts.source.mistakes import FileRefused, Mistake, Note
from payouts.vendors import EnkashRow, OriginalRow
from tests.texts import said

if TYPE_CHECKING:
    from pathlib import Path

HEADER = b"id,reward_uid,to_user_uid,amount,nonce\n"
CSV = Layout(vendor="original")
JSONL = Layout(vendor="original", form="jsonl")
COINS = Layout(vendor="enkash")


def never(mistake: Mistake) -> None:
    raise AssertionError(mistake)


def rows_of(content: bytes, layout: Layout = CSV) -> list[Row]:
    return list(read_rows(io.BytesIO(content), layout))


def mistakes_in(content: bytes, layout: Layout = CSV, **options: Any) -> list[Mistake]:
    found: list[Mistake] = []
    check_rows(io.BytesIO(content), layout, on_mistake=found.append, **options)
    return found


def places_in(content: bytes, layout: Layout = CSV) -> list[tuple[int, int, str]]:
    return [(mistake.line, mistake.column, mistake.name) for mistake in mistakes_in(content, layout)]


def test_csv_of_original_rows() -> None:
    assert rows_of(HEADER + b"r1,21,32,1.50,\nr2,21,33,2,n-2\n") == [
        OriginalRow(id="r1", reward_uid="21", to_user_uid="32", amount="1.50", line=2),
        OriginalRow(id="r2", reward_uid="21", to_user_uid="33", amount="2", nonce="n-2", line=3),
    ]


def test_csv_of_enkash_rows() -> None:
    assert rows_of(b"id,user_id,event\nr1,EKQZVMQK,REFERRAL_EVENT\n", COINS) == [
        EnkashRow(id="r1", user_id="EKQZVMQK", event="REFERRAL_EVENT", line=2)
    ]


def test_jsonl_keeps_the_digits_of_a_number() -> None:
    line = b'{"id": 7, "reward_uid": "21", "to_user_uid": "32", "amount": 123456789.123456789012345678, "note": null}\n'
    assert rows_of(line, JSONL) == [
        OriginalRow(id="7", reward_uid="21", to_user_uid="32", amount="123456789.123456789012345678", line=1)
    ]


def test_byte_order_mark_blank_lines_quotes_crlf_and_a_missing_last_line_end_do_not_matter() -> None:
    content = b'\xef\xbb\xbfid,reward_uid,to_user_uid,amount\r\n\r\n"r,""1""",21,\xc3\xa9,1\r\n\r\nr2,21,33,2'
    assert [(row.id, row.recipient, row.line) for row in rows_of(content)] == [('r,"1"', "é", 3), ("r2", "33", 5)]
    assert rows_of(b'\xef\xbb\xbf{"id":"a","reward_uid":"1","to_user_uid":"2","amount":"3"}\n\n', JSONL)[0].id == "a"


def test_columns_are_mapped_by_name_and_others_are_ignored_and_named() -> None:
    layout = Layout(vendor="original", names={"id": "order", "amount": "tokens", "nonce": "ref"}, delimiter=";")
    notes: list[Note] = []
    content = io.BytesIO(b"note;tokens;order;reward_uid;to_user_uid;ref\nx;1;o1;21;32;k1\n")
    assert [(row.id, row.amount, row.given_key) for row in read_rows(content, layout, on_note=notes.append)] == [
        ("o1", "1", "k1")
    ]
    assert [note.kind for note in notes] == ["ignored"]


def test_a_record_may_span_lines_and_is_known_by_its_first() -> None:
    content = b'id,reward_uid,to_user_uid,amount,note\nr1,21,32,1,"two\nlines"\nr2,21,33,0,x\n'
    assert places_in(content) == [(4, 4, "amount")]


def test_line_numbers_as_ids_only_on_demand() -> None:
    layout = Layout(vendor="original", ids_from_line=True)
    assert [row.id for row in rows_of(b"reward_uid,to_user_uid,amount\n21,32,1\n\n21,33,1\n", layout)] == ["2", "4"]
    assert places_in(b"reward_uid,to_user_uid,amount\n21,32,x\n", layout) == [(2, 3, "amount")]


@pytest.mark.parametrize(
    ("content", "place", "kind"),
    [
        (b"", (1, 1, ""), "empty_file"),
        (b"\xef\xbb\xbf", (1, 1, ""), "empty_file"),
        (b"\n\n", (1, 1, ""), "header"),
        (b",,,\n,,,\n", (1, 1, ""), "header"),
        (b"\xff\xfei\x00d\x00", (1, 2, "reward_uid"), "header"),
        (b"\x00\x00\xfe\xff", (1, 1, ""), "encoding"),
        (b"id,reward_uid,\xc3\xa9\xe9,amount\nr1,21,32,1\n", (1, 3, ""), "encoding"),
        (b"id,reward_uid,amount\n", (1, 4, "to_user_uid"), "header"),
        (b"\nid,reward_uid,amount\n", (2, 4, "to_user_uid"), "header"),
        (b"r1,21,32,1\n", (1, 1, ""), "header"),
        (b"id,reward_uid,to_user_uid,amount,id\n", (1, 5, "id"), "header"),
        (b"id,reward_uid,to_user_uid,amount,ID\n", (1, 5, "id"), "header"),
        (HEADER + b"r1,21,32,1\n", (2, 5, ""), "width"),
        (HEADER + b"r1,21,32,1,,x\n", (2, 6, ""), "width"),
        (HEADER + b"r1,21,32,1.5.5,\n", (2, 4, "amount"), "amount"),
        (HEADER + b"r1,,32,1,\n", (2, 2, "reward_uid"), "empty"),
        (HEADER + b"r1,21, 32,1,\n", (2, 3, "to_user_uid"), "white_space"),
        (HEADER + b"r1,21,a/b,1,\n", (2, 3, "to_user_uid"), "characters"),
        (HEADER + b"r1,21,caf\xe9,1,\n", (2, 3, "to_user_uid"), "encoding"),
        (HEADER + b"r1,21,caf\x81,1,\n", (2, 3, ""), "encoding"),
        (HEADER + b"r1,21,32,1,\n" + b"r2,21," + b"x" * 10_000_000 + b",1,\n", (3, 3, ""), "line_length"),
        (HEADER + b'r1,21,"32,1,\n', (2, 3, ""), "quotes"),
        (HEADER + b'"r1",21,"3"2,1,\n', (2, 3, ""), "quotes"),
        (HEADER + b'r1,"2""1","32""",1,"x', (2, 5, ""), "quotes"),
        (HEADER + b'r1,21,32,"a\n"b,\n', (2, 4, ""), "quotes"),
        (HEADER + b"r1,21,32,1,x\ry\n", (2, 5, ""), "line_ends"),
        (b"id,reward_uid,to_user_uid,amount\rr1,21,32,1\r", (1, 4, ""), "line_ends"),
        (HEADER + b"r\x001,21,32,1,\n", (2, 1, "id"), "invisible"),
    ],
)
def test_a_bad_csv_file_is_refused_with_line_and_column(content: bytes, place: tuple[int, int, str], kind: str) -> None:
    found = mistakes_in(content)
    assert (found[0].line, found[0].column, found[0].name) == place
    assert found[0].kind == kind
    with pytest.raises(FileRefused, match=f"^line {place[0]}, column {place[1]}") as refused:
        rows_of(content)
    assert refused.value.mistake == found[0]


@pytest.mark.parametrize(
    ("content", "place", "kind"),
    [
        (b"", (1, 1, ""), "empty_file"),
        (b'{"id":"a"\n', (1, 10, ""), "json"),
        (b'  {"id" "a"}\n', (1, 9, ""), "json"),
        (b'[{"id":"a"}]\n', (1, 1, ""), "json"),
        (b"[" * 60_000 + b"\n", (1, 1, ""), "json"),
        (b'{"id":"a","amount":NaN}\n', (1, 1, ""), "json"),
        (b'{"id":"a","id":"b"}\n', (1, 1, ""), "json"),
        (b'{"id":"a","reward_uid":"1","to_user_uid":"2"}\n', (1, 45, "amount"), "empty"),
        (b'{"id":"a","reward_uid":"1","to_user_uid":"2","amount":-1e3}\n', (1, 46, "amount"), "sign"),
        (b'{"id":"a","reward_uid":"1","to_user_uid":"2","amount":1e999}\n', (1, 46, "amount"), "out_of_range"),
        (b'{"id":"a","reward_uid":"1","to_user_uid":"2","amount":0.0}\n', (1, 46, "amount"), "zero"),
        (b'{"id":"a","reward_uid":"1","to_user_uid":"2","amount":true}\n', (1, 46, "amount"), "type"),
        (b'{"id":"a","reward_uid":"1","to_user_uid":"2","amount":[1]}\n', (1, 46, "amount"), "type"),
        (b'{"id":"a","amount":1e9999999999999999999}\n', (1, 1, ""), "json"),
        (b'{"id":1.5,"reward_uid":"1","to_user_uid":"2","amount":1}\n', (1, 2, "id"), "type"),
        (b'{"id":7.0,"reward_uid":"1","to_user_uid":"2","amount":1}\n', (1, 2, "id"), "float"),
        (b'{"id":7e11,"reward_uid":"1","to_user_uid":"2","amount":1}\n', (1, 2, "id"), "scientific"),
        (b'{"id":true,"reward_uid":"1","to_user_uid":"2","amount":1}\n', (1, 2, "id"), "type"),
        (b'{"id":"a","reward_uid":"1","to_user_uid":["2"],"amount":1}\n', (1, 28, "to_user_uid"), "type"),
        (b'{"id":"a","reward_uid":"1","to_user_uid":{"a":1},"amount":1}\n', (1, 28, "to_user_uid"), "type"),
        (b'{"id":"a","reward_uid":"1","to_user_uid":"2","amount":1,"nonce":"nan"}\n', (1, 57, "nonce"), "missing"),
        (b'{"id":"\\ud800","reward_uid":"1","to_user_uid":"2","amount":1}\n', (1, 2, "id"), "invisible"),
        (b'{"id":"\xc3\xa9\xe9"}\n', (1, 9, ""), "encoding"),
        (b'{"id":"' + b"x" * 70_000 + b'"}', (1, 65_537, ""), "line_length"),
    ],
)
def test_a_bad_jsonl_file_is_refused_with_line_and_column(content: bytes, place: tuple[int, int, str], kind: str) -> None:
    found = mistakes_in(content, JSONL)
    assert (found[0].line, found[0].column, found[0].name) == place
    assert found[0].kind == kind


def test_every_mistake_of_a_file_is_listed_and_good_rows_are_still_counted() -> None:
    content = HEADER + b"r1,21,,x,\nr2,21,33,1.10,\nr3,21,33,-1,\n\xe9\xc3\xa9\nr4,21,33,2.205,\nr5,22,33,7,\n"
    found: list[Mistake] = []
    checked = check_rows(io.BytesIO(content), CSV, on_mistake=found.append)
    assert [(mistake.line, mistake.column) for mistake in found] == [(2, 3), (2, 4), (4, 4), (5, 1)]
    assert checked == FileSummary(
        rows=3, mistakes=4, totals={"21": Decimal("3.305"), "22": Decimal(7)}, counts={"21": 2, "22": 1}, users=1
    )


def test_an_id_that_comes_twice_names_both_lines() -> None:
    found = mistakes_in(HEADER + b"r1,21,32,1,\nr2,21,33,1,\nr1,21,34,1,\n")
    said("files: an id that comes twice", "\n".join(map(str, found)))


def test_what_comes_twice_is_told_beside_what_else_is_wrong_on_its_line() -> None:
    content = HEADER + b"r1,21,32,x,n1\nr1,21,33,-1,n1\nr1,21,34,1,n1\nr2,21,35,1,n2\n"
    assert places_in(content) == [
        (2, 4, "amount"),
        (3, 4, "amount"),
        (3, 1, "id"),
        (3, 5, "nonce"),
        (4, 1, "id"),
        (4, 5, "nonce"),
    ]
    lines = [{"id": "a", "reward_uid": "1", "to_user_uid": "2"}, {"id": "a", "reward_uid": "1", "to_user_uid": "2"}]
    content = "\n".join(map(json.dumps, lines)).encode()
    assert [name for _, _, name in places_in(content, JSONL)] == ["amount", "amount", "id"]


def test_a_nonce_that_comes_twice_names_both_lines() -> None:
    found = mistakes_in(HEADER + b"r1,21,32,1,n\nr2,21,33,1,n\n")
    assert [(mistake.kind, mistake.line, mistake.name) for mistake in found] == [("duplicate", 3, "nonce")]


def test_a_column_asked_for_by_name_must_be_there() -> None:
    layout = Layout(vendor="original", names={"nonce": "ref"})
    assert places_in(b"id,reward_uid,to_user_uid,amount\nr1,21,32,1\n", layout) == [(1, 5, "ref")]


class Strict:
    """A preflight that refuses every row."""

    def __init__(self) -> None:
        self.lines: list[int | None] = []

    def __call__(self, rows: Sequence[Row]) -> list[InvalidRow | None]:
        return [InvalidRow("another one", name="amount", kind="changed") for _ in rows]

    def conclude(self, line_of: Callable[[str], int | None]) -> None:
        self.lines.extend(map(line_of, ("r1", "r2", "r3")))


def test_a_preflight_checks_every_row_and_then_the_file() -> None:
    found: list[Mistake] = []
    strict = Strict()
    content = HEADER + b"r1,21,32,1,\nr3,21,,1,\n"
    checked = check_rows(io.BytesIO(content), CSV, on_mistake=found.append, preflight=strict)
    assert [(mistake.kind, mistake.line) for mistake in found] == [("changed", 2), ("empty", 3)]
    assert (checked.mistakes, strict.lines) == (2, [2, None, 3])


@pytest.mark.parametrize("at_once", [1, 3, 512])
@pytest.mark.parametrize("layout", [CSV, JSONL])
def test_mistakes_are_told_in_the_order_of_their_lines(layout: Layout, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("payouts.source.checks.MAX_AT_ONCE", at_once)
    amounts = ["1", "x", "2", "1", "x", "x", "x", "x", "2", "1"]

    class RefusesOnes(Strict):
        def __call__(self, rows: Sequence[Row]) -> list[InvalidRow | None]:
            assert len(rows) <= at_once
            return [InvalidRow("no", name="amount", kind="changed") if row.amount == "1" else None for row in rows]

    if layout is CSV:
        content = HEADER + "".join(f"r{number},21,32,{amount},\n" for number, amount in enumerate(amounts)).encode()
        first, column = 2, 4
    else:
        line = '{{"id": "r{}", "reward_uid": "21", "to_user_uid": "32", "amount": "{}"}}\n'
        content = "".join(line.format(number, amount) for number, amount in enumerate(amounts)).encode()
        first, column = 1, line.format(0, 1).index('"amount"') + 1
    found: list[Mistake] = []
    checked = check_rows(io.BytesIO(content), layout, on_mistake=found.append, preflight=RefusesOnes())
    wrong = [number for number, amount in enumerate(amounts) if amount != "2"]
    assert [(each.line, each.column, each.kind == "changed") for each in found] == [
        (number + first, column, amounts[number] == "1") for number in wrong
    ]
    assert (checked.rows, checked.mistakes) == (2, 8)


def test_users_are_counted_once_each() -> None:
    content = HEADER + b"r1,21,32,1,\nr2,22,32,1,\nr3,21,33,1,\nr4,21,34,x,\n"
    assert check_rows(io.BytesIO(content), CSV, on_mistake=lambda _: None).users == 2


def test_coins_are_counted_without_a_sum() -> None:
    checked = check_rows(io.BytesIO(b"id,user_id,event\na,u,E\nb,u,E\n"), COINS, on_mistake=never)
    assert (checked.counts, checked.totals) == ({"E": 2}, {})


def test_only_the_first_thousand_rewards_are_summed_one_by_one() -> None:
    lines = b"".join(b"r%d,reward-%d,32,1\n" % (number, number) for number in range(1002))
    checked = check_rows(io.BytesIO(b"id,reward_uid,to_user_uid,amount\n" + lines), CSV, on_mistake=never)
    assert (checked.rows, len(checked.counts)) == (1002, 1000)


@pytest.mark.slow
@pytest.mark.repeats_itself
@pytest.mark.parametrize("layout", [CSV, JSONL])
def test_memory_does_not_grow_with_the_file(layout: Layout) -> None:
    class Endless(io.RawIOBase):
        def __init__(self, lines: int) -> None:
            self.left = lines

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            if not self.left:
                return 0
            self.left -= 1
            line = b'{"id":"r%d","reward_uid":"21","to_user_uid":"32","amount":"1.5"}\n' % self.left
            if layout.form == "csv":
                line = b"r%d,21,32,1.5\n" % self.left if self.left < lines_in_all - 1 else b"id,reward_uid,to_user_uid,amount\n"
            buffer[: len(line)] = line
            return len(line)

    peaks = []
    for lines_in_all in (500, 2_500):
        tracemalloc.start()
        checked = check_rows(io.BufferedReader(Endless(lines_in_all)), layout, on_mistake=never)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert checked.rows >= lines_in_all - 1
    assert peaks[1] < peaks[0] * 1.3


@pytest.mark.parametrize(
    ("path", "start", "form"),
    [
        ("a.csv", b"{", "csv"),
        ("a.JSONL", b"id", "jsonl"),
        ("a.ndjson", b"", "jsonl"),
        ("-", b'\xef\xbb\xbf {"id"', "jsonl"),
        ("-", b"id,", "csv"),
        ("rewards", b"", "csv"),
        ("a.xlsx", b"PK\x03\x04", "workbook"),
        ("a.csv", b"PK\x03\x04", "workbook"),
        ("-", b"PK\x03\x04", "workbook"),
        ("a.XLSM", b"id,", "workbook"),
        ("a.ods", b"", "workbook"),
        ("export", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "workbook"),
    ],
)
def test_the_form_is_known_by_name_or_by_the_first_bytes(path: str, start: bytes, form: str) -> None:
    assert form_of(path, start) == form


def test_what_was_checked_is_read_again_whatever_became_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rewards.csv"
    path.write_bytes(b"abc")
    with rereadable(str(path)) as stream:
        assert stream.read() == b"abc"
        path.write_bytes(b"xabc")
        stream.seek(0)
        assert stream.read() == b"abc"


def test_a_file_that_is_written_to_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rewards.csv"
    path.write_bytes(b"abc")
    copy = shutil.copyfileobj

    def copy_and_append(source: Any, target: Any, length: int) -> None:
        copy(source, target, length)
        path.write_bytes(b"abcd")

    monkeypatch.setattr("payouts.source.files.shutil.copyfileobj", copy_and_append)
    with pytest.raises(OSError) as refused, rereadable(str(path)):
        pytest.fail("it was opened")
    assert (refused.value.errno, refused.value.filename) == (errno.ETXTBSY, str(path))
    said("run: a file that changes while it is read", refused.value.strerror)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("piped", [False, True])
def test_a_last_line_without_an_end_is_whole_in_a_file_and_cut_off_in_a_pipe(end: bytes, piped: bool) -> None:
    content = b"id,reward_uid,to_user_uid,amount\nr1,21,32,12.50\nr2,21,33,12" + end
    found = mistakes_in(content, Layout(vendor="original", piped=piped))
    assert [(mistake.line, mistake.column) for mistake in found] == ([(3, 4)] if piped and not end else [])
    line = b'{"id": "r1", "reward_uid": "21", "to_user_uid": "32", "amount": 1}' + end
    assert mistakes_in(line, Layout(vendor="original", form="jsonl", piped=piped)) == []


def test_what_a_program_writes_is_told_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "rewards.csv").touch()
    os.mkfifo(tmp_path / "fifo")
    assert [is_piped(str(path)) for path in ("-", tmp_path / "fifo", tmp_path / "rewards.csv")] == [True, True, False]


def test_standard_input_and_pipes_are_copied_to_be_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"abc")
    os.close(writing)
    with os.fdopen(reading) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        with rereadable("-") as stream:
            assert stream.read() == b"abc"
            stream.seek(0)
            assert stream.read() == b"abc"
