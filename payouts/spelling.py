"""What a spreadsheet or a program did to an id, a name or an amount, and the message for it."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from itertools import zip_longest
from typing import Any

from attrs import frozen

from rewards_core.text import one_line
from rewards_core.validation import MAX_LINK, MAX_TEXT, half_pair, is_id, unfit_for_title

_MAX_SHOWN = 60

_plain_id = re.compile(r"(?!(?i:na|nan|nat|none|null|undefined)\Z|[0-9]+[eE]-)[A-Za-z0-9_-]{1,255}", re.ASCII).fullmatch
_plain_amount = re.compile(r"[1-9][0-9]{0,59}(?:\.[0-9]{1,30})?", re.ASCII).fullmatch

_MISSING = frozenset({"na", "nan", "-nan", "none", "null", "nat", "<na>", "n/a", "(null)", "undefined", "\\n"})
_error = re.compile(r"#N/A.*|#[¡¿]?[^\W\d_][\w/]*[!?]|#(?:N/D|N/B|NV|GETTING_DATA|DIV/0)|Err:\d+", re.IGNORECASE).fullmatch
_APOSTROPHES = "'`\u00b4\u02bc\u2018\u2019\u201b\u2032"
_protected = re.compile(rf"[{_APOSTROPHES}][=+\-@\uff1d\uff0b\uff0d\uff20]").match
_quoted_formula = re.compile(r'=\s*["\u201c\u201d]').match
_OPENING, _CLOSING = '"\u201c\u201d\u201e\u00ab', '"\u201c\u201d\u00bb'
_full_width = re.compile(r"[\uff01-\uff5e]").search
_white_space = re.compile(r"\s").search
_fetchable = re.compile(r"(?!file:)[a-z][a-z0-9+.-]+:.", re.ASCII | re.IGNORECASE).match  # one letter is a drive, as in C:\a.png

_MANTISSA = r"[+-]?(?:[0-9]+[.,]?[0-9]*|[.,][0-9]+)"
_float_id = re.compile(r"[+-]?[0-9]+[.,]0*").fullmatch
_grouped_id = re.compile(
    r"[+-]?(?:[0-9]{1,3}(?:,[0-9]{2,3})*,[0-9]{3}|[0-9]{1,3}(?:'[0-9]{3})+|[0-9]{1,3}(?:\.[0-9]{3}){2,})(?:[.,][0-9]*)?"
).fullmatch
_scientific_id = re.compile(  # 12E5 is an id
    rf"{_MANTISSA}[eE]\+[0-9]+|[+-]?(?:[0-9]+[.,][0-9]*|[.,][0-9]+)[eE]-?[0-9]+|[+-]?[0-9][eE]-[0-9]+"
).fullmatch
_scientific_amount = re.compile(rf"{_MANTISSA}[eE][+-]?[0-9]+").fullmatch
_separated_amount = re.compile(r"(?=.*[,'\u2019_\s])[0-9.,'\u2019_\s]*[0-9][.,]?|[0-9]{1,3}(?:\.[0-9]{3}){2,}").fullmatch
_CODE = r"(?:[A-Z]{3}|R[sS]\.?|rs\.?|Rp\.?|RM|kr\.?)"
_coded_amount = re.compile(rf"[+-]?{_CODE}\s*[+-]?[0-9][0-9.,\s]*(?:/-)?|[+-]?[0-9][0-9.,\s]*(?:{_CODE}|/-)").fullmatch
_signed_amount = re.compile(r"[+\-\u2212\u2013]\s*[0-9.,]+|[0-9.,]+[+-]|\([0-9.,]+\)").fullmatch

_LIMIT = 10**60
_AGAIN = "format the column as Text and export the file again"


@frozen
class Misspelling:
    """A misspelled value.

    Attributes:
        kind: A word for programs, such as `"scientific"`.
        message: What is wrong and what to do.
    """

    kind: str
    message: str


@frozen
class NotText:
    """A cell of a workbook that holds something other than text, such as a number, of which a spreadsheet keeps 15 digits.

    Attributes:
        shown: What it holds, as text.
        why: Why it is not taken for an id, a name or an amount.
    """

    shown: str
    why: Misspelling

    def __str__(self) -> str:
        return self.shown


def quoted(value: str) -> str:
    """Return a text from outside in quotes, as one short printable line."""
    short = value if len(value) <= _MAX_SHOWN else f"{value[: _MAX_SHOWN - 1]}…"
    return one_line(f'"{short}"')


def told_apart(one: str, other: str) -> tuple[str, str]:
    """Return two different texts so that a person can tell them apart: escaped where they look alike."""
    bare = [unicodedata.normalize("NFKC", text).casefold() for text in (one, other)]
    pairs = list(zip_longest(*bare, fillvalue=""))
    alike = all(a == b or a.isascii() != b.isascii() for a, b in pairs)
    return (ascii(one)[1:-1], ascii(other)[1:-1]) if alike else (one, other)


class RepeatedKey(ValueError):
    """An object in JSON has a key twice; programs disagree on which of them counts."""


def object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON, as an `object_pairs_hook`.

    Raises:
        RepeatedKey: it has a key twice.
    """
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RepeatedKey(f"the key {quoted(twice)} appears twice: delete one of them")
    return values


def misspelled_id(value: object) -> Misspelling | None:
    """Return what is wrong with the id of a row, user, reward or request, None if nothing is."""
    if isinstance(value, str) and _plain_id(value):
        return None
    if isinstance(value, str):
        return _in_any_column(value, "an id") or _in_ids(value)
    if isinstance(value, Decimal):  # a JSON number that is not an integer
        return _in_ids(str(value)) or _of_another_type(value, "an id")
    return _of_another_type(value, "an id")


def misspelled_name(value: object) -> Misspelling | None:
    """Return what is wrong with the name of an event, None if nothing is."""
    if not isinstance(value, str):
        return _of_another_type(value, "a name")
    return _in_any_column(value, "a name") or _at_the_ends(value)


def misspelled_title(value: object) -> Misspelling | None:
    """Return what is wrong with a name that people read, in any script; None if nothing is."""
    if not isinstance(value, str):
        return _of_another_type(value, "a name")
    found = _in_any_text(value, "a name") or _at_the_ends(value) or _halved(value)
    if found is None and (control := unfit_for_title(value)):
        return _invisible(value, control[0])
    return found


def misspelled_text(value: object) -> Misspelling | None:
    """Return what is wrong with a text of any length, None if nothing is."""
    if not isinstance(value, str):
        return _of_another_type(value, "a text")
    return _halved(value) if value.strip() else Misspelling("empty", "the cell is blank: give a text, or leave it out")


def misspelled_link(value: object) -> Misspelling | None:
    """Return what is wrong with the address of a page or an image, None if nothing is."""
    if not isinstance(value, str):
        return _of_another_type(value, "an address")
    found = _in_any_column(value, "an address", MAX_LINK) or _at_the_ends(value)
    if found is not None:
        return found
    if _white_space(value):
        return Misspelling("white_space", f"{quoted(value)} contains white space: write %20 for each space")
    if strange := _first_invisible(value):
        return _invisible(value, strange)
    if _fetchable(value):
        return None
    told = f"{quoted(value)} is not an address on the Internet: write all of it, such as https://example.com/1.png"
    return Misspelling("address", told)


def misspelled_amount(value: object) -> Misspelling | None:
    """Return what is wrong with an amount, None if nothing is."""
    if isinstance(value, str):
        return None if _plain_amount(value) else _in_any_column(value, "an amount") or _in_amounts(value)
    if isinstance(value, float):
        return Misspelling("type", f"{value} is a float, which loses digits: give a Decimal or text")
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        return _of_another_type(value, "an amount")
    if not Decimal(value).is_finite():
        return _in_any_column("nan", "an amount")
    if not -_LIMIT < value < _LIMIT:
        return _OUT_OF_RANGE
    if value == 0:
        return _zero("0")
    return Misspelling("sign", f"{value} is not above 0: a payment cannot be negative") if value < 0 else None


def misspelled_price(value: object) -> Misspelling | None:
    """Return what is wrong with a price, which is spelled like an amount and may be left out; None if nothing is."""
    found = misspelled_amount(value)
    if found is not None and found.kind in {"zero", "sign", "missing"}:
        shown = quoted(value) if isinstance(value, str) else str(value)
        return Misspelling(found.kind, f"{shown} is not a price: write one above 0 such as 2.50, or leave it out")
    return found


def unfit(value: object, *, is_amount: bool = False) -> Misspelling:
    """Return why the vendor would refuse a value whose spelling is right."""
    if is_amount:
        return _OUT_OF_RANGE
    text = str(value)
    if strange := _first_invisible(text):
        return _invisible(text, strange)
    refused = next((each for each in text if not is_id(f"a{each}")), None)
    which = f"the character {refused}" if refused else "nothing but dots"
    return Misspelling("characters", f"{quoted(text)} has {which}; no id of the vendor does: check its source")


def _of_another_type(value: object, wanted: str) -> Misspelling:
    if value is None:
        return _EMPTY
    if isinstance(value, NotText):
        return value.why
    if isinstance(value, bool):
        what = str(value).lower()
    elif isinstance(value, int | float | Decimal):
        what = "a number"
    else:
        what = "a list" if isinstance(value, list) else "an object" if isinstance(value, dict) else f"a {type(value).__name__}"
    todo = "write plain digits such as 2.50" if wanted == "an amount" else "write it as text, in quotes"
    return Misspelling("type", f"{what} is not {wanted}: {todo}")


_EMPTY = Misspelling("empty", "there is no value: fill it in")
_OUT_OF_RANGE = Misspelling("out_of_range", "the amount has more than 60 digits or more than 30 decimals: use fewer")


def _at_the_ends(value: str) -> Misspelling | None:
    if value == value.strip():
        return None
    return Misspelling("white_space", f"{quoted(value)} begins or ends with white space: remove it")


def _halved(value: str) -> Misspelling | None:
    if not half_pair(value):
        return None
    return Misspelling("half_pair", f"{quoted(value)} holds half a character: save the file as UTF-8")


def _first_invisible(text: str) -> str | None:
    return next((each for each in text if not each.isprintable()), None)


def _invisible(text: str, character: str) -> Misspelling:
    return Misspelling("invisible", f"{quoted(text)} has an invisible character (U+{ord(character):04X}): delete it")


def _in_any_column(value: str, wanted: str, max_length: int = MAX_TEXT) -> Misspelling | None:
    found = _in_any_text(value, wanted, max_length)
    if found is not None:
        return found
    text = value.strip()
    if _full_width(text):
        return Misspelling("full_width", f"{quoted(value)} has full-width characters: use ordinary ones")
    if text.isdecimal() and not text.isascii():
        return Misspelling("other_digits", f"{quoted(value)} is not written in the digits 0 to 9: use those")
    return None


def _in_any_text(value: str, wanted: str, max_length: int = MAX_TEXT) -> Misspelling | None:
    text = value.strip()
    if not text:
        return _EMPTY
    if len(value) > max_length:
        return Misspelling("too_long", f"{quoted(value)} has {len(value)} characters: {wanted} may have {max_length}")
    if text.lower() in _MISSING:
        return Misspelling("missing", f"{quoted(value)} is a missing value, not {wanted}: fill it in or delete the row")
    if _error(text):
        return Misspelling(
            "error", f"{quoted(value)} is a spreadsheet error, not {wanted}: correct the cell and save the file again"
        )
    if len(text) > 1 and not text.strip("#"):
        told = f"{quoted(value)} is what a spreadsheet shows in a column that is too narrow: widen it and save the file again"
        return Misspelling("narrow", told)
    mark = _text_mark(text)
    if mark:
        told = f"{quoted(value)} has a spreadsheet's text mark ({mark}): delete the mark"
        hint = (
            "; results.csv protects ids this way, and a file with all its columns can be read unchanged"
            if _protected(text)
            else ""
        )
        return Misspelling("text_mark", told + hint)
    return None


def _text_mark(text: str) -> str | None:
    if text[0] in _APOSTROPHES:
        return "a leading apostrophe"
    if _quoted_formula(text):
        return 'the form ="…"'
    if len(text) > 1 and text[0] in _OPENING and text[-1] in _CLOSING:
        return "quotes around it"
    return None


def _in_ids(value: str) -> Misspelling | None:
    if _white_space(value):
        return Misspelling("white_space", f"{quoted(value)} contains white space: remove it")
    if _float_id(value):
        return Misspelling("float", f"{quoted(value)} ends like a decimal number: a program changed this id; {_AGAIN}")
    if _scientific_id(value):
        return Misspelling("scientific", f"{quoted(value)} is in scientific notation: a spreadsheet changed this id; {_AGAIN}")
    if _grouped_id(value):
        return Misspelling("grouped", f"{quoted(value)} has thousands separators: a spreadsheet changed this id; {_AGAIN}")
    return None


def _in_amounts(value: str) -> Misspelling | None:
    text = value.strip()
    if _scientific_amount(text):
        return Misspelling("scientific", f"{quoted(value)} is in scientific notation: write plain digits such as 100000")
    if any(unicodedata.category(each) == "Sc" for each in text) or _coded_amount(text):
        return Misspelling("currency", f"{quoted(value)} has a currency: write digits only")
    if _signed_amount(text):
        return Misspelling("sign", f"{quoted(value)} has a sign: an amount is above 0 and has none")
    if _separated_amount(text):
        told = f"{quoted(value)} has a thousands separator or a decimal comma: write it like 1234.50"
        return Misspelling("separator", told)
    if text != value:
        return Misspelling("white_space", f"{quoted(value)} has white space around it: remove it")
    if not re.fullmatch(r"[0-9]+(?:\.[0-9]+)?", text, re.ASCII):
        return Misspelling("amount", f"{quoted(value)} is not an amount: write plain digits such as 2.50")
    return None if text.strip("0.") else _zero(text)


def _zero(text: str) -> Misspelling:
    return Misspelling("zero", f"{quoted(text)} pays nothing: delete the row, or give an amount above 0")
