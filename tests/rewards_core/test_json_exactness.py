"""Numbers are parsed quickly where that loses nothing and exactly everywhere else, and fields of ours are never the vendor's."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from attrs import field, frozen
from hypothesis import given
from hypothesis import strategies as st

from rewards_core.errors import UnexpectedResponse
from rewards_core.json import OURS, decode, loads_faithful, structure


@frozen(kw_only=True)
class Sum:
    amount: Decimal
    scope: str = field(default="ours", metadata=OURS)


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a": 123456789.123456789012345678}', {"a": Decimal("123456789.123456789012345678")}),
        (b'{"a" \n:\t1.10}', {"a": Decimal("1.10")}),
        (b'[1, 2, {"b": [[1.5]]}]', [1, 2, {"b": [[Decimal("1.5")]]}]),
        (b'{"a": 123456789012345678901234567890}', {"a": 123456789012345678901234567890}),
        (b"1.5", Decimal("1.5")),
        (b"1", 1),
        (b'"12:34.5"', "12:34.5"),
        (b'{"at": "11:24:36.531141", "n": [null, true, 7]}', {"at": "11:24:36.531141", "n": [None, True, 7]}),
    ],
)
def test_no_number_is_rounded(body: bytes, value: Any) -> None:
    read = loads_faithful(body)
    assert read == value
    assert json.dumps(read, default=repr) == json.dumps(value, default=repr)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(plain)
def test_json_without_fractions_comes_back_as_it_was(value: Any) -> None:
    assert loads_faithful(json.dumps(value).encode()) == value


def test_money_already_rounded_is_refused() -> None:
    assert structure({"amount": Decimal("1.1")}, Sum) == Sum(amount=Decimal("1.1"))
    with pytest.raises(UnexpectedResponse, match="expected money as Decimal, string or whole number, got a float") as caught:
        structure({"amount": 1.1}, Sum, path="data")
    assert caught.value.path == "data"


def test_a_field_of_ours_is_not_read_from_the_vendors_json() -> None:
    assert decode(b'{"amount": 1.10, "scope": "theirs"}', Sum).scope == "ours"
