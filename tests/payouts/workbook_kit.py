"""Workbooks as spreadsheets and programs write them, put together by hand, so that a test decides what each cell is."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006/relationships"
_STYLES = (
    f'<styleSheet xmlns="{MAIN}"><numFmts count="2"><numFmt numFmtId="164" formatCode="dd\\-mmm"/>'
    '<numFmt numFmtId="165" formatCode="&quot;days&quot; 0.00"/></numFmts><cellStyleXfs><xf numFmtId="14"/></cellStyleXfs>'
    '<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="164"/><xf numFmtId="165"/></cellXfs></styleSheet>'
)

Row = str | Sequence[str]
"""The XML of a row, or its cells: each the XML of a cell without its place, or empty for none."""


def text(value: str) -> str:
    """A text in the cell itself."""
    return f'<c t="inlineStr"><is><t xml:space="preserve">{escape(value)}</t></is></c>'


def number(value: str, style: int = 0) -> str:
    return f'<c s="{style}"><v>{value}</v></c>'


def boolean(value: bool) -> str:
    return f'<c t="b"><v>{int(value)}</v></c>'


def error(value: str) -> str:
    return f'<c t="e"><v>{value}</v></c>'


def formula(what: str, result: str | None, kind: str = "str") -> str:
    """A formula and the result that is stored for it."""
    stored = "" if result is None else f"<v>{escape(result)}</v>"
    return f'<c t="{kind}"><f>{escape(what)}</f>{stored}</c>'


def shared(place: int) -> str:
    return f'<c t="s"><v>{place}</v></c>'


def texts(*values: str) -> list[str]:
    return [text(value) for value in values]


def sheet(rows: Mapping[int, Row], *, first_column: int = 1, hidden: Sequence[int] = (), columns: str = "") -> str:
    """Return the XML of a sheet; its rows are numbered as in Excel, and its cells have their places."""
    written = []
    for at, cells in rows.items():
        if isinstance(cells, str):
            written.append(cells)
            continue
        placed = "".join(
            cell.replace("<c", f'<c r="{letters(column)}{at}"', 1) for column, cell in enumerate(cells, first_column) if cell
        )
        unseen = ' hidden="1"' if at in hidden else ""
        written.append(f'<row r="{at}"{unseen}>{placed}</row>')
    return f'<worksheet xmlns="{MAIN}">{columns}<sheetData>{"".join(written)}</sheetData></worksheet>'


def letters(column: int) -> str:
    high, low = divmod(column - 1, 26)
    return (chr(64 + high) if high else "") + chr(65 + low)


def workbook(
    sheets: Mapping[str, str],
    *,
    strings: Sequence[str] = (),
    states: Mapping[str, str] | None = None,
    parts: Mapping[str, str | bytes] | None = None,
) -> bytes:
    """Return the bytes of a workbook.

    Args:
        sheets: The XML of each sheet by its name.
        strings: The XML within each shared text.
        states: The state of each sheet that is not visible.
        parts: Parts to add or to replace.
    """
    states = states or {}
    listed = "".join(
        f'<sheet name={quoteattr(name)} sheetId="{place}" state="{states.get(name, "visible")}" r:id="rId{place}"/>'
        for place, name in enumerate(sheets, 1)
    )
    others = {"rId98": "styles", "rId99": "sharedStrings"}
    relations = {f"rId{place}": ("worksheet", f"worksheets/sheet{place}.xml") for place in range(1, len(sheets) + 1)}
    relations |= {key: (kind, f"/xl/{kind}.xml") for key, kind in others.items()}
    written: dict[str, str | bytes] = {
        "[Content_Types].xml": '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>',
        "_rels/.rels": _relations({"rId1": ("officeDocument", "xl/workbook.xml")}),
        "xl/workbook.xml": f'<workbook xmlns="{MAIN}" xmlns:r="{_OFFICE}"><sheets>{listed}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": _relations(relations),
        "xl/styles.xml": _STYLES,
        "xl/sharedStrings.xml": f'<sst xmlns="{MAIN}">{"".join(f"<si>{each}</si>" for each in strings)}</sst>',
        **{f"xl/worksheets/sheet{place}.xml": content for place, content in enumerate(sheets.values(), 1)},
        **(parts or {}),
    }
    return zipped(written)


def zipped(parts: Mapping[str, str | bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def book_of(rows: Sequence[Row], *, name: str = "Sheet1", first_row: int = 1, first_column: int = 1) -> bytes:
    """Return a workbook with one sheet."""
    return workbook({name: sheet(dict(enumerate(rows, first_row)), first_column=first_column)})


def table_book(table: Sequence[Sequence[str]]) -> bytes:
    """Return a workbook of texts, kept as Excel does: each text once, and the cells refer to it."""
    places: dict[str, int] = {}
    rows = [[shared(places.setdefault(cell, len(places))) if cell else "" for cell in row] for row in table]
    strings = [f'<t xml:space="preserve">{escape(_controls(each))}</t>' for each in places]
    return workbook({"Sheet1": sheet(dict(enumerate(rows, 1)))}, strings=strings)


def _controls(value: str) -> str:
    return re.sub(r"_(?=x[0-9A-Fa-f]{4}_)|\r", lambda found: f"_x{ord(found[0]):04X}_", value)


def _relations(targets: Mapping[str, tuple[str, str]]) -> str:
    listed = "".join(
        f'<Relationship Id="{key}" Type="{_OFFICE}/{kind}" Target="{target}"/>' for key, (kind, target) in targets.items()
    )
    return f'<Relationships xmlns="{_PACKAGE}">{listed}</Relationships>'


GOOD = table_book([["id", "reward_uid", "to_user_uid", "amount"], ["r1", "21", "32", "1"], ["r2", "21", "33", "2"]])
"""A workbook with two rows."""
