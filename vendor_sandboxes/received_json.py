"""The JSON of callers, who may send anything: bodies of requests and parts of tokens."""

from __future__ import annotations

import json
import math
from decimal import Decimal, InvalidOperation
from typing import Any

_MAX_DEPTH = 64


def read_json(text: bytes) -> Any:
    """Return the value of a JSON text, with every fraction as an exact `Decimal`.

    A number beyond every float becomes infinity, as in the JSON parsers of the vendors.

    Raises:
        ValueError: it is not JSON, or is nested so deeply that writing it again could fail.
    """
    try:
        value = json.loads(text, parse_float=_fraction, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_depth(value)
    return value


def _fraction(text: str) -> Decimal:
    rough = float(text)
    if math.isinf(rough):
        return Decimal(rough)
    try:
        return Decimal(text)
    except InvalidOperation:  # closer to 0 than a Decimal can be
        return Decimal(rough)


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [inner for each in level for inner in _members(each)]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def _members(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
