"""Compare the attempts of one delivery: what the vendor changes when it sends an event again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import frozen

from rewards_core.operations import Event
from webhooks.cli.capture.json_text import Path, readable, rewritten
from webhooks.cli.capture.redaction import Headers

_REMEMBERED = 256
_LONGEST_LIST = 100
_HOP_BY_HOP = frozenset({"connection", "content-length", "date", "host", "keep-alive", "transfer-encoding"})


@frozen(kw_only=True)
class Attempt:
    """One attempt.

    Attributes:
        number: The number of its delivery in this capture.
        event: What it says.
        headers: As they arrived.
    """

    number: int
    event: Event
    headers: Headers


class Attempts:
    """Remember deliveries, and find the earlier attempt of one: by identity, by correlation id, or by what it is about."""

    def __init__(self) -> None:
        self._last: OrderedDict[tuple[object, ...], Attempt] = OrderedDict()

    def before(self, attempt: Attempt) -> Attempt | None:
        """Return the latest earlier attempt of the same delivery, None if this is the first, and remember this one."""
        names = list(_names(attempt.event))
        known = [self._last[name] for name in names if name in self._last]
        for name in names:
            self._last[name] = attempt
            self._last.move_to_end(name)
        while len(self._last) > _REMEMBERED:
            self._last.popitem(last=False)
        return max(known, key=lambda one: one.number, default=None)


def difference(first: Attempt, second: Attempt) -> dict[str, Any]:
    """Return what differs between two attempts: names of members and headers, no values."""
    one, other = _members(first.event.body), _members(second.event.body)
    return {
        "of_delivery": first.number,
        "identity_kept": first.event.identity == second.event.identity,
        "same_bytes": first.event.body == second.event.body,
        "members": None if one is None or other is None else _changes(one, other),
        "headers": _changes(_by_name(first.headers), _by_name(second.headers)),
    }


def _names(event: Event) -> Iterator[tuple[object, ...]]:
    yield "identity", event.identity
    if event.correlation_id:
        yield "correlation", event.correlation_id
    if event.ref is not None:
        yield "about", event.name, event.ref, event.occurred_at


def _changes(one: Mapping[str, object], other: Mapping[str, object]) -> dict[str, list[str]]:
    return {
        "changed": _some(name for name in one if name in other and one[name] != other[name]),
        "added": _some(name for name in other if name not in one),
        "gone": _some(name for name in one if name not in other),
    }


def _some(names: Iterable[str]) -> list[str]:
    return list(names)[:_LONGEST_LIST]


def _members(body: bytes) -> dict[str, str] | None:
    """Return the values of a JSON body by their paths, None where it is none."""
    text = readable(body)
    if text is None:
        return None
    values: dict[str, str] = {}

    def note(path: Path, value: str | None) -> None:
        values[".".join(path)] = value or ""

    rewritten(text, note)
    return values


def _by_name(headers: Headers) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in headers:
        if name.lower() not in _HOP_BY_HOP:
            values.setdefault(name.lower(), []).append(value)
    return values
