"""Checks of functions, texts, paths, mappings, iterables, objects with methods, and numbers that no float holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import pytest

from rewards_core.rate import Limits
from rewards_core.validation import (
    check_callable,
    check_iterable,
    check_mapping,
    check_methods,
    check_number,
    check_path,
    check_str,
)
from tests.texts import said


class Reader(Protocol):
    @property
    def scope(self) -> str: ...

    def read(self) -> str: ...

    def close(self) -> None: ...


class Whole:
    scope = "default"

    def read(self) -> str:
        return ""

    def close(self) -> None:
        return None


class WithoutClose:
    scope = "default"

    def read(self) -> str:
        return ""


class WithoutScope:
    read = close = Whole.read


def reader(value: Any, name: str) -> object:
    return check_methods(value, name, "a reader", Reader)


def rows(value: Any, name: str) -> object:
    return check_iterable(value, name, "a list of rows")


def test_a_wrong_type_is_refused_in_words() -> None:
    refused: list[tuple[Callable[..., object], Any]] = [
        *((check_callable, value) for value in (5, None)),
        *((check_str, value) for value in (5, None)),
        *((check_path, value) for value in (5, None, b"x")),
        (check_mapping, [("a", 1)]),
        *((rows, value) for value in ("rows", b"rows", {"a": 1}, None)),
        *((reader, value) for value in (WithoutClose(), WithoutScope(), Whole)),
    ]
    lines = []
    for check, value in refused:
        with pytest.raises(TypeError) as caught:
            check(value, "thing")
        lines.append(str(caught.value))
    said("arguments: a wrong type", "\n".join(lines))


@pytest.mark.parametrize("value", ["", "a\0b", PurePosixPath("a\0b")])
def test_what_no_file_can_be_called_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^path: "):
        check_path(value, "path")


def test_what_fits_comes_back() -> None:
    whole, items = Whole(), iter([1])
    assert check_methods(whole, "reader", "a reader", Reader) is whole
    assert check_iterable(items, "rows", "a list of rows") is items
    assert next(items) == 1
    assert check_path("a/b", "path") == check_path(PurePosixPath("a/b"), "path") == Path("a/b")
    assert check_callable(len, "clock") is len
    assert check_mapping({}, "keys") == {}


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan")])
def test_a_number_that_no_float_holds_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"^seconds: "):
        check_number(value, "seconds")


def test_a_rate_whose_interval_no_float_holds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^calls_per_second: "):
        Limits(calls_per_second=5e-324)
