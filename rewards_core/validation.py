"""Checks of arguments and settings, made before any request is sent.

Every `check_x` returns the value that it accepts. A wrong type raises `TypeError`, a wrong value `ValueError`; the text begins
with `name`, the argument as the caller calls it, and says what to give. Secrets are checked in `rewards_core.secrets`, base URLs
in `rewards_core.base_urls`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import attrs

T = TypeVar("T")
N = TypeVar("N", int, float)
Validator = Callable[[Any, Any, Any], None]
"""Checks one attribute of an attrs class, see `validator=`."""
optional: Callable[[Validator], Validator] = attrs.validators.optional
"""Allows an attribute to be None."""

MAX_TEXT = 255
MAX_LINK = 2_048

plain_id = re.compile(r"[A-Za-z0-9_:@+=~-][A-Za-z0-9_.:@+=~-]{0,254}", re.ASCII).fullmatch
"""Matches the usual ids; `is_id` accepts others too."""
half_pair = re.compile("[\ud800-\udfff]").search
"""Finds half of a surrogate pair, which UTF-8 cannot hold."""
unfit_for_title = re.compile(r"[\x00-\x1f\x7f]").search
"""Finds a control character, which no name may have."""
_unfit_for_id = re.compile(r"[ /?#%\\]").search
_plain_amount = re.compile(r"[0-9]{1,60}(?:\.[0-9]{1,30})?", re.ASCII).fullmatch
_AMOUNT = "above 0, with up to 60 digits and up to 30 decimals"


def check_id(value: str, name: str) -> str:
    """Check an id, which can stand in a path, a query and a body.

    Args:
        value: 1 to 255 printable characters, without white space, `/`, `?`, `#`, `%` and backslash; not `.` or `..`.
        name: The argument, for messages.
    """
    if type(value) is str and plain_id(value):  # the usual case, twice in each call
        return value
    text = check_str(value, name)
    if is_id(text):
        return text
    raise ValueError(
        f"{name}: {shown(text)} is not an id. Give the id as the vendor wrote it: 1 to {MAX_TEXT} characters, without white "
        "space, '/', '?', '#', '%' or backslash."
    )


def is_id(value: object) -> bool:
    """Return whether a value is an id as `check_id` takes it."""
    if not isinstance(value, str):
        return False
    if plain_id(value):
        return True
    return 0 < len(value) <= MAX_TEXT and value.isprintable() and not _unfit_for_id(value) and value not in {".", ".."}


def check_key(value: str, name: str) -> str:
    """Check an idempotency key: 1 to 255 printable characters, without white space at the ends, which a vendor may trim."""
    return _printable(value, name, "Make one key for each payout, and store it before the call")


def check_name(value: str, name: str) -> str:
    """Check a name that is sent in bodies only: 1 to 255 printable characters, without white space at the ends."""
    return _printable(value, name, "Give the name that the vendor uses")


def check_title(value: Any, name: str) -> str:
    """Check a name that people read: 1 to 255 characters of any script.

    It has no control characters, and no white space at the ends. Other invisible characters are allowed: they join emoji, and the
    letters of Persian and Hindi.
    """
    text = check_text(value, name)
    if 0 < len(text) <= MAX_TEXT and text == text.strip() and not unfit_for_title(text):
        return text
    raise ValueError(
        f"{name}: {shown(text)} cannot be used. Give 1 to {MAX_TEXT} characters, without control characters and without white "
        "space at the ends."
    )


def check_amount(value: str | int | Decimal, name: str = "amount") -> str:
    """Return an amount in plain digits, all of them kept.

    Args:
        value: Above 0: a text such as `12` or `12.345` with up to 60 digits and up to 30 decimals, an int or a Decimal.
        name: The argument, for messages.
    """
    if isinstance(value, str):
        text = str.__str__(value)
    elif isinstance(value, Decimal):
        # the size is checked before a huge exponent is written out
        text = format(value, "f") if value.is_finite() and -91 < value.adjusted() < 60 else _out_of_range(value, name)
    elif type(value) is int:
        text = str(value) if -(10**60) < value < 10**60 else _out_of_range(value, name)
    else:  # a float has lost digits already
        raise TypeError(f"{name}: give a str, int or Decimal such as '1.23', which keeps every digit, not {kind_of(value)}.")
    if not _plain_amount(text):
        raise ValueError(f"{name}: {shown(text)} is not an amount. Give plain digits such as '1.23', {_AMOUNT}.")
    if text[0] == "0":
        text = text.lstrip("0")
        if not text.strip("0."):
            raise ValueError(f"{name}: the amount is zero. Give an amount {_AMOUNT}, or make no call.")
        if text[0] == ".":
            text = f"0{text}"
    return text


def check_number(
    value: float,
    name: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    unit: str = "",
) -> float:
    """Check a finite number; a bool is none.

    Args:
        value: An int or a float.
        name: The argument, for messages.
        above: The number must be greater than this.
        at_least: The number must not be less than this.
        at_most: The number must not be greater than this.
        unit: What the number counts, such as `"seconds"`, for messages.
    """
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise TypeError(f"{name}: give {unit or 'a number'}{_range(above, at_least, at_most)}, not {kind_of(value)}.")
    if _out_of_bounds(value, above, at_least, at_most) or not -sys.float_info.max <= value <= sys.float_info.max:
        raise ValueError(f"{name}: give {unit or 'a number'}{_range(above, at_least, at_most)}, not {_briefly(value)}.")
    return value


def check_whole(value: int, name: str, *, at_least: int, at_most: int | None = None) -> int:
    """Check an int; a bool and a float are none."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: give a whole number{_range(None, at_least, at_most)}, not {kind_of(value)}.")
    if _out_of_bounds(value, None, at_least, at_most):
        raise ValueError(f"{name}: give a whole number{_range(None, at_least, at_most)}, not {_briefly(value)}.")
    return value


def check_timeout(value: float, name: str = "timeout") -> float:
    """Check the seconds of one call: above 0 and finite."""
    return check_number(value, name, above=0, unit="seconds")


def check_wait(value: float | None) -> float | None:
    """Check a timeout in seconds: 0 or more, None for no limit."""
    return None if value is None else check_number(value, "timeout", at_least=0, unit="None or seconds")


def check_flag(value: bool, name: str) -> bool:
    """Check a bool; nothing else counts, as the text "false" from a settings file is true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: give True or False, not {kind_of(value)}.")
    return value


def check_choice(value: T, name: str, words: Collection[str]) -> T:
    """Check a word that must be one of those offered."""
    offered = ", ".join(map(repr, words))
    if not isinstance(value, str):
        raise TypeError(f"{name}: give one of {offered}, not {kind_of(value)}.")
    if value not in words:
        raise ValueError(f"{name}: give one of {offered}, not {shown(value)}.")
    return value


def check_instance(value: T, name: str, kind: type[T]) -> T:
    """Check an object of a class; the message names its own class, never its repr."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}: give {kind.__name__}(...), not {kind_of(value)}.")
    return value


def setting(value: T | None, name: str, kind: type[T]) -> T:
    """Return the object that was given for a setting, or the class's default."""
    return kind() if value is None else check_instance(value, name, kind)


def check_methods(value: T, name: str, words: str, methods: Collection[str] | type[Any]) -> T:
    """Check an object that the caller implements.

    Args:
        value: The object.
        name: The argument, for messages.
        words: What to give, such as `"a FileBreakerStore or another BreakerStore"`.
        methods: The methods that it must have, or the Protocol, attributes included.
    """
    wanted = _members(methods) if isinstance(methods, type) else dict.fromkeys(methods, True)
    missing = [
        each for each, called in wanted.items() if not (callable(getattr(value, each, None)) if called else hasattr(value, each))
    ]
    if isinstance(value, type) or missing:
        kind = f"the class {value.__name__}" if isinstance(value, type) else kind_of(value)
        raise TypeError(f"{name}: give {words}, with {', '.join(missing or wanted)}, not {kind}.")
    return value


def check_callable(value: T, name: str) -> T:
    """Check a function, or another object that can be called."""
    if not callable(value):
        raise TypeError(f"{name}: give a function, not {kind_of(value)}.")
    return value


def check_str(value: Any, name: str) -> str:
    """Check a str. Return it as a plain str, so that a member of a str enumeration becomes its value."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: give a str, not {kind_of(value)}.")
    return str.__str__(value)


def check_text(value: Any, name: str) -> str:
    """Check a text of any length, which UTF-8 must be able to hold."""
    text = check_str(value, name)
    if half_pair(text):
        raise ValueError(f"{name}: {shown(text)} holds half of a surrogate pair, which cannot be sent.")
    return text


def check_link(value: Any, name: str) -> str:
    """Check the URL of a page or an image: 1 to 2,048 printable characters without white space."""
    if (text := check_str(value, name)) and len(text) <= MAX_LINK and text.isprintable() and not any(map(str.isspace, text)):
        return text
    raise ValueError(
        f"{name}: {shown(text)} cannot be used as a URL. Give 1 to {MAX_LINK:,} printable characters without white space."
    )


def check_bytes(value: Any, name: str) -> bytes:
    """Check bytes."""
    if not isinstance(value, bytes):
        raise TypeError(f"{name}: give bytes, not {kind_of(value)}.")
    return value


def check_path(value: Any, name: str) -> Path:
    """Return the path of a file, given as a str or a path."""
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str):
        raise TypeError(f"{name}: give the path of a file as a str or Path, not {kind_of(value)}.")
    if not text or "\0" in text:
        raise ValueError(f"{name}: give the path of a file, not {shown(text)}.")
    return Path(text)


def check_file(value: Any, name: str, instead: str) -> Path:
    """Check the path of a SQLite file; `instead` says what to give for what SQLite's users give too, `:memory:` and URLs."""
    path = check_path(value, name)
    text = os.fspath(value)
    if text == ":memory:" or "://" in text:
        given = "a URL" if "://" in text else "':memory:'"  # a URL may hold a password
        raise ValueError(f"{name}: give the path of a file, not {given}. {instead}")
    return path


def check_mapping(value: Any, name: str, words: str = "a mapping") -> Mapping[Any, Any]:
    """Check a mapping; `words` says what to give, such as `"a mapping of key ids to secrets"`."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}: give {words}, not {kind_of(value)}.")
    return value


def check_iterable(value: Iterable[T], name: str, words: str) -> Iterable[T]:
    """Check an iterable, without consuming it; texts, bytes and mappings are refused although Python iterates over them."""
    if isinstance(value, (str, bytes, bytearray, memoryview, Mapping)) or not isinstance(value, Iterable):
        raise TypeError(f"{name}: give {words}, not {kind_of(value)}.")
    return value


def shown(text: str) -> str:
    """Return an untrusted text in quotes and ASCII, or the length of a long one."""
    return "an empty text" if not text else ascii(text) if len(text) <= 80 else f"a text of {len(text)} characters"


def kind_of(value: object) -> str:
    """Return the name of a value's class, or `None`."""
    return "None" if value is None else type(value).__name__


def checked(check: Callable[..., object], *arguments: Any, **bounds: Any) -> Validator:
    """Return an attrs validator from a check, such as `checked(check_instance, Decimal)`."""

    def validate(_: Any, attribute: Any, value: Any) -> None:
        check(value, attribute.name, *arguments, **bounds)

    return validate


def number(*, above: float | None = None, at_least: float | None = None, at_most: float | None = None) -> Validator:
    """Return a validator of finite numbers within bounds."""
    return checked(check_number, above=above, at_least=at_least, at_most=at_most)


def whole(*, at_least: int, at_most: int | None = None) -> Validator:
    """Return a validator of whole numbers within bounds."""
    return checked(check_whole, at_least=at_least, at_most=at_most)


def flag() -> Validator:
    """Return a validator of bools."""
    return checked(check_flag)


def _printable(value: str, name: str, advice: str) -> str:
    if type(value) is str and plain_id(value):
        return value
    text = check_str(value, name)
    if 0 < len(text) <= MAX_TEXT and text.isprintable() and text == text.strip():
        return text
    raise ValueError(
        f"{name}: {shown(text)} cannot be used. {advice}: 1 to {MAX_TEXT} printable characters, without white space at the ends."
    )


def _members(protocol: type[Any]) -> dict[str, bool]:
    """Return the public names of a Protocol, and whether each is a method."""
    return {
        name: callable(member)
        for kind in protocol.__mro__
        if getattr(kind, "_is_protocol", False)
        for name, member in vars(kind).items()
        if name[0] != "_"
    }


def _out_of_bounds(value: float, above: float | None, at_least: float | None, at_most: float | None) -> bool:
    return (
        (above is not None and value <= above)
        or (at_least is not None and value < at_least)
        or (at_most is not None and value > at_most)
    )


def _range(above: float | None, at_least: float | None, at_most: float | None) -> str:
    low = f"above {above:g}" if above is not None else f"of at least {at_least:g}" if at_least is not None else ""
    high = f"at most {at_most:g}" if at_most is not None else ""
    return "".join(f" {words}" for words in (low, "and" if low and high else "", high) if words)


def _briefly(value: float) -> str:
    return repr(value) if not isinstance(value, int) or -(10**20) < value < 10**20 else "a number of over 20 digits"


def _out_of_range(value: int | Decimal, name: str) -> NoReturn:
    raise ValueError(f"{name}: this {kind_of(value)} is out of range. Give an amount {_AMOUNT}.")
