"""How a file of rows is laid out: its format, its columns and its encoding."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import NOTHING, field, fields, frozen
from attrs.validators import optional

from payouts.source.encodings import ENCODINGS
from payouts.vendors import ROW_TYPES
from rewards_core.validation import check_choice, check_mapping, check_str, checked, flag, shown

FORMS = ("csv", "jsonl", "workbook")
REQUIRED = {
    vendor: tuple(each.name for each in fields(row_type) if each.init and each.default is NOTHING)
    for vendor, row_type in ROW_TYPES.items()
}
SAMPLES = {
    vendor: {each.name: each.metadata.get("sample", "1") for each in fields(row_type) if each.name in REQUIRED[vendor]}
    for vendor, row_type in ROW_TYPES.items()
}
"""A valid value of each required field."""
OPTIONAL = {
    vendor: (row_type.key_field, *(name for name in row_type.detail_fields if name not in REQUIRED[vendor]))
    for vendor, row_type in ROW_TYPES.items()
}
COLUMNS = {vendor: (*REQUIRED[vendor], *OPTIONAL[vendor]) for vendor in ROW_TYPES}
"""Every field of a vendor's file, in the documented order."""
_NOT_FOR = {"sheet": ("csv", "jsonl"), "delimiter": ("workbook",), "encoding": ("workbook",)}


def check_delimiter(value: str, name: str) -> str:
    """Check the delimiter of CSV cells: one character that is neither a line end nor a quote.

    Raises:
        TypeError: it is not a str.
        ValueError: it cannot be a delimiter.
    """
    text = check_str(value, name)
    if len(text) != 1 or text == '"' or not (text.isprintable() or text == "\t"):
        raise ValueError(f"{name}: give one character such as ';', not {shown(text)}.")
    return text


def check_sheet(value: str, name: str) -> str:
    """Check the name of a sheet.

    Raises:
        TypeError: it is not a str.
        ValueError: it is empty.
    """
    if not check_str(value, name):
        raise ValueError(f"{name}: give the name of a sheet, not an empty text.")
    return value


def _check_names(layout: Layout, _: object, names: object) -> None:
    for name, column in check_mapping(names, "names", "a mapping of fields to columns").items():
        check_choice(name, "names", COLUMNS[layout.vendor])
        if not check_str(column, "names"):
            raise ValueError(f"names: give the name of a column for {name}, not {shown(column)}.")


def fits(option: str, form: str) -> bool:
    """Return whether files of a form have what an option of a layout describes, such as a sheet."""
    return form not in _NOT_FOR[option]


@frozen(kw_only=True)
class Layout:
    """How to read a file.

    Args:
        vendor: The name of the vendor that pays the rows, as in `Ledger(vendor=...)`.
        names: The name of its column by field, where it differs, such as `{"id": "order_no"}`.
        form: `"csv"`, `"jsonl"` or `"workbook"`, which is .xlsx or .xlsm.
        delimiter: The delimiter of CSV cells; None detects it in the header.
        encoding: `"utf-8"`, `"utf-16"` or `"windows-1252"`; None detects it. A file that can be read only once is then UTF-8.
        sheet: The sheet of a workbook; None takes the only visible one that is not empty.
        ids_from_line: Use the number of the line, or of the row in a sheet, as the id. An inserted line then shifts every id
            after it.
        piped: Whether a program writes the input and ends every line; a last line without an end is then refused as truncated.

    Raises:
        TypeError: an argument has another type.
        ValueError: there is no such vendor, form, field or encoding, a delimiter or name is invalid, or the form has no such
            thing as a sheet, a delimiter or an encoding.
    """

    vendor: str = field(validator=checked(check_choice, ROW_TYPES))
    names: Mapping[str, str] = field(factory=dict, validator=_check_names)
    form: str = field(default="csv", validator=checked(check_choice, FORMS))
    delimiter: str | None = field(default=None, validator=optional(checked(check_delimiter)))
    encoding: str | None = field(default=None, validator=optional(checked(check_choice, ENCODINGS)))
    sheet: str | None = field(default=None, validator=optional(checked(check_sheet)))
    ids_from_line: bool = field(default=False, validator=flag())
    piped: bool = field(default=False, validator=flag())

    def __attrs_post_init__(self) -> None:
        for name in _NOT_FOR:
            if getattr(self, name) is not None and not fits(name, self.form):
                raise ValueError(f"{name}: give None or another form; {self.form!r} has no {name}.")

    @property
    def required(self) -> tuple[str, ...]:
        """The fields that every row has."""
        return tuple(name for name in REQUIRED[self.vendor] if name != "id" or not self.ids_from_line)

    @property
    def key(self) -> str:
        """The field of the key."""
        return ROW_TYPES[self.vendor].key_field

    @property
    def optional(self) -> tuple[str, ...]:
        """The fields that a row may lack, that of the key first."""
        return OPTIONAL[self.vendor]

    @property
    def line_word(self) -> str:
        """What people call the place of a row: its line, or its row in a sheet."""
        return "row" if self.form == "workbook" else "line"

    def column(self, name: str) -> str:
        """Return the column of a field."""
        return self.names.get(name, name)

    @property
    def fields(self) -> tuple[str, ...]:
        """Every field that is read, in the documented order."""
        return (*self.required, *self.optional)
