"""`fits` says what `structure` would do."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from attrs import field, frozen
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards_core.errors import UnexpectedResponse
from rewards_core.json import OURS, fits, structure
from rewards_core.operations import OpenEnum


class Colour(OpenEnum):
    RED = "red"


@frozen(kw_only=True)
class Thing:
    name: str
    colour: Colour
    price: Decimal
    count: int
    note: str | None
    sold: bool = False
    other: Decimal | None = None
    made_at: datetime | None = None
    paint: Colour = Colour.RED
    scope: str = field(default="x", metadata=OURS)
    raw: Any = field(factory=dict)


GOOD: dict[str, Any] = {"name": "a", "colour": "red", "price": "1.5", "count": 1, "note": None}
VALUES: st.SearchStrategy[Any] = st.sampled_from(
    [
        "",
        "a",
        "red",
        "1.5",
        "1e5",
        "2023-08-10T14:07:14.494142Z",
        None,
        True,
        0,
        7,
        10**120,
        1.5,
        Decimal("1.50"),
        Decimal("NaN"),
        [],
        {},
    ]
)


@given(
    changes=st.dictionaries(st.sampled_from([*GOOD, "sold", "other", "made_at", "paint", "scope", "raw", "stranger"]), VALUES),
    missing=st.sets(st.sampled_from(list(GOOD)), max_size=1),
)
@settings(max_examples=1_000)
def test_it_agrees_with_structure_whatever_the_fields_hold(changes: dict[str, Any], missing: set[str]) -> None:
    value = {key: item for key, item in {**GOOD, **changes}.items() if key not in missing}
    try:
        structure(value, Thing)
    except UnexpectedResponse:
        assert not fits(value, Thing)
    else:
        assert fits(value, Thing)


@pytest.mark.parametrize("value", [None, [], "a", 1, [GOOD]])
def test_what_is_no_object_does_not_fit(value: Any) -> None:
    assert not fits(value, Thing)
    assert fits(GOOD, Thing)
