from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards_core.backoff import RetryPolicy, delay, parse_retry_after
from rewards_core.http.timeouts import Timeouts
from rewards_core.rate import Limits

FLOATS = st.floats(0, 1)
ODD: dict[str, Any] = {"attempts": "2"}
ODD_TIME: dict[str, Any] = {"total": "30"}


@given(st.integers(1, 2000), FLOATS, st.none() | st.floats(0, 1000))
def test_chance_only_lengthens_and_the_vendor_is_never_undercut(failed: int, chance: float, asked: float | None) -> None:
    policy = RetryPolicy()
    plain = policy.pause(failed, 0.0, asked)
    assert plain >= (asked or 0.0)
    assert plain >= min(policy.first_delay * 2 ** min(failed - 1, 99), policy.max_delay)
    assert plain <= policy.pause(failed, chance, asked) <= plain + policy.max_delay / 2


def test_pauses_double_up_to_the_longest() -> None:
    assert [delay(repeats, first=1.0, longest=5.0) for repeats in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_slow_growth_reaches_the_longest_as_well() -> None:
    assert delay(10_000, first=1.0, longest=60.0, growth=1.01) == 60.0


@given(st.integers(0, 10**9), st.floats(1, 10), FLOATS, FLOATS)
def test_no_number_of_repeats_is_too_many(repeats: int, growth: float, jitter: float, chance: float) -> None:
    pause = delay(repeats, first=0.5, longest=300.0, growth=growth, jitter=jitter, chance=chance)
    assert 0.5 <= pause <= 300.0 * (1 + jitter)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 0 ", 0.0),
        ("soon", None),
        ("-3", None),
        ("1.5", 1.5),
        ("1.", None),
        ("", None),
        ("٣", None),
        ("9" * 40, 999999999999.0),
    ],
)
def test_retry_after_in_seconds(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, None) == seconds


def test_retry_after_as_a_date_counts_from_the_date_of_the_answer() -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    header = format_datetime(at, usegmt=True)
    assert parse_retry_after(header, format_datetime(at - timedelta(seconds=30), usegmt=True)) == 30.0
    assert parse_retry_after(header, format_datetime(at + timedelta(seconds=30), usegmt=True)) == 0.0


@pytest.mark.parametrize("date", [None, "", "soon", "7", "Mon, 99 Jan 2026 03:04:05 GMT"])
def test_retry_after_as_a_date_says_nothing_in_an_answer_without_one(date: str | None) -> None:
    assert parse_retry_after("Fri, 02 Jan 2026 03:04:05 GMT", date) is None


@pytest.mark.parametrize("header", ["Sun Nov  6 08:49:37 1994", "Sun, 06 Nov 1994 08:49:37", "Sunday, 06-Nov-94 08:49:37 GMT"])
def test_retry_after_as_a_date_is_in_gmt_in_every_documented_form(header: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert parse_retry_after(header, "Sun, 06 Nov 1994 08:49:07 GMT") == 30.0
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.text(max_size=50), st.text(max_size=50))
def test_retry_after_never_raises(header: str, date: str) -> None:
    asked = parse_retry_after(header, date)
    assert asked is None or asked >= 0


@pytest.mark.parametrize(
    ("build", "error", "name"),
    [
        (lambda: Timeouts(total=0), ValueError, "total"),
        (lambda: Timeouts(read=float("nan")), ValueError, "read"),
        (lambda: Timeouts(connect=float("inf")), ValueError, "connect"),
        (lambda: Timeouts(**ODD_TIME), TypeError, "total"),
        (lambda: Timeouts(total=True), TypeError, "total"),
        (lambda: RetryPolicy(attempts=0), ValueError, "attempts"),
        (lambda: RetryPolicy(**ODD), TypeError, "attempts"),
        (lambda: RetryPolicy(attempts=True), TypeError, "attempts"),
        (lambda: RetryPolicy(first_delay=-1), ValueError, "first_delay"),
        (lambda: Limits(connections=0), ValueError, "connections"),
        (lambda: Limits(calls_per_second=float("inf")), ValueError, "calls_per_second"),
        (lambda: Limits(calls_per_second=0), ValueError, "calls_per_second"),
        (lambda: Limits(calls_per_second=1, burst=0), ValueError, "burst"),
        (lambda: Limits(burst=5), ValueError, "burst"),
    ],
)
def test_settings_out_of_range_are_refused(build: Callable[[], object], error: type[Exception], name: str) -> None:
    with pytest.raises(error, match=rf"^{name}: give "):
        build()
