"""Sums keep every digit."""

from __future__ import annotations

from decimal import Decimal, Inexact
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from payouts import money

amounts = st.from_regex(r"[0-9]{1,60}(\.[0-9]{1,30})?", fullmatch=True)


@pytest.mark.slow
@given(st.lists(amounts, max_size=30))
def test_a_sum_is_exact_to_the_last_digit(texts: list[str]) -> None:
    total = Decimal(0)
    for text in texts:
        total = money.add(total, text)
    assert Fraction(money.text(total)) == sum(map(Fraction, texts), Fraction(0))


def test_a_sum_that_cannot_be_exact_is_an_error() -> None:
    with pytest.raises(Inexact):
        money.add(Decimal("1e200"), "0.1")


def test_an_amount_is_written_in_plain_digits() -> None:
    assert money.text(Decimal("1E+3")) == "1000"
    assert money.text(Decimal("0E-7")) == "0.0000000"


def test_a_small_amount_beside_a_large_one_is_not_lost() -> None:
    total = Decimal(0)
    for amount in ("9" * 60, "0." + "0" * 29 + "1", "0.1", "0.2"):
        total = money.add(total, amount)
    assert money.text(total) == "9" * 60 + ".3" + "0" * 28 + "1"


@pytest.mark.parametrize(
    ("amount", "words"), [("1234567.50", "1,234,567.50"), ("0.0000001", "0.0000001"), ("100", "100"), ("1E+3", "1,000")]
)
def test_people_read_thousands_separators(amount: str, words: str) -> None:
    assert money.shown(amount) == money.shown(Decimal(amount)) == words


@example("9" * 60 + "." + "1" * 30)
@given(amounts)
def test_an_amount_for_people_has_every_digit(amount: str) -> None:
    assert Decimal(money.shown(amount).replace(",", "")) == Decimal(amount)
    assert money.shown(amount).partition(".")[2] == amount.partition(".")[2]
