"""A row says who gets what; its key follows from the vendor, the campaign and its id, and from nothing else."""

from __future__ import annotations

import base64
import hashlib
from decimal import Decimal
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from payouts.keys import Keys, derive_key
from payouts.rows import InvalidRow
from payouts.vendors import EnkashRow, OriginalRow


def original(**changed: Any) -> OriginalRow:
    values: dict[str, Any] = {"id": "r1", "reward_uid": "213134081289", "to_user_uid": "324167489835", "amount": "1.23"}
    return OriginalRow(**values | changed)


def enkash(**changed: Any) -> EnkashRow:
    return EnkashRow(**{"id": "r1", "user_id": "EKQZVMQK", "event": "REFERRAL_EVENT"} | changed)


def test_key_is_the_first_26_characters_of_base32_of_sha256_over_framed_parts() -> None:
    framed = b"rewards-async payout key" + b"8:original" + b"11:diwali-2026" + b"2:r1"
    expected = base64.b32encode(hashlib.sha256(framed).digest()).decode().lower()[:26]
    assert derive_key("original", "diwali-2026", "r1") == expected


@pytest.mark.parametrize(
    ("vendor", "campaign", "row_id", "retry", "key"),
    [
        ("original", "diwali-2026", "r1", 0, "32piw6jx6tbddpzz26rfujipbd"),
        ("original", "diwali-2026", "r1", 1, "4vimu3wpvxhorzyew4d463p3ms"),
        ("original", "diwali-2026", "r1", 2, "qyqeaph6jc6okv3bkv3ev52iw2"),
        ("original", "दिवाली", "order 17/ä", 0, "lduhvcdutw4sje7v6j6vlcg2gv"),
        ("enkash", "diwali-2026", "r1", 0, "o7j6o4coqu3ason2glcgmj5ngr"),
        ("enkash", "payroll 11", "row-1", 3, "2fu3bv7nlmdm6byxe46oeqpnbp"),
    ],
)
def test_key_stays_the_same_for_ever(vendor: str, campaign: str, row_id: str, retry: int, key: str) -> None:
    assert derive_key(vendor, campaign, row_id, retry=retry) == key


def test_parts_that_join_to_the_same_text_have_different_keys() -> None:
    triples = [
        ("original", "a", "bc"),
        ("original", "ab", "c"),
        ("original", "", "abc"),
        ("originala", "b", "c"),
        ("original", "a1:b", "c"),
    ]
    assert len({Keys(vendor, campaign).of(row_id) for vendor, campaign, row_id in triples}) == len(triples)


@given(
    st.lists(
        st.tuples(st.sampled_from(["original", "enkash"]), st.text("ab:1é", max_size=4), st.text("ab:1é", max_size=4)),
        min_size=2,
        unique=True,
    )
)
def test_different_rows_have_different_keys(rows: list[tuple[str, str, str]]) -> None:
    for one, other in combinations(rows, 2):
        assert Keys(*one[:2]).of(one[2]) != Keys(*other[:2]).of(other[2])


def test_a_retried_row_has_another_key_each_time_and_the_same_on_every_machine() -> None:
    keys = [derive_key("original", "c", "r1", retry=number) for number in range(4)]
    assert len(set(keys)) == 4
    assert keys == [derive_key("original", "c", "r1", retry=number) for number in range(4)]


@pytest.mark.parametrize(
    ("given_amount", "sent"),
    [
        ("1.23", "1.23"),
        ("007.50", "7.50"),
        (5, "5"),
        (Decimal("1.10"), "1.10"),
        (Decimal("1E+3"), "1000"),
        ("0." + "0" * 29 + "1", "0." + "0" * 29 + "1"),
        ("9" * 60, "9" * 60),
    ],
)
def test_amount_keeps_every_digit(given_amount: Any, sent: str) -> None:
    assert original(amount=given_amount).amount == sent


@pytest.mark.parametrize(
    "amount",
    [
        "",
        "0",
        "0.000",
        "-1",
        "+1",
        "1e3",
        "1_000",
        "1,5",
        " 1",
        "1 ",
        "1.",
        ".5",
        "NaN",
        "Infinity",
        "\u0661",
        "\uff11",
        1.5,
        True,
        None,
        Decimal("NaN"),
        Decimal(-1),
        "9" * 61,
        "1." + "1" * 31,
    ],
)
def test_amount_that_is_no_plain_decimal_above_zero_is_refused(amount: Any) -> None:
    with pytest.raises(InvalidRow) as refused:
        original(amount=amount)
    assert refused.value.name == "amount"
    assert refused.value.kind != "refused"


@pytest.mark.parametrize("value", ["", " r1", "r1\t", "r\n1", "r\u200b1", "r\u202e1", "r" * 256, None, 17, "\ud800"])
@pytest.mark.parametrize("name", ["id", "reward_uid", "to_user_uid", "nonce"])
def test_text_that_cannot_name_anything_is_refused(name: str, value: Any) -> None:
    if name == "nonce" and value is None:
        return
    with pytest.raises(InvalidRow) as refused:
        original(**{name: value})
    assert refused.value.name == name
    assert refused.value.kind in {"empty", "white_space", "invisible", "too_long", "type"}


@pytest.mark.parametrize("name", ["id", "user_id", "event", "request_id"])
def test_enkash_row_is_checked_alike(name: str) -> None:
    with pytest.raises(InvalidRow) as refused:
        enkash(**{name: " x"})
    assert refused.value.name == name


def test_both_kinds_of_row_answer_the_same_questions() -> None:
    tokens, coins = original(nonce="n1"), enkash(request_id="q1")
    assert (tokens.vendor, tokens.recipient, tokens.item, tokens.amount, tokens.given_key) == (
        "original",
        "324167489835",
        "213134081289",
        "1.23",
        "n1",
    )
    assert (coins.vendor, coins.recipient, coins.item, coins.amount, coins.given_key) == (
        "enkash",
        "EKQZVMQK",
        "REFERRAL_EVENT",
        None,
        "q1",
    )
