"""Checks of what only EnKash takes, made before any request leaves."""

from __future__ import annotations

import re
from collections.abc import Mapping

from enkash_async.models import CoinConfiguration
from rewards_core.validation import check_whole

MAX_COINS = 2**63 - 1
RESERVED = frozenset({"authorization", "accept", "content-type", "content-length", "host", "transfer-encoding", "connection"})

_header_name = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII).fullmatch
_header_value = re.compile(r"[\x20-\x7e]+", re.ASCII).fullmatch


def check_coins(amount: int) -> int:
    """Return a number of coins: whole, from 0 to 2**63 - 1.

    Raises:
        TypeError: it is not an int.
        ValueError: it is out of range.
    """
    return int(check_whole(amount, "amount", at_least=0, at_most=MAX_COINS))


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
