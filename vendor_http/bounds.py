"""Checks of settings: each names the setting, what it may be and what came."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
Validator = Callable[[Any, Any, Any], None]


def number(low: float, *, above: bool = False) -> Validator:
    """Return a validator for finite numbers from `low` on, or only above it."""
    words = f"a finite number {'above' if above else 'of at least'} {low}"

    def check(_: object, attribute: Any, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{attribute.name}: expected {words}, got {type(value).__name__}")
        if not math.isfinite(value) or value < low or (above and value == low):
            raise ValueError(f"{attribute.name}: expected {words}, got {value!r}")

    return check


def whole(low: int) -> Validator:
    """Return a validator for whole numbers from `low` on."""

    def check(_: object, attribute: Any, value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{attribute.name}: expected a whole number of at least {low}, got {type(value).__name__}")
        if value < low:
            raise ValueError(f"{attribute.name}: expected a whole number of at least {low}, got {value}")

    return check


def setting(value: T | None, kind: type[T], name: str) -> T:
    """Return a setting, the default one if it is None.

    Raises:
        TypeError: it is of another type.
    """
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise TypeError(f"{name}: expected {kind.__name__} or None, got {type(value).__name__}; give {kind.__name__}(...)")
    return value
