"""Exact sums: nothing is rounded or converted to float."""

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


class ExactSum:
    """An aggregate function of SQLite, which has no exact sums of its own."""

    def __init__(self) -> None:
        self._total: Decimal | None = None

    def step(self, amount: str | None) -> None:
        """Add an amount."""
        if amount is not None:
            self._total = add(ZERO if self._total is None else self._total, amount)

    def final(self) -> str | None:
        """Return the sum."""
        return None if self._total is None else text(self._total)
