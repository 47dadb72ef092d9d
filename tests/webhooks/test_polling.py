"""How the intervals between polls grow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhooks import PollPolicy
from webhooks.store.records import Priority


def test_intervals_grow_from_the_first_to_the_longest() -> None:
    policy = PollPolicy(first_after=15, growth=1.6, max_interval=60, jitter=0.2)
    assert [round(policy.interval(step, 0.0), 1) for step in range(6)] == [15.0, 24.0, 38.4, 50.0, 50.0, 50.0]
    assert [round(policy.interval(step, 1.0), 1) for step in range(6)] == [18.0, 28.8, 46.1, 60.0, 60.0, 60.0]


@given(
    first=st.floats(0.001, 1e6),
    growth=st.floats(1, 10),
    longest=st.floats(0.001, 1e6),
    jitter=st.floats(0, 1),
    step=st.integers(0, 10**9),
    chance=st.floats(0, 1),
)
def test_no_interval_is_longer_than_the_longest(
    first: float, growth: float, longest: float, jitter: float, step: int, chance: float
) -> None:
    policy = PollPolicy(first_after=first, growth=growth, max_interval=longest, jitter=jitter)
    assert 0 < policy.interval(step, chance) <= longest * (1 + 1e-9)


@pytest.mark.parametrize(
    ("priority", "expected"),
    [
        (Priority.LOOKUP, [1, 2, 4, 8, 15]),
        (Priority.DEADLINE, [15]),
        (Priority.WISH, [15]),
        (Priority.ROUTINE, [24, 38.4, 50, 50]),
        (Priority.ABANDONED, [60, 96, 153.6, 245.8, 393.2, 629.1, 1006.6, 1610.6, 2577.0, *[3_600] * 22, 86_400, 86_400]),
    ],
)
def test_the_next_interval_goes_by_the_reason_of_the_poll(priority: Priority, expected: list[float]) -> None:
    policy = PollPolicy()
    assert [policy.next_interval(priority, attempt, 0.0) for attempt in range(len(expected))] == pytest.approx(expected, abs=0.1)
