"""Arguments are checked before any request, and the error says what to give."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards_core.validation import MAX_TEXT, check_amount, check_id, check_key, check_name, check_timeout, is_id
from tests.texts import said


class Word(StrEnum):
    ONE = "one"


@pytest.mark.parametrize(
    "value",
    ["213134081289", "UB2DG8MW5KBQ", "0xd8dA6BF26964aF9D7eEd9e03E53415D37aA96045", "a.b", "...", "é&=", "x" * 255, Word.ONE],
)
def test_ids_that_can_be_ids_come_back_as_they_are(value: str) -> None:
    checked = check_id(value, "uid")
    assert checked == value
    assert type(checked) is str


@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "a b",
        "a/b",
        "/",
        "a?b",
        "a#b",
        "a%2fb",
        "a\\b",
        ".",
        "..",
        "a\n",
        "\ta",
        "a\x00",
        "a\x7f",
        "a\u00a0b",
        "a\u2028b",
        "a\u202eb",
        "\udcff",
        "x" * 256,
    ],
)
def test_what_no_id_can_be_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"^reward_uid: ") as caught:
        check_id(value, "reward_uid")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("value", [None, 7, b"7", 7.0, ["7"]])
def test_ids_and_keys_of_another_type_are_refused(value: Any) -> None:
    assert not is_id(value)
    with pytest.raises(TypeError, match=r"^uid: "):
        check_id(value, "uid")
    with pytest.raises(TypeError, match=r"^nonce: "):
        check_key(value, "nonce")


@pytest.mark.parametrize("value", ["nonce_1", "row 17/2 of 'diwali'", "100%", "é", "x" * MAX_TEXT])
def test_keys_may_hold_what_a_body_can_hold(value: str) -> None:
    assert check_key(value, "nonce") == value


@pytest.mark.parametrize("value", ["", " ", " a", "a ", "a\nb", "\x00", "\udcff", "x" * 256])
def test_keys_that_might_come_back_changed_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"^nonce: "):
        check_key(value, "nonce")


@pytest.mark.parametrize("value", ["MEAL_CARD_PAYMENT", "first order 50%", "é", "x" * MAX_TEXT])
def test_names_may_hold_what_a_body_can_hold(value: str) -> None:
    assert check_name(value, "event") == value


@pytest.mark.parametrize("value", ["", " ", " a", "a ", "a\nb", "\x00", "\udcff", "x" * 256])
def test_names_the_vendor_cannot_know_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"^event: "):
        check_name(value, "event")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1.23", "1.23"),
        ("1.230", "1.230"),
        ("007", "7"),
        ("00.5", "0.5"),
        ("0.000000000000000001", "0.000000000000000001"),
        (7, "7"),
        (10**60 - 1, "9" * 60),
        (Decimal("1.23"), "1.23"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1E-30"), "0." + "0" * 29 + "1"),
        (Decimal("123456789012.123456789012345678"), "123456789012.123456789012345678"),
        ("9" * 60 + "." + "9" * 30, "9" * 60 + "." + "9" * 30),
    ],
)
def test_amounts_keep_every_digit(value: Any, text: str) -> None:
    assert check_amount(value) == text


@pytest.mark.parametrize("value", [1.5, True, False, None, b"1", float("nan"), 1 + 0j, [1]])
def test_amounts_of_inexact_types_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^amount: "):
        check_amount(value)


@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "1e3", "1E3", "NaN", "Infinity", "-1", "+1", "1_000", "1,000", "\u0661\u0662", " 1", "1 ", "1\n", ".5", "5."),
        *("1.2.3", "0x10", "0", "0.0", "000.000", "1" * 61, "1." + "1" * 31),
        *(0, -1, 10**60, -(10**60)),
        *map(Decimal, ("0", "0.000", "-1", "NaN", "sNaN", "Infinity", "1E+999999", "1E-999999", "1E-31")),
    ],
)
def test_amounts_that_are_not_plain_digits_above_zero_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^amount: ") as caught:
        check_amount(value)
    assert len(str(caught.value)) < 300


def test_a_whole_number_too_long_to_print_is_refused_like_any_other() -> None:
    with pytest.raises(ValueError, match=r"^amount: "):
        check_amount(10**5000)


@given(st.decimals(min_value=Decimal("1E-30"), max_value=Decimal("1E+59"), allow_nan=False, places=30))
def test_every_amount_in_range_keeps_its_value(value: Decimal) -> None:
    assert Decimal(check_amount(value)) == value
    assert Decimal(check_amount(format(value, "f"))) == value


@pytest.mark.slow
@given(st.text())
def test_any_text_is_taken_exactly_or_refused(text: str) -> None:
    try:
        taken = check_amount(text)
    except ValueError:
        return
    assert Decimal(taken) == Decimal(text)
    assert text.isascii()


@pytest.mark.parametrize("value", [True, False, None, "5", Decimal(5), b"5", 1 + 0j])
def test_timeouts_of_another_type_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^timeout: "):
        check_timeout(value)


@pytest.mark.parametrize("value", [0, 0.0, -1, float("nan"), float("inf"), float("-inf")])
def test_timeouts_that_never_or_already_end_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"^total: "):
        check_timeout(value, "total")


@pytest.mark.parametrize("value", [0.001, 1, 86_400])
def test_timeouts_in_seconds_come_back_as_they_are(value: float) -> None:
    assert check_timeout(value) == value


def test_each_error_names_the_argument_and_says_what_to_give() -> None:
    refused: list[tuple[Callable[..., object], Any, str]] = [
        (check_id, 7, "reward_uid"),
        (check_id, "a/b", "reward_uid"),
        (check_id, "x" * 256, "reward_uid"),
        (check_id, "", "reward_uid"),
        (check_key, " a", "nonce"),
        (check_name, " a", "event"),
        (check_amount, 1.5, "amount"),
        (check_amount, "1e3", "amount"),
        (check_amount, "0.0", "amount"),
        (check_amount, 10**5000, "amount"),
        (check_timeout, "5", "timeout"),
        (check_timeout, -1, "timeout"),
        (check_timeout, 10**400, "timeout"),
    ]
    lines = []
    for check, value, name in refused:
        with pytest.raises((TypeError, ValueError)) as caught:
            check(value, name)
        lines.append(str(caught.value))
    said("arguments: what is refused", "\n".join(lines))
