"""What every setting must refuse: values of a wrong type, of no size, and out of range."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from attrs import frozen


@frozen
class Number:
    """What a setting takes: a finite number, whole or not, that is none of the values out of range."""

    out_of_range: tuple[float, ...]
    whole: bool = False
    or_none: bool = False

    def wrong(self) -> Iterator[tuple[Any, type[Exception]]]:
        wrong: tuple[Any, ...] = ("5", True, [5])
        yield from ((value, TypeError) for value in wrong)
        if not self.or_none:
            yield None, TypeError
        for value in (math.nan, math.inf, -math.inf):
            yield value, TypeError if self.whole else ValueError
        if self.whole:
            yield 1.5, TypeError
            yield 2.0, TypeError
        for out in self.out_of_range:
            yield out, ValueError


@frozen
class Flag:
    """What a setting takes: True or False."""

    or_none: bool = False

    def wrong(self) -> Iterator[tuple[Any, type[Exception]]]:
        wrong: tuple[Any, ...] = ("false", 0, 1, 1.0, math.nan)
        yield from ((value, TypeError) for value in wrong)
        if not self.or_none:
            yield None, TypeError


@frozen
class Instance:
    """What a setting takes: an object of a class, or None for the default."""

    or_none: bool = True

    def wrong(self) -> Iterator[tuple[Any, type[Exception]]]:
        wrong: tuple[Any, ...] = (5, "text", True, {}, [], int)
        yield from ((value, TypeError) for value in wrong)
        if not self.or_none:
            yield None, TypeError


@frozen
class Kind:
    """What a setting takes: something that none of the wrong values is, those of a wrong type and those of no use."""

    types: tuple[Any, ...]
    values: tuple[Any, ...] = ()

    def wrong(self) -> Iterator[tuple[Any, type[Exception]]]:
        yield from ((value, TypeError) for value in self.types)
        yield from ((value, ValueError) for value in self.values)


FUNCTION = Kind((5, "text", True, None, {}))
PATH = Kind((5, None, True, b"x", {}), ("", "a\0b"))
MAPPING = Kind((5, "text", True, [("a", "b")]))
ABOVE_ZERO = Number((0, -1, 0.0, -0.5))
AT_LEAST_ZERO = Number((-1, -0.001))
ONE_OR_MORE = Number((0, -1), whole=True)
FLAG = Flag()


def cases(takes: dict[str, Any]) -> list[Any]:
    """Return a parameter for each wrong value: the setting, the value, the error."""
    return [
        pytest.param(name, value, error, id=f"{name}={value!r}") for name, kind in takes.items() for value, error in kind.wrong()
    ]


def fields(kind: type[Any]) -> set[str]:
    """Return the names of all settings of an attrs class."""
    return {field.name for field in attrs.fields(kind) if field.init}


def refuses(build: Any, name: str, value: Any, error: type[Exception]) -> None:
    """See that the wrong value is refused with the right error, naming the setting and what to give."""
    with pytest.raises(error) as caught:
        build(**{name: value})
    assert type(caught.value) is error
    assert str(caught.value).startswith(f"{name}: give "), caught.value
