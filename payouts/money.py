"""Exact sums: nothing is rounded, converted to float or added up in SQL."""

from __future__ import annotations

from decimal import Context, Decimal, Inexact, InvalidOperation

_EXACT = Context(prec=200, traps=[Inexact, InvalidOperation])  # an amount has at most 90 digits; rounding raises

ZERO = Decimal(0)


def add(total: Decimal, amount: Decimal | str) -> Decimal:
    """Return the exact sum."""
    return _EXACT.add(total, Decimal(amount))


def text(amount: Decimal) -> str:
    """Return an amount for programs: plain digits, no exponent."""
    return format(amount, "f")


def shown(amount: Decimal | str) -> str:
    """Return an amount for people, with thousands separators: `1,234,567.50`."""
    return format(Decimal(amount), ",f")
