"""What two grants have in common when one is the other, spelled in another way."""

from __future__ import annotations

import re
import unicodedata

_END = "\x1f"  # no id can hold it
_AFTER_END = "\x20"
_MARKS = " \t='\"\u2018\u2019\u201c\u201d"
_plain = re.compile(r"[1-9][0-9]*\Z").match
_float = re.compile(r"([0-9]+)[.,]0*\Z").match


def likeness(recipient: str, item: str, amount: str | None) -> str:
    """Return the same text for grants of the same amount of one thing to one recipient, whatever case, padding or quotes."""
    return f"{folded(recipient)}{_END}{folded(item)}{_END}{_amount(amount)}"


def likeness_of_recipient(recipient: str) -> tuple[str, str]:
    """Return two texts between which the likenesses of all grants to a recipient lie; the second one is not among them."""
    begin = folded(recipient)
    return begin + _END, begin + _AFTER_END


def folded(text: str) -> str:
    """Return an id without what spreadsheets and people change in it."""
    if _plain(text):
        return text
    bare = unicodedata.normalize("NFKC", text).strip(_MARKS).lstrip("+").casefold()
    number = _float(bare)
    if number:
        bare = number[1]
    return (bare.lstrip("0") or "0") if bare.isdecimal() else bare


def _amount(amount: str | None) -> str:
    if amount is None:
        return ""
    return amount.rstrip("0").rstrip(".") if "." in amount else amount
