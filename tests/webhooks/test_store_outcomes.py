from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.webhooks.store_contract import outcome, ref
from webhooks.store.outcomes import agree, conflict_event, pack, unpack_object

keys = st.text() | st.just("$decimal")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.slow
@given(st.dictionaries(keys, json_values, max_size=4))
def test_what_is_packed_is_unpacked_exactly(value: dict[str, Any]) -> None:
    assert unpack_object(pack(value)) == value


@pytest.mark.parametrize("text", ["x", "NaN", "sNaN", "1.5", 5, None, [1], {"$decimal": "x"}])
def test_an_object_that_looks_like_a_number_stays_an_object(text: Any) -> None:
    value = {"amount": Decimal("1.5"), "note": {"$decimal": text}}
    assert unpack_object(pack(value)) == value


def test_numbers_are_packed_as_numbers_and_those_of_the_first_release_are_read() -> None:
    value = {"amount": Decimal("1.50"), "note": "x"}
    assert pack(value) == b'{"amount":1.50,"note":"x"}'
    assert repr(unpack_object(pack(value))) == repr(value)
    assert repr(unpack_object(b'{"amount":{"$decimal":"1.50"},"note":"x"}')) == repr(value)


@pytest.mark.parametrize("text", ["\ud800", "\udcff x"])
def test_half_a_surrogate_pair_comes_back_beside_an_exact_number(text: str) -> None:
    value = {"note": text, "amount": Decimal("0.1234567890123456789"), "more": {"$decimal": "1"}}
    assert unpack_object(pack(value)) == value
    assert unpack_object(pack({"note": text})) == {"note": text}


def test_numbers_stay_exact_however_deeply_an_object_that_looks_like_one_nests() -> None:
    deep: Any = {"$decimal": "x", "amount": Decimal("0.1234567890123456789")}
    for _ in range(700):
        deep = {"in": deep}
    value = unpack_object(pack(deep))
    while "in" in value:
        value = value["in"]
    assert value["amount"] == Decimal("0.1234567890123456789")


def test_only_json_can_be_packed() -> None:
    with pytest.raises(TypeError, match="object"):
        pack({"key": object()})


def test_only_an_object_can_be_unpacked() -> None:
    with pytest.raises(TypeError, match="list"):
        unpack_object(b"[]")


def test_outcomes_agree_where_only_one_names_a_number() -> None:
    one = outcome(ref(), amount="1.5")
    assert agree(one, one)
    assert agree(one, outcome(ref(), amount=None))
    assert agree(outcome(ref(), amount=True), outcome(ref(), amount=False))
    assert not agree(one, outcome(ref(), amount=Decimal("1.4")))


def test_equal_conflicts_are_equal_events_and_others_are_not() -> None:
    first = outcome(ref(), "failed")
    one, again = (conflict_event(first, outcome(ref(), "done", via=via)) for via in ("webhook", "poll"))
    other = conflict_event(first, outcome(ref(), "done", amount="9"))
    assert one.identity == again.identity != other.identity
    assert len(one.identity) == 16
