"""Checks of what a caller hands in, made before any request leaves."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, NoReturn

MAX_TEXT = 255

_plain_id = re.compile(r"[A-Za-z0-9_:@+=~-][A-Za-z0-9_.:@+=~-]{0,254}", re.ASCII).fullmatch
_unfit_for_id = re.compile(r"[ /?#%\\]").search
_plain_amount = re.compile(r"[0-9]{1,60}(?:\.[0-9]{1,30})?", re.ASCII).fullmatch
_AMOUNT_WORDS = "expected an amount above 0 of up to 60 digits and up to 30 decimals"


def check_id(value: str, name: str) -> str:
    """Return an id that can stand in a path, a query and a body.

    Args:
        value: 1 to 255 printable characters, none of them white space, `/`, `?`, `#`, `%` or a backslash; not `.` or `..`.
        name: What the caller calls it, for messages.

    Raises:
        TypeError: it is not a str.
        ValueError: it is empty, too long, or holds what an id cannot hold.
    """
    text = _text(value, name)
    if is_id(text):
        return text
    raise ValueError(
        f"{name}: expected an id of 1 to {MAX_TEXT} characters without white space, '/', '?', '#', '%' or backslash, "
        f"got {_shown(text)}; give the id as the vendor wrote it"
    )


def is_id(value: object) -> bool:
    """Return whether a value is an id as `check_id` takes it."""
    if not isinstance(value, str):
        return False
    if _plain_id(value):
        return True
    return 0 < len(value) <= MAX_TEXT and value.isprintable() and not _unfit_for_id(value) and value not in {".", ".."}


def check_key(value: str, name: str) -> str:
    """Return an idempotency key, which travels in bodies only.

    Args:
        value: 1 to 255 printable characters, no white space at either end: a vendor that trims it could not be asked for it.
        name: What the caller calls it, for messages.

    Raises:
        TypeError: it is not a str.
        ValueError: it is empty, too long, or holds what a key cannot hold.
    """
    return _printable(value, name, "make one for each payout, once, and keep it before the call")


def check_name(value: str, name: str) -> str:
    """Return a name that travels in bodies only.

    Args:
        value: 1 to 255 printable characters, no white space at either end.
        name: What the caller calls it, for messages.

    Raises:
        TypeError: it is not a str.
        ValueError: it is empty, too long, or holds what a name cannot hold.
    """
    return _printable(value, name, "give it as the vendor knows it")


def check_amount(value: str | int | Decimal, name: str = "amount") -> str:
    """Return an amount in plain digits, every one of them kept.

    Args:
        value: Above 0; as text of the form `12` or `12.345` with up to 60 digits and up to 30 decimals, as int or as Decimal.
        name: What the caller calls it, for messages.

    Raises:
        TypeError: it is a float, a bool or another type.
        ValueError: it is not above 0, or not of that form.
    """
    if isinstance(value, str):
        text = str.__str__(value)
    elif isinstance(value, Decimal):
        # the size is looked at before a huge exponent is written out
        text = format(value, "f") if value.is_finite() and -91 < value.adjusted() < 60 else _out_of_range(value, name)
    elif type(value) is int:
        text = str(value) if -(10**60) < value < 10**60 else _out_of_range(value, name)
    else:  # floats have lost digits already, a bool is no amount
        raise TypeError(
            f"{name}: expected str, int or Decimal, got {type(value).__name__}; "
            "give '1.23' or Decimal('1.23'), which keep every digit"
        )
    if not _plain_amount(text):
        raise ValueError(f"{name}: {_AMOUNT_WORDS}, got {_shown(text)}; give plain digits such as '1.23'")
    if text[0] == "0":
        text = text.lstrip("0")
        if not text.strip("0."):
            raise ValueError(f"{name}: {_AMOUNT_WORDS}, got zero; leave the call out where nothing is to be paid")
        if text[0] == ".":
            text = f"0{text}"
    return text


def check_timeout(value: float, name: str = "timeout") -> float:
    """Return a number of seconds for one call.

    Args:
        value: Above 0 and finite.
        name: What the caller calls it, for messages.

    Raises:
        TypeError: it is no number.
        ValueError: it is not above 0, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: give seconds as a number, not {type(value).__name__}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: give seconds above 0, not {value!r}; None uses the client's timeouts")
    return value


def _printable(value: str, name: str, advice: str) -> str:
    text = _text(value, name)
    if _plain_id(text):
        return text
    if 0 < len(text) <= MAX_TEXT and text.isprintable() and text == text.strip():
        return text
    raise ValueError(
        f"{name}: expected 1 to {MAX_TEXT} printable characters without white space at the ends, got {_shown(text)}; {advice}"
    )


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a str, got {type(value).__name__}; give it as text")
    return str.__str__(value)


def _shown(text: str) -> str:
    return "an empty one" if not text else ascii(text) if len(text) <= 80 else f"{len(text)} characters"


def _out_of_range(value: int | Decimal, name: str) -> NoReturn:
    kind = type(value).__name__
    raise ValueError(f"{name}: {_AMOUNT_WORDS}, got {'an' if kind == 'int' else 'a'} {kind} out of that range; give plain digits")
