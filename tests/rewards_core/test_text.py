"""How a number of things is told."""

from __future__ import annotations

import pytest

from rewards_core.text import counted


@pytest.mark.parametrize(
    ("count", "many", "told"),
    [
        (0, "", "0 rows"),
        (1, "", "1 row"),
        (2, "", "2 rows"),
        (1_200, "", "1,200 rows"),
        (1, "lines", "1 row"),
        (2, "lines", "2 lines"),
    ],
)
def test_one_thing_is_told_as_one_and_many_as_many(count: int, many: str, told: str) -> None:
    assert counted(count, "row", many) == told
