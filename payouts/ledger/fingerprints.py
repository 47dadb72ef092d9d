"""Fingerprints of grants: equal for two spellings of the same grant. The ledger stores them in the column `likeness`."""

from __future__ import annotations

import re
import unicodedata
from decimal import ROUND_HALF_UP, Context, Decimal

from payouts.details import read_details

_END = "\x1f"  # no id contains it
_AFTER_END = "\x20"
_MARKS = " \t='\"\u2018\u2019\u201c\u201d"
_plain = re.compile(r"(?:[1-9][0-9]*|[a-z][a-z0-9_-]*)\Z").match
_number = re.compile(r"(-?)0*([1-9][0-9]*|0)(?:[.,]0*)?\Z").match
_invisible = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
_dash = re.compile("[\u2010-\u2015\u2212]")
_digit = re.compile(r"(?![0-9])\d")

_DIGITS = 12
_TWELVE = Context(prec=_DIGITS, rounding=ROUND_HALF_UP)
_FIFTEEN = Context(prec=15, rounding=ROUND_HALF_UP)  # absorbs the noise of a float before the rounding to 12 digits


def fingerprint(recipient: str, item: str, amount: str | None, details: str | None = None) -> str:
    """Return the same text for all spellings of a grant; amounts are equal if their first 12 digits are.

    Of the details only the name counts.
    """
    what = _amount(amount) if details is None else folded(str(read_details(details).get("name", "")))
    return f"{folded(recipient)}{_END}{folded(item)}{_END}{what}"


def recipient_bounds(recipient: str) -> tuple[str, str]:
    """Return the bounds of the fingerprints of all grants to a recipient; the upper bound is exclusive."""
    begin = folded(recipient)
    return begin + _END, begin + _AFTER_END


def folded(text: str) -> str:
    """Return an id without the changes that spreadsheets and people make to it."""
    if _plain(text):
        return text
    if not text.isascii():
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", _invisible.sub("", text)).casefold())
        text = _digit.sub(lambda found: str(unicodedata.decimal(found[0])), _dash.sub("-", text))
    bare = text.lstrip(_MARKS + "+").rstrip(_MARKS).lower()
    number = _number(bare)
    return number[1] + number[2] if number else bare


def folded_id(row_id: str) -> str | None:
    """Return the folded id of a row, None if folding changes nothing, as in most files."""
    other = folded(row_id)
    return None if other == row_id else other


def _amount(amount: str | None) -> str:
    if amount is None:
        return ""
    if len(amount) > _DIGITS:
        amount = format(_TWELVE.plus(_FIFTEEN.plus(Decimal(amount))), "f")
    return amount.rstrip("0").rstrip(".") if "." in amount else amount
