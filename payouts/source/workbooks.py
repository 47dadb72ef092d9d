"""Excel workbooks (.xlsx, .xlsm) as they lie in their zip file: the sheets, and the texts that cells share.

Readers of workbooks for data analysis will not do: python-calamine 0.9 returns an empty text for an error such as #N/A, so that
a key would be derived where one was meant, does not tell hidden rows, and holds the whole sheet in memory, empty cells included.
"""

from __future__ import annotations

import errno
import io
import mmap
import posixpath
import re
import struct
import tempfile
import zipfile
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO
from xml.parsers import expat

from attrs import frozen

from payouts.source.lines import OLE, ZIP
from payouts.spelling import quoted

MAX_BYTES = 1 << 30
"""The most that the parts of a workbook may have together."""
MAX_TEXT = 65_536
"""The most characters that the cells of a row may have together."""

_CHUNK = 65_536
_MAX_TAG = 1 << 20
_MAX_STYLES = 65_536  # Excel has fewer
_LAST_RECORD = b"PK\x05\x06"
_LAST_SIZE = 22
_PASSWORD = "EncryptedPackage".encode("utf-16-le")
_DAMAGED = "this workbook is damaged or incomplete ({}): open it in a spreadsheet and save it again, or copy it again"
_DATES = frozenset({*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59)})  # built-in formats of dates and times
_quoted_format = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]|_.|\*.')
_date_format = re.compile("[dmyhs]", re.IGNORECASE).search
_SPACE, _UNDERSCORE = 0x20, 0x5F
_escaped = re.compile("_x([0-9A-Fa-f]{4})_")

Start = Callable[[str, dict[str, str]], None]
End = Callable[[str], None]


class WorkbookRefused(ValueError):
    """A file is not a workbook that can be read.

    Attributes:
        kind: A word for programs, such as `"workbook"` or `"sheet"`.
    """

    def __init__(self, message: str, kind: str = "workbook") -> None:
        super().__init__(message)
        self.kind = kind


def damaged(what: object) -> WorkbookRefused:
    """Return the refusal of a workbook that breaks the rules of its format."""
    return WorkbookRefused(_DAMAGED.format(what))


@frozen
class Sheet:
    """One sheet of a workbook.

    Attributes:
        name: Its name.
        part: The file in the zip file.
        hidden: Whether people do not see it.
    """

    name: str
    part: str
    hidden: bool


class Workbook:
    """An open workbook.

    Attributes:
        sheets: Its sheets with cells, in their order.
        dates: The styles that show a number as a date or a time.
    """

    def __init__(self, stream: BinaryIO) -> None:
        with _refusing():
            self._zip = _zip_of(stream)
            self._names = {name.lower(): name for name in self._zip.namelist()}
            _refuse_twice("part", self._zip.namelist())
            book = self._only("", "officeDocument") or "xl/workbook.xml"
            if book.lower() not in self._names:
                raise WorkbookRefused("this is not an Excel workbook (.xlsx): save it as .xlsx, or as CSV UTF-8")
            places = self._related(book, "worksheet")
            self.sheets = [
                Sheet(each["name"], places[each["id"]], each.get("state", "visible") != "visible")
                for each in self._elements(book, "sheet")
                if each.get("id") in places and "name" in each
            ]
            _refuse_twice("sheet", [sheet.name for sheet in self.sheets])
            _refuse_twice("part of a sheet", [sheet.part for sheet in self.sheets])
            self.dates = self._date_styles(self._only(book, "styles"))
            self._texts: SharedTexts | None = None
            self._texts_part = self._only(book, "sharedStrings")

    @property
    def texts(self) -> SharedTexts:
        """The texts that cells refer to by number, read when the first one is wanted."""
        if self._texts is None:
            texts = SharedTexts()
            try:
                if self._texts_part:
                    collector = _TextCollector(texts)
                    for _ in self.feed(self._texts_part, collector.start, collector.end, collector.characters):
                        pass
                texts.settle()
            except BaseException:
                texts.close()
                raise
            self._texts = texts
        return self._texts

    def close(self) -> None:
        """Close what was opened, without the stream."""
        self._zip.close()
        if self._texts is not None:
            self._texts.close()

    def feed(self, part: str, start: Start, end: End, characters: End | None = None) -> Iterator[None]:
        """Parse a part piece by piece; the handlers get the names of elements without a prefix.

        Raises:
            WorkbookRefused: it is missing or damaged.
        """
        parser = expat.ParserCreate()
        parser.buffer_text = True

        def refuse_doctype(*_: object) -> None:
            raise damaged("it has a DOCTYPE declaration, which is not allowed")

        def on_root(name: str, attributes: dict[str, str]) -> None:
            if ":" in name:
                parser.StartElementHandler = lambda name, attributes: start(name.rpartition(":")[2], attributes)
                parser.EndElementHandler = lambda name: end(name.rpartition(":")[2])
            else:  # nearly always, and twice as fast
                parser.StartElementHandler, parser.EndElementHandler = start, end
            parser.StartElementHandler(name, attributes)

        parser.StartElementHandler = on_root
        parser.StartDoctypeDeclHandler = refuse_doctype
        if characters is not None:
            parser.CharacterDataHandler = characters
        with _refusing():
            if part.lower() not in self._names:
                raise damaged(f"it has no part {quoted(part)}")
            with self._zip.open(self._names[part.lower()]) as stream:
                fed = 0
                while chunk := stream.read(_CHUNK):
                    parser.Parse(chunk, False)
                    fed += len(chunk)
                    if fed - parser.CurrentByteIndex > _MAX_TAG:  # each piece makes the parser begin at the tag again
                        raise damaged(f"a tag has more than {_MAX_TAG:,} bytes")
                    yield
            parser.Parse(b"", True)
        yield

    def _elements(self, part: str, wanted: str) -> list[dict[str, str]]:
        """Return the attributes of each element of a name, in their order."""
        found: list[dict[str, str]] = []

        def start(name: str, attributes: Mapping[str, str]) -> None:
            if name == wanted:
                found.append({key.rpartition(":")[2]: value for key, value in attributes.items()})

        for _ in self.feed(part, start, lambda _: None):
            pass
        return found

    def _related(self, part: str, kind: str) -> dict[str, str]:
        """Return the id and the place of each part of a kind that a part refers to."""
        folder, name = posixpath.split(part)
        table = posixpath.join(folder, "_rels", f"{name}.rels")
        if table.lower() not in self._names:
            return {}
        relations = [each for each in self._elements(table, "Relationship") if {"Id", "Target"} <= each.keys()]
        _refuse_twice("relationship", [each["Id"] for each in relations])
        return {
            each["Id"]: posixpath.normpath(posixpath.join("/", folder, each["Target"])).lstrip("/")
            for each in relations
            if each.get("Type", "").endswith(f"/{kind}")
        }

    def _only(self, part: str, kind: str) -> str:
        """Return the place of the one part of a kind that a part refers to, empty if there is none."""
        found = list(self._related(part, kind).values())
        if len(found) > 1:
            raise damaged(f"it has {len(found)} parts for {kind}")
        return found[0] if found else ""

    def _date_styles(self, part: str) -> frozenset[str]:
        """Return the numbers of the styles that show a date."""
        if part.lower() not in self._names:
            return frozenset()
        own: dict[str, str] = {}
        styles: list[str] = []
        inside = False

        def start(name: str, attributes: dict[str, str]) -> None:
            nonlocal inside
            if name == "numFmt":
                own[attributes.get("numFmtId", "")] = attributes.get("formatCode", "")
            elif name == "cellXfs":
                inside = True
            elif name == "xf" and inside:
                styles.append(attributes.get("numFmtId", "0"))
                if len(styles) > _MAX_STYLES:
                    raise damaged(f"it has more than {_MAX_STYLES:,} styles")

        def end(name: str) -> None:
            nonlocal inside
            inside = inside and name != "cellXfs"

        for _ in self.feed(part, start, end):
            pass
        return frozenset(str(number) for number, each in enumerate(styles) if _is_date(each, own))


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    """Refuse a workbook of which one program may read the first of two things and another program the second."""
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise damaged(f"it has the {what} {quoted(name)} twice")
        seen.add(name.casefold())


def _is_date(number: str, own: Mapping[str, str]) -> bool:
    if number in own:
        return _date_format(_quoted_format.sub("", own[number])) is not None
    return number.isdecimal() and int(number) in _DATES


class SharedTexts:
    """Texts by number, in an unnamed file: a large workbook has millions."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._ends = array("Q", [0])
        self._content: mmap.mmap | bytes = b""

    def append(self, text: str) -> None:
        """Add the next text."""
        self._ends.append(self._ends[-1] + self._file.write(text.encode()))

    def settle(self) -> None:
        """Make every text readable, after the last one."""
        self._file.flush()
        if self._ends[-1]:
            self._content = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def __getitem__(self, number: int) -> str:
        if not 0 <= number < len(self._ends) - 1:
            raise damaged("a cell refers to a shared text that does not exist")
        return self._content[self._ends[number] : self._ends[number + 1]].decode()

    def close(self) -> None:
        """Delete the file."""
        if not isinstance(self._content, bytes):
            self._content.close()
        self._file.close()


class _TextCollector:
    def __init__(self, texts: SharedTexts) -> None:
        self._texts = texts
        self._pieces: list[str] = []
        self._size = 0
        self._within = False
        self._sounds = 0

    def start(self, name: str, _: dict[str, str]) -> None:
        if name == "si":
            self._pieces, self._size = [], 0
        elif name == "rPh":  # how a text is pronounced
            self._sounds += 1
        self._within = name == "t" and not self._sounds

    def end(self, name: str) -> None:
        self._within = False
        if name == "si":
            self._texts.append("".join(self._pieces))
        elif name == "rPh":
            self._sounds -= 1

    def characters(self, text: str) -> None:
        if self._within and self._size <= MAX_TEXT:
            self._size += len(text)
            self._pieces.append(text)


def unescaped(text: str) -> str | None:
    """Return a text with the characters that workbooks escape, such as `_x000D_`; None if programs read it in two ways.

    Excel reads `_x0041_` as `A`; programs that do not escape have written it for what it is.
    """
    if "_x" not in text:
        return text
    codes = [int(code, 16) for code in _escaped.findall(text)]
    if any(code >= _SPACE and code != _UNDERSCORE for code in codes):
        return None
    return _escaped.sub(lambda found: chr(int(found[1], 16)), text)


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what a damaged zip file or damaged XML raises into a refusal."""
    try:
        yield
    except WorkbookRefused:
        raise
    except (zipfile.BadZipFile, zlib.error, struct.error, expat.ExpatError, EOFError, ValueError, NotImplementedError) as problem:
        raise damaged(problem) from None
    except OSError as problem:
        if problem.errno not in {None, errno.EINVAL}:
            raise
        raise damaged("it is cut off") from None


def _zip_of(stream: BinaryIO) -> zipfile.ZipFile:
    stream.seek(0)
    start = stream.read(len(OLE))
    if start == OLE:
        raise WorkbookRefused(
            "this workbook has a password: save it without one"
            if _holds(stream, _PASSWORD)
            else "this is a workbook of old Excel (.xls): save it as .xlsx, or as CSV UTF-8"
        )
    if not start.startswith(ZIP):
        told = "this file is not a workbook, whatever its name says: name it .csv or .jsonl if it is one, or add --format"
        raise WorkbookRefused(told)
    archive = zipfile.ZipFile(stream)
    parts = archive.infolist()
    size = sum(part.file_size for part in parts)
    if size > MAX_BYTES:
        raise WorkbookRefused(f"the parts of this workbook have {size:,} bytes, the limit is {MAX_BYTES:,}: split it")
    if any(part.flag_bits & 1 for part in parts):
        raise WorkbookRefused("this workbook has a password: save it without one")
    stream.seek(-_LAST_SIZE, io.SEEK_END)
    if stream.read(4) != _LAST_RECORD or archive.comment or min((part.header_offset for part in parts), default=0):
        raise damaged("it has bytes before its first part or after its end")
    return archive


def _holds(stream: BinaryIO, wanted: bytes) -> bool:
    stream.seek(0)
    before = b""
    while chunk := stream.read(1 << 20):
        if wanted in before + chunk:
            return True
        before = chunk[-len(wanted) :]
    return False
