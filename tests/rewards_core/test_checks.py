"""What arguments of no number must be: functions, texts, paths, mappings, iterables and objects with methods."""

from __future__ import annotations

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


def reads(value: Any, name: str) -> object:
    return check_methods(value, name, "a reader", Reader)


def rows(value: Any, name: str) -> object:
    return check_iterable(value, name, "a list of rows")


@pytest.mark.parametrize(
    ("check", "value", "words"),
    [
        (check_callable, 5, "a function, not int"),
        (check_callable, None, "a function, not None"),
        (check_str, 5, "a str, not int"),
        (check_str, None, "a str, not None"),
        (check_path, 5, "the path of a file as a str or Path, not int"),
        (check_path, None, "the path of a file as a str or Path, not None"),
        (check_path, b"x", "the path of a file as a str or Path, not bytes"),
        (check_mapping, [("a", 1)], "a mapping, not list"),
        (rows, "rows", "a list of rows, not str"),
        (rows, b"rows", "a list of rows, not bytes"),
        (rows, {"a": 1}, "a list of rows, not dict"),
        (rows, None, "a list of rows, not None"),
        (
            lambda value, name: check_methods(value, name, "a reader", Reader),
            WithoutClose(),
            "a reader, with close, not WithoutClose",
        ),
        (
            lambda value, name: check_methods(value, name, "a reader", Reader),
            WithoutScope(),
            "a reader, with scope, not WithoutScope",
        ),
        (
            lambda value, name: check_methods(value, name, "a reader", Reader),
            Whole,
            "a reader, with scope, read, close, not the class Whole",
        ),
    ],
)
def test_a_wrong_type_is_refused_in_words(check: Any, value: Any, words: str) -> None:
    with pytest.raises(TypeError) as caught:
        check(value, "thing")
    assert str(caught.value) == f"thing: give {words}."


@pytest.mark.parametrize("value", ["", "a\0b", PurePosixPath("a\0b")])
def test_what_no_file_can_be_called_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^path: give the path of a file, not "):
        check_path(value, "path")


def test_what_fits_comes_back() -> None:
    reader, items = Whole(), iter([1])
    assert check_methods(reader, "reader", "a reader", Reader) is reader
    assert check_iterable(items, "rows", "a list of rows") is items
    assert next(items) == 1
    assert check_path("a/b", "path") == check_path(PurePosixPath("a/b"), "path") == Path("a/b")
    assert check_callable(len, "clock") is len
    assert check_mapping({}, "keys") == {}


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan")])
def test_a_number_that_no_float_holds_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"^seconds: give a number, not "):
        check_number(value, "seconds")


def test_a_rate_whose_interval_no_float_holds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^calls_per_second: give a number of at least 1e-06, not 5e-324"):
        Limits(calls_per_second=5e-324)
