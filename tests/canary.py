"""Find secrets in every text of an object, and in the local variables of the frames that an error passed through."""

from __future__ import annotations

import copy
import logging
import pickle
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from traceback import walk_tb
from types import FrameType
from typing import Any

import attrs

PACKAGES = frozenset({"rewards_core", "original_async", "enkash_async", "webhooks", "payouts"})


def locals_with(error: BaseException, canaries: Collection[str]) -> list[str]:
    """Return the local variables that show a canary, as `package.module.function: variable`, without their values.

    Args:
        error: What was caught; the errors that it came from and the members of groups are walked as well.
        canaries: The texts that must not be found, in every form that the secret travels in.
    """
    assert all(canaries), "an empty canary is found everywhere"
    return sorted(
        {
            f"{frame.f_globals['__name__']}.{frame.f_code.co_qualname}: {name}"
            for each in _chain(error)
            for frame, _ in walk_tb(each.__traceback__)
            if _is_ours(frame)
            for name, value in frame.f_locals.items()
            if any(canary in text for text in _texts_of(value) for canary in canaries)
        }
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, all that it came from, and the members of groups."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        each = left.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            left += [each.__cause__, each.__context__, *(each.exceptions if isinstance(each, BaseExceptionGroup) else ())]
            yield each


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in PACKAGES


def _texts_of(value: Any, depth: int = 0) -> Iterator[str]:
    """Yield every text that a value shows, in itself, in what it holds and in its repr."""
    if isinstance(value, str):
        yield str.__str__(value)
    elif isinstance(value, (bytes, bytearray)):
        yield value.decode("latin-1")
    elif isinstance(value, Mapping) and depth < 5:
        for pair in [*value.items()]:
            yield from _texts_of(pair, depth + 1)
    elif isinstance(value, (list, tuple, set, frozenset)) and depth < 5:
        for each in [*value]:
            yield from _texts_of(each, depth + 1)
    try:
        yield repr(value)
    except Exception:
        return  # such as an object that is half made


class RecordCollector:
    """An observer that collects every record of a client."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def on_start(self, record: Any) -> None:
        self.records.append(record)

    on_retry = on_end = on_start


def texts_of(thing: Any, seen: set[int] | None = None) -> Iterator[str]:
    """Yield every text of an object, and of an error with its causes and attributes."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, logging.LogRecord):
        yield from (thing.getMessage(), repr(thing.args), repr(vars(thing)))
        if thing.exc_info and thing.exc_info[1]:
            yield from traceback.format_exception(thing.exc_info[1])
        return
    yield from (repr(thing), str(thing), f"{thing}", f"{[thing]}")
    transforms: list[Callable[[Any], str]] = [
        lambda thing: pickle.dumps(thing).decode("latin-1"),
        lambda thing: repr(copy.copy(thing)),
        lambda thing: repr(copy.deepcopy(thing)),
    ]
    for transform in transforms:
        try:
            yield transform(thing)
        except TypeError as refusal:
            yield str(refusal)
    if attrs.has(type(thing)):
        yield repr(attrs.asdict(thing))
    if isinstance(thing, BaseException):
        yield from traceback.format_exception(thing)
        for value in (*thing.args, *vars(thing).values(), thing.__cause__, thing.__context__):
            yield from texts_of(value, seen)
