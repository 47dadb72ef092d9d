"""Whether kept JSON mentions a user, so that it can be erased."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from rewards_core.errors import UnexpectedResponse
from rewards_core.json import loads

_plain_number = re.compile(r"0|-?[1-9][0-9]*").fullmatch


def mentions(data: bytes, uid: str) -> bool:
    """Return whether a body holds a uid as a whole JSON string, key or number; one that is no JSON, whether as a whole word."""
    try:
        value = loads(data)
    except UnexpectedResponse:
        return re.search(rf"(?<![\w-]){re.escape(uid)}(?![\w-])", data.decode("utf-8", "replace")) is not None
    return mentioned_in(value, uid)


def mentioned_in(value: Any, uid: str) -> bool:
    """Return whether a parsed JSON value holds a uid as a whole string, key or number."""
    number = Decimal(uid) if _plain_number(uid) else None
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.keys()
            left += value.values()
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str):
            if value == uid:
                return True
        elif number is not None and not isinstance(value, bool) and value == number:
            return True
    return False
