"""Files in the encodings that spreadsheets and shells write: recognised and told, and never guessed where it matters."""

from __future__ import annotations

import csv
import io
import json
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payouts.keys import derive_key
from payouts.rows import Row
from payouts.source import encodings
from payouts.source.checks import FileSummary, check_rows
from payouts.source.files import form_of, read_rows
from payouts.source.layout import Layout
from payouts.source.mistakes import Mistake
from tests.payouts.command_kit import REWARD, Call, records
from tests.payouts.workbook_kit import table_book
from tests.texts import said

CSV = Layout(vendor="original")
JSONL = Layout(vendor="original", form="jsonl")
HEADER = "id,reward_uid,to_user_uid,amount,name\r\n"
NAMED = HEADER + f"r1,{REWARD},32,1.50,José\r\nr2,{REWARD},33,2.25,Zoë\r\n"
BOMS = {"utf-8": b"\xef\xbb\xbf", "utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff", "cp1252": b""}
WAYS = [("utf-8", False), ("utf-8", True), ("utf-16-le", True), ("utf-16-be", True), ("utf-16-le", False), ("utf-16-be", False)]


def checked(content: bytes, layout: Layout = CSV) -> tuple[FileSummary, list[Mistake]]:
    found: list[Mistake] = []
    return check_rows(io.BytesIO(content), layout, on_mistake=found.append), found


def rows_of(content: bytes, layout: Layout = CSV) -> list[Row]:
    return list(read_rows(io.BytesIO(content), layout))


def places_in(content: bytes, layout: Layout = CSV) -> list[tuple[str, int, int]]:
    return [(each.kind, each.line, each.column) for each in checked(content, layout)[1]]


@pytest.mark.parametrize(("codec", "marked"), [*WAYS, ("cp1252", False)])
def test_every_encoding_gives_the_same_rows_and_is_told(codec: str, marked: bool) -> None:
    content = (BOMS[codec] if marked else b"") + NAMED.encode(codec)
    result, found = checked(content)
    assert (found, rows_of(content)) == ([], rows_of(NAMED.encode()))
    notes = [(note.kind, note.message) for note in result.notes if note.kind != "ignored"]
    name = {"cp1252": "Windows-1252", "utf-8": "UTF-8"}.get(codec, "UTF-16")
    if name == "UTF-8":
        assert [kind for kind, _ in notes] == (["bom"] if marked else [])
    else:
        assert notes == [("encoding", f"read as {name}")]


@pytest.mark.parametrize(("codec", "marked"), WAYS)
def test_json_is_read_in_every_encoding(codec: str, marked: bool) -> None:
    line = json.dumps({"id": "é\u0a0a\u0d0a", "reward_uid": "1", "to_user_uid": "दिवाली", "amount": 1}, ensure_ascii=False)
    content = (BOMS[codec] if marked else b"") + f"{line}\r\n\r\n{line.replace('é', 'è')}\n".encode(codec)
    assert [(row.id, row.recipient, row.line) for row in rows_of(content, JSONL)] == [
        ("é\u0a0a\u0d0a", "दिवाली", 1),
        ("è\u0a0a\u0d0a", "दिवाली", 3),
    ]
    assert form_of("-", content[:1024]) == "jsonl"
    assert form_of("-", NAMED.encode(codec)) == "csv"


cells = st.text(
    st.characters(codec="cp1252", exclude_characters="\r\n\0", exclude_categories=["Cc", "Zs", "Cf"]), max_size=8
).filter(lambda cell: not re.search("[Â-ô][^\x00-\x7fÀ-ÿ]", cell))  # what looks like UTF-8 is refused
ids = st.lists(st.text("abcXYZ019_éßñ", min_size=1, max_size=6), min_size=1, max_size=5, unique_by=str.casefold)


@pytest.mark.slow
@given(ids, st.data())
def test_one_table_gives_the_same_rows_and_keys_in_every_format(names: list[str], data: st.DataObject) -> None:
    names = [name for name in names if name.casefold() not in {"na", "nan"}]
    table = [["id", "reward_uid", "to_user_uid", "amount", "note"]]
    table += [[f"r{name}", REWARD, f"u{data.draw(st.sampled_from('aé'))}", "1.50", data.draw(cells)] for name in names]
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\r\n").writerows(table)
    text = stream.getvalue()
    windows = Layout(vendor="original", encoding="windows-1252")
    read = [
        *(rows_of((BOMS[codec] if marked else b"") + text.encode(codec)) for codec, marked in WAYS),
        rows_of(text.encode("cp1252"), windows),
        rows_of(table_book(table), Layout(vendor="original", form="workbook")),
    ]
    assert len(read[0]) == len(names)
    assert all(each == read[0] for each in read)
    keys = [[derive_key("original", "c", row.id) for row in each] for each in read]
    assert all(each == keys[0] for each in keys)


UTF8_DAMAGED = NAMED.encode().replace("ë".encode(), b"\xc3")
WINDOWS = NAMED.encode("cp1252")


@pytest.mark.slow
def test_a_damaged_utf8_file_is_not_taken_for_windows_1252() -> None:
    assert places_in(UTF8_DAMAGED) == [("encoding", 3, 5)]
    early = NAMED.encode().replace("é".encode(), b"\xe9")
    assert places_in(early) == [("encoding", 2, 5)]
    longer_than_a_part = HEADER.encode() + b"".join(b"%0250d,1,32,1,\n" % at for at in range(5_000))
    second = b"%0250d,1,32,1," % 1
    damaged = longer_than_a_part.replace(second, second + b"\xe9") + "r,1,32,1,é\n".encode()
    assert places_in(damaged) == [("encoding", 3, 5)]


def test_bytes_that_windows_1252_does_not_have_are_mistakes() -> None:
    for byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D):
        assert places_in(WINDOWS.replace(b"\xeb", bytes([byte]))) == [("encoding", 3, 5)]


def test_an_id_in_an_encoding_that_was_guessed_is_refused() -> None:
    """`ş` of another code page would be paid as `º`, to somebody else."""
    content = WINDOWS.replace(b",32,", b",3\xba2,").replace(b"r2,", b"r\xe9,")
    assert [(each.kind, each.line, each.name) for each in checked(content)[1]] == [
        ("encoding", 2, "to_user_uid"),
        ("encoding", 3, "id"),
    ]
    settled = rows_of(content, Layout(vendor="original", encoding="windows-1252"))
    assert [(row.id, row.recipient) for row in settled] == [("r1", "3º2"), ("ré", "33")]
    line = b'{"id":"r1","reward_uid":"1","to_user_uid":"\xba","amount":1}\n'
    assert [(each.kind, each.name) for each in checked(line, JSONL)[1]] == [("encoding", "to_user_uid")]


@pytest.mark.parametrize("name", ["José", "Ábel", "दिवाली", "😀", "\u2019"])
@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("once", [False, True])
def test_a_utf8_file_is_not_read_as_windows_1252_at_a_persons_word(name: str, marked: bool, once: bool) -> None:
    """`José` would be paid as `JosÃ©`: a new grant, or one to somebody else."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return not once

    table = HEADER + f"r1,{REWARD},32,1.50,Jose\r\nr2,{REWARD},{name},2.25,\r\nr3,{REWARD},34,1,\r\n"
    line = json.dumps({"id": "r1", "reward_uid": "1", "to_user_uid": name, "amount": 1}, ensure_ascii=False)
    for text, form in ((table, "csv"), (line, "jsonl")):
        layout = Layout(vendor="original", form=form, encoding="windows-1252")
        for damage in (b"", b"\xe9"):  # a byte that is not UTF-8 elsewhere does not make the rest Windows-1252
            content = text.encode("utf-8-sig" if marked else "utf-8") + b"\n" + damage
            found: list[Mistake] = []
            rows = list(read_rows(Pipe(content), layout, on_mistake=found.append))
            assert found[0].kind == "encoding"
            assert "omit --encoding" in found[0].message
            assert all(row.recipient.isascii() for row in rows)


def test_nobody_is_sent_from_a_damaged_utf8_file_to_another_encoding() -> None:
    for layout in (CSV, Layout(vendor="original", encoding="utf-8")):
        assert "1252" not in str(checked(UTF8_DAMAGED, layout)[1][0])


def test_an_encoding_that_was_given_is_taken_or_refused() -> None:
    for wrong, content in {
        "utf-8": UTF8_DAMAGED,
        "utf-16": WINDOWS,
        "windows-1252": NAMED.encode("utf-16"),
    }.items():
        assert checked(content, Layout(vendor="original", encoding=wrong))[1][0].kind == "encoding"
    assert rows_of(NAMED.encode(), Layout(vendor="original", encoding="utf-8")) == rows_of(NAMED.encode())
    utf16 = Layout(vendor="original", encoding="utf-16")
    assert rows_of(NAMED.encode("utf-16"), utf16) == rows_of(NAMED.encode("utf-16-be"), utf16) == rows_of(NAMED.encode())
    assert [note.kind for note in checked(WINDOWS, Layout(vendor="original", encoding="windows-1252"))[0].notes] == ["ignored"]


@pytest.mark.parametrize("codec", ["utf-32", "utf-32-le", "utf-32-be"])
def test_utf_32_is_refused(codec: str) -> None:
    (mistake,) = checked(NAMED.encode(codec))[1]
    assert (mistake.kind, "UTF-32" in mistake.message) == ("encoding", True)


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_places_in_utf_16_are_those_of_the_text(codec: str) -> None:
    """A line ends at a line end, not at a byte 0x0A that is half of another character."""
    rows = [f"r1,{REWARD},32,x,\u0a0a\u0d0a\u010a😀", f"r2,{REWARD},\u0a0a,1,", f"r3,{REWARD},33,1,\ud800", f"r4,{REWARD},34,1,"]
    content = BOMS[codec] + (HEADER + "\r\n".join(rows)).encode(codec, "surrogatepass")
    assert places_in(content) == [("amount", 2, 4), ("encoding", 4, 5)]
    assert places_in(content[:-1])[-1] == ("encoding", 5, 4)
    line = '{"id":"\u0a0a😀", "x": \ud800}\n'.encode(codec, "surrogatepass")
    assert places_in(line * 2, JSONL) == [("encoding", 1, 18), ("encoding", 2, 18)]


def test_a_line_in_utf_16_is_as_long_as_in_utf_8_at_most() -> None:
    for codec in ("utf-8", "utf-16", "cp1252"):
        content = (HEADER + f"r1,1,32,1,{'x' * 65_500}\n" + f"r2,1,32,1,{'x' * 65_600}\nr3,1,32,1,é\n").encode(codec)
        assert places_in(content) == [("line_length", 3, 5)]


def test_a_cut_off_line_of_a_pipe_is_found_in_utf_16_too() -> None:
    content = (HEADER + f"r1,{REWARD},32,1.50,").encode("utf-16")
    assert places_in(content, Layout(vendor="original", piped=True)) == [("cut_off", 2, 5)]


@pytest.mark.parametrize("given", [None, "utf-8", "windows-1252", "utf-16"])
def test_a_stream_that_cannot_go_back_is_read_once(given: str | None) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: Any) -> int:
            raise io.UnsupportedOperation

    content = NAMED.encode("utf-16" if given == "utf-16" else "cp1252" if given == "windows-1252" else "utf-8")
    rows = list(read_rows(Pipe(content), Layout(vendor="original", encoding=given)))
    assert rows == rows_of(NAMED.encode())


def test_a_stream_is_read_from_where_it_stands() -> None:
    stream = io.BytesIO(b"\xe9\n" + WINDOWS)
    stream.readline()
    assert list(read_rows(stream, CSV)) == rows_of(WINDOWS)


@pytest.mark.slow
@pytest.mark.repeats_itself
@pytest.mark.parametrize("codec", ["utf-16", "cp1252"])
def test_memory_does_not_grow_with_the_file(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encodings, "CHUNK", 8_192)
    peaks = []
    for count in (10_000, 30_000):
        content = (HEADER + "".join(f"r{at},1,32,1.5,é\n" for at in range(count))).encode(codec)
        stream = io.BytesIO(content)
        tracemalloc.start()
        assert sum(1 for _ in read_rows(stream, CSV)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.3


def test_a_title_cannot_change_the_line_that_names_it() -> None:
    content = HEADER.replace("name", '"na\u202e\nme\x1b[2J"').encode() + b"r1,1,2,3,\n"
    result, found = checked(content)
    assert [(note.kind, note.message.partition(": ")[2]) for note in result.notes] == [("ignored", "na me [2J")]
    assert found == []


def test_words_about_encodings() -> None:
    doubtful = WINDOWS.replace(b",32,", b",3\xba2,")
    told = {
        "an id in a guessed encoding": checked(doubtful)[1],
        "a damaged UTF-8 file": checked(UTF8_DAMAGED)[1],
        "a byte that is not Windows-1252": checked(WINDOWS.replace(b"\xeb", b"\x81"))[1],
        "half a character of UTF-16": checked(NAMED.encode("utf-16")[:-1])[1],
        "another encoding than was given": checked(NAMED.encode("utf-16"), Layout(vendor="original", encoding="utf-8"))[1],
        "UTF-8 given as Windows-1252": checked(NAMED.encode(), Layout(vendor="original", encoding="windows-1252"))[1],
        "not UTF-16 as was given": checked(WINDOWS, Layout(vendor="original", encoding="utf-16"))[1],
    }
    said("files: encodings", "\n".join(f"{name}: {found[0]}" for name, found in told.items()))


@pytest.mark.parametrize("how", ["option", "variable", "file"])
def test_a_person_settles_a_doubt(call: Call, folder: Path, how: str) -> None:
    (folder / "rewards.csv").write_bytes(WINDOWS.replace(b",32,", b",3\xba2,"))
    (folder / "payouts.toml").write_text('[run]\nencoding = "windows-1252"\n')
    run = ("run", "rewards.csv", "--vendor=original", "--campaign=c", "--dry-run", "--json")
    assert call(*run).exit_code == 2
    more = {"option": ["--encoding=windows-1252"], "variable": [], "file": ["--config=payouts.toml"]}[how]
    done = call(*run, *more, env={"PAYOUTS_RUN_ENCODING": "windows-1252"} if how == "variable" else None)
    assert (done.exit_code, records(done)[0]["rows"]) == (0, 2)
