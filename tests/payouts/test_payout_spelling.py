"""An id or an amount is what a person meant, or an error that says what became of it; nothing in between is paid."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from payouts.rows import InvalidRow
from payouts.spelling import misspelled_amount, misspelled_id, misspelled_name
from payouts.vendors import EnkashRow, OriginalRow
from tests.texts import said

GOOD_IDS = [
    "1", "764893807463", "007", "-1001", "+910000000001", "@handle", "=x", "diwali-0001", "EKQZVMQK",
    "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "6ba7b810e9dad11d180b400c04fd430c8", "12E5", "12e5", "+12E5", "e-1", "E+x", "9d8e-4f",
    "12e-3", "#1001", "#abc", "nano", "none-1", "nullable", "banana", "1.5", "1.23.4", "10,5", "a,b", "o'neil", 'x"y', "ä",
    "अ१", "user@example.com", "a=b", "~x", "9007199254740993",
]  # fmt: skip

R_AND_PADDED = ["NA", " nan "]
RARER = [".5E+3", "1e-07", "1.5e-7", "-1E+05", Decimal("1E+5")]
BAD_IDS: dict[str, list[Any]] = {
    "empty": ["", " ", "\t", "\u00a0", None],
    "missing": [
        "nan",
        "NaN",
        "None",
        "none",
        "NULL",
        "null",
        "NaT",
        "<NA>",
        "<na>",
        "n/a",
        "N/A",
        "(null)",
        "undefined",
        "\\N",
        *R_AND_PADDED,
    ],
    "error": [
        "#N/A",
        "#REF!",
        "#VALUE!",
        "#NAME?",
        "#DIV/0!",
        "#NUM!",
        "#NULL!",
        "#SPILL!",
        "#CALC!",
        "#BEZUG!",
        "#NV",
        "Err:502",
    ],
    "narrow": ["##", "########"],
    "text_mark": [
        "'764893807463",
        "\u2018764",
        "\u2019764",
        "`764",
        "'",
        '"764"',
        "\u201c764\u201d",
        '="0764"',
        '= "0764"',
        "'+91",
    ],
    "full_width": ["\uff19\uff16\uff19", "9\uff16", "\uff45-1", "\uff0b91"],
    "other_digits": ["\u0969\u0966", "\u0661\u0662"],
    "float": ["764893807463.0", "1001.", "1001,0", "1001.00", "-1.0", Decimal("7.0")],
    "scientific": ["7.64894E+11", "7,64894E+11", "7.64894e+11", "1e+21", "1.1E+11", "1E+05", "764.9E+9", "7.64894E11", *RARER],
    "grouped": ["764,893,807,463", "7,64,89,38,07,463", "764,893,807,463.00", "764.893.807.463", "1'234'567", "1,234"],
    "white_space": [" 764", "764 ", "764\t", "764\n", "7 64", "764\u00a0893", "764\u202f893", "\u3000764"],
    "invisible": ["764\u200b", "\ufeff764", "7\u202e64", "\ud800", "7\x0064"],
    "too_long": ["x" * 256],
    "type": [True, 17, 1.5, ["764"], {"a": 1}, Decimal("1.5"), b"764"],
}

GOOD_AMOUNTS = ["1", "173.0", "2.50", "0.5", "007.50", "1" * 60, "0." + "0" * 29 + "1", 5, Decimal("1.10"), Decimal("1E+3")]

BAD_AMOUNTS: dict[str, list[Any]] = {
    "empty": ["", " ", None],
    "missing": ["nan", "None", "n/a", Decimal("NaN"), Decimal("Infinity")],
    "error": ["#N/A", "#VALUE!"],
    "narrow": ["####"],
    "text_mark": ["'2.50", '"2.50"', '="2.50"'],
    "full_width": ["\uff12.50"],
    "other_digits": ["\u0967\u0966\u0966"],
    "scientific": ["1E+05", "1e5", "12E5", "1,5E+3", "1.5e-7"],
    "separator": [
        "1,234.50",
        "1.234,50",
        "1,5",
        "1,00,000",
        "1.234.567",
        "1 234",
        "1\u202f234,50",
        "1'000",
        "1\u2019000",
        "1_000",
    ],
    "currency": ["₹ 100.00", "₹1,234.50", "$5", "5 €", "-$5", "INR 5", "5 INR", "Rs. 5", "Rs 5", "100/-", "Rs 100/-"],
    "sign": ["-1", "+1", "\u22121", "(5)", "5-", "-1,234.50", -1, Decimal(-1)],
    "zero": ["0", "0.000", "00", 0, Decimal(0)],
    "white_space": [" 1", "1 ", "1\u00a0"],
    "amount": ["1.", ".5", "1.5.5", "5%", "x", "Infinity", "1.5x", "1/2"],
    "type": [True, 1.5, [1], {"a": 1}],
    "out_of_range": ["9" * 61, "1." + "1" * 31, Decimal("1E+60"), 10**60, Decimal("1E+999999")],
    "too_long": ["1" * 256],
}

BAD_NAMES: dict[str, list[Any]] = {
    "empty": ["", " ", None],
    "missing": ["nan", "NULL"],
    "error": ["#REF!"],
    "text_mark": ["'BONUS", '"BONUS"', '="BONUS"'],
    "full_width": ["\uff22ONUS"],
    "white_space": [" BONUS", "BONUS\u00a0"],
    "invisible": ["BON\u200bUS"],
    "too_long": ["x" * 256],
    "type": [True, 17],
}


def each(table: dict[str, list[Any]]) -> list[tuple[str, Any]]:
    return [(kind, value) for kind, values in table.items() for value in values]


def token_row(**changed: Any) -> OriginalRow:
    return OriginalRow(**{"id": "r1", "reward_uid": "21", "to_user_uid": "32", "amount": "1"} | changed)


def coin_row(**changed: Any) -> EnkashRow:
    return EnkashRow(**{"id": "r1", "user_id": "EKQZVMQK", "event": "BONUS"} | changed)


@pytest.mark.parametrize("value", GOOD_IDS)
def test_an_id_as_systems_give_them_is_taken_as_it_is(value: str) -> None:
    assert misspelled_id(value) is None
    row = token_row(id=value, to_user_uid="32", nonce=value)
    assert (row.id, row.nonce) == (value, value)


@pytest.mark.parametrize(("kind", "value"), each(BAD_IDS))
@pytest.mark.parametrize("name", ["id", "reward_uid", "to_user_uid", "nonce"])
def test_an_id_that_was_changed_on_its_way_is_refused_in_every_column(name: str, kind: str, value: Any) -> None:
    if name == "nonce" and value is None:
        return
    with pytest.raises(InvalidRow) as refused:
        token_row(**{name: value})
    assert (refused.value.kind, refused.value.name) == (kind, name)


@pytest.mark.parametrize(("kind", "value"), each(BAD_IDS))
@pytest.mark.parametrize("name", ["id", "user_id", "request_id"])
def test_coins_are_looked_at_alike(name: str, kind: str, value: Any) -> None:
    if name == "request_id" and value is None:
        return
    with pytest.raises(InvalidRow) as refused:
        coin_row(**{name: value})
    assert (refused.value.kind, refused.value.name) == (kind, name)


@pytest.mark.parametrize("value", ["a/b", "a?b", "a#b", "50%", "a\\b", ".", ".."])
def test_what_cannot_stand_in_the_vendors_addresses_is_refused_where_it_would(value: str) -> None:
    assert token_row(id=value).id == value
    with pytest.raises(InvalidRow) as refused:
        token_row(to_user_uid=value)
    assert refused.value.kind == "characters"


@pytest.mark.parametrize("value", GOOD_AMOUNTS)
def test_a_plain_amount_is_taken(value: Any) -> None:
    assert Decimal(token_row(amount=value).amount) == Decimal(value)


@pytest.mark.parametrize(("kind", "value"), each(BAD_AMOUNTS))
def test_an_amount_in_another_notation_is_refused(kind: str, value: Any) -> None:
    with pytest.raises(InvalidRow) as refused:
        token_row(amount=value)
    assert (refused.value.kind, refused.value.name) == (kind, "amount")


@pytest.mark.parametrize("value", ["BONUS", "Diwali 2026", "12.0", "7.6E+11", "1,234", "दिवाली १", "50% off / today?"])
def test_a_name_may_hold_what_an_id_may_not(value: str) -> None:
    assert coin_row(event=value).event == value


@pytest.mark.parametrize(("kind", "value"), each(BAD_NAMES))
def test_a_name_that_was_changed_on_its_way_is_refused(kind: str, value: Any) -> None:
    with pytest.raises(InvalidRow) as refused:
        coin_row(event=value)
    assert (refused.value.kind, refused.value.name) == (kind, "event")


def test_very_long_values_are_refused_at_once() -> None:
    for value in ("1" * 60_000, "1," * 30_000, "1" * 60_000 + "E+", "#" + "a" * 60_000, " " * 60_000 + "x"):
        for look in (misspelled_id, misspelled_amount, misspelled_name):
            assert look(value) is not None
    for number in (10**5000, -(10**5000)):
        with pytest.raises(InvalidRow) as refused:
            token_row(amount=number)
        assert refused.value.kind == "out_of_range"


def test_words_for_every_kind() -> None:
    told = {}
    for what, table, make in (("id", BAD_IDS, token_row), ("amount", BAD_AMOUNTS, token_row), ("event", BAD_NAMES, coin_row)):
        for kind, values in table.items():
            with pytest.raises(InvalidRow) as refused:
                make(**{what: values[0]})
            told[f"{what}, {kind}"] = str(refused.value)
    with pytest.raises(InvalidRow) as refused:
        token_row(to_user_uid="a/b")
    told["to_user_uid, characters"] = str(refused.value)
    with pytest.raises(InvalidRow) as refused:
        token_row(id="'+910000000001")
    told["id, protected as in results.csv"] = str(refused.value)
    said("rows: what is wrong with a value", "\n".join(f"{where}: {words}" for where, words in told.items()))
