"""Checks of what only EnKash takes, made before any request leaves."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TypeVar

from enkash_async.models import CoinConfiguration

T = TypeVar("T")

MOST_COINS = 2**63 - 1
RESERVED = frozenset({"authorization", "accept", "content-type", "content-length", "host", "transfer-encoding", "connection"})

_header_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII).fullmatch
_header_value = re.compile(r"[\x20-\x7e]+", re.ASCII).fullmatch


def check_coins(amount: int) -> int:
    """Return a number of coins: whole, from 0 to 2**63 - 1.

    Raises:
        TypeError: it is not an int.
        ValueError: it is out of range.
    """
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise TypeError(f"amount: expected a whole number of coins as int, got {type(amount).__name__}; coins have no fractions")
    if not 0 <= amount <= MOST_COINS:
        raise ValueError(f"amount: expected 0 to {MOST_COINS} coins, got {'fewer' if amount < 0 else 'more'}")
    return int(amount)


def check_configuration(configuration: CoinConfiguration | str) -> CoinConfiguration:
    """Return a configuration that EnKash documents.

    Raises:
        TypeError: it is not a str.
        ValueError: EnKash documents no such word.
    """
    if not isinstance(configuration, str):
        raise TypeError(f"configuration: expected a CoinConfiguration or its word, got {type(configuration).__name__}")
    known = CoinConfiguration(configuration)
    if known not in tuple(CoinConfiguration):
        raise ValueError(
            f"configuration: expected 'DEFAULT' or 'CUSTOM', got {str(configuration)[:40]!a}; EnKash documents no other"
        )
    return known


def check_seconds(seconds: float, name: str) -> float:
    """Return a number of seconds: finite and above 0.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not finite and above 0.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{name}: expected a number of seconds, got {type(seconds).__name__}")
    if not math.isfinite(seconds) or seconds <= 0:
        raise ValueError(f"{name}: expected seconds above 0, got {seconds!r}")
    return seconds


def check_flag(value: bool, name: str) -> bool:
    """Return a switch; the text "false" from a file of settings would count as true, which may cost money.

    Raises:
        TypeError: it is neither True nor False.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {type(value).__name__}")
    return value


def check_methods(value: T, name: str, expected: str, methods: tuple[str, ...]) -> T:
    """Return an object somebody brought, if it has the methods it is brought for.

    Raises:
        TypeError: it lacks one; its class is named, never its repr.
    """
    if isinstance(value, type) or not all(callable(getattr(value, method, None)) for method in methods):
        kind = value.__name__ if isinstance(value, type) else type(value).__name__
        raise TypeError(f"{name}: expected {expected} with {', '.join(methods)}, got {kind}")
    return value


def _all_text(*values: object) -> bool:
    return all(isinstance(value, str) for value in values)


def check_extra_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers that can be sent along without taking the place of the client's own.

    Raises:
        TypeError: a name or a value is not a str.
        ValueError: one cannot be sent, or is the client's own; no value is shown.
    """
    if not isinstance(headers, Mapping):
        raise TypeError(f"extra_headers: expected a mapping of names to values, got {type(headers).__name__}")
    for name, value in headers.items():
        if not _all_text(name, value):
            raise TypeError("extra_headers: expected names and values as str, got another type")
        if not _header_name(name) or not _header_value(value):
            raise ValueError(f"extra_headers: expected a header that can be sent, got one that cannot, named {name[:40]!a}")
        if name.lower() in RESERVED:
            raise ValueError(
                f"extra_headers: expected headers beside the client's own, got {name!a}, which the client sets itself"
            )
    return dict(headers)
