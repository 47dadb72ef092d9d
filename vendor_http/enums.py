"""Enumerations of words that a vendor may add to."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class OpenEnum(StrEnum):
    """An enumeration that folds case and keeps words it does not know, equal only to themselves."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        folded = value.lower()
        for member in cls:
            if member.value == folded:
                return member
        stranger = str.__new__(cls, folded)
        stranger._name_ = "UNKNOWN"
        stranger._value_ = folded
        return stranger
