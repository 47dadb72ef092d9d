"""The outcome in an event, when two outcomes agree, and the JSON in which a store keeps both."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from rewards_core.errors import UnexpectedResponse
from rewards_core.json import canonical, dumps, loads
from rewards_core.operations import TERMINAL, Event, OperationStatus
from webhooks.store.records import Outcome

CONFLICT_EVENT = "outcome.conflict"


def terminal_status(resource: Mapping[str, Any] | None) -> OperationStatus | None:
    """Return the terminal status of a resource, in any case; None if it has none."""
    if resource is None:
        return None
    word = resource.get("status")
    return TERMINAL.get(word.lower()) if isinstance(word, str) else None


def outcome_of(event: Event, at: float) -> Outcome | None:
    """Return the outcome in an event, None if there is none."""
    status = terminal_status(event.resource)
    if event.ref is None or event.resource is None or status is None:
        return None
    return Outcome(ref=event.ref, status=status, resource=event.resource, via="webhook", settled_at=at, key=event.key)


def settled_by(event: Event, at: float) -> tuple[Outcome, bytes] | None:
    """Return the outcome in an event, and its packed resource; None for an event without one and for a dead letter."""
    outcome = None if event.problem is not None else outcome_of(event, at)
    return None if outcome is None else (outcome, pack(outcome.resource))


def pack_outcome(outcome: Outcome) -> bytes:
    """Return an outcome as a `MemoryStore` keeps it, without its ref. What is not JSON raises `TypeError`."""
    about = (outcome.status.value, outcome.via, outcome.settled_at, outcome.key, outcome.resource, outcome.confirmed)
    return pack(about)


_plain_integer = re.compile(r"0|-?[1-9][0-9]*").fullmatch
_PLAIN_NUMBER = re.compile(r"-?[0-9]{1,100}(\.[0-9]{1,100})?", re.ASCII)


def _number(value: object) -> Decimal | None:
    kind = type(value)
    if kind is str and _PLAIN_NUMBER.fullmatch(str(value)):
        return Decimal(str(value))
    if kind in {int, float, Decimal}:
        return Decimal(str(value))
    return None


def agree(first: Outcome, then: Outcome) -> bool:
    """Return whether two outcomes of one operation have the same status and no differing number.

    Texts are not compared, because a vendor writes the same moment differently in its events and in its answers.
    """
    if first.status != then.status:
        return False
    if first.resource is then.resource:
        return True
    for key, value in first.resource.items():
        if key in then.resource:
            one, other = _number(value), _number(then.resource[key])
            if one is not None and other is not None and one != other:
                return False
    return True


def same_value(one: object, other: object) -> bool:
    """Return whether two values of a resource are equal, or the same number in different notation."""
    first, second = _number(one), _number(other)
    return one == other if first is None or second is None else first == second


def contradiction(first: Outcome, later: Iterable[Outcome]) -> Outcome | None:
    """Return the first confirmed outcome that differs from an unconfirmed first one, None if there is none."""
    return None if first.confirmed else next((one for one in later if one.confirmed), None)


def conflict_event(first: Outcome, then: Outcome) -> Event:
    """Return the event of a conflict, for handlers; equal conflicts have equal identities."""
    ref = first.ref
    body = {
        "event": CONFLICT_EVENT,
        "operation": {"scope": ref.scope, "kind": ref.kind, "uid": ref.uid},
        "first": _described(first),
        "then": _described(then),
    }
    same = [CONFLICT_EVENT, ref.scope, ref.kind, ref.uid, str(then.status), dict(then.resource)]
    try:
        identified = canonical(same)
    except UnicodeEncodeError:  # a lone surrogate
        identified = json.dumps(_marked(same), sort_keys=True).encode("ascii")
    return Event(
        scope=ref.scope,
        name=CONFLICT_EVENT,
        identity=hashlib.sha256(identified).digest()[:16],
        body=pack(body),
        ref=ref,
    )


def _described(outcome: Outcome) -> dict[str, Any]:
    return {
        "status": str(outcome.status),
        "via": outcome.via,
        "settled_at": outcome.settled_at,
        "resource": dict(outcome.resource),
    }


_DECIMAL = "$decimal"
"""`{"$decimal": "1.5"}` is a number that JSON cannot hold exactly; an object that looks like it is `{"$decimal": [...]}`."""
_MARK = b'"$decimal"'
_NESTING = (dict, list, tuple, Mapping)


def _marked(value: object) -> Any:
    if isinstance(value, Decimal):
        return {_DECIMAL: str(value)}
    if isinstance(value, Mapping):
        items = {key: _marked(item) for key, item in value.items()}
        return {_DECIMAL: [items[_DECIMAL]]} if len(items) == 1 and _DECIMAL in items else items
    return [_marked(item) for item in value] if isinstance(value, list | tuple) else value


def _escaped(value: Any) -> Any:
    """Escape objects that look like a marked number."""
    if isinstance(value, Mapping):
        items = {key: _escaped(item) if isinstance(item, _NESTING) else item for key, item in value.items()}
        return {_DECIMAL: [items[_DECIMAL]]} if len(items) == 1 and _DECIMAL in items else items
    return [_escaped(item) if isinstance(item, _NESTING) else item for item in value]


def _unmarked(value: dict[str, Any]) -> Any:
    if len(value) != 1 or _DECIMAL not in value:
        return value
    kept = value[_DECIMAL]
    if type(kept) is list and len(kept) == 1:
        return {_DECIMAL: kept[0]}
    try:
        number = Decimal(kept) if type(kept) is str else None
    except InvalidOperation:
        return value
    return value if number is None or not number.is_finite() else number


def pack(value: Any) -> bytes:
    """Write a parsed JSON value, tuples as lists, so that `unpack` returns it with every number exact."""
    try:
        data = dumps(value)
        return data if _MARK not in data else dumps(_escaped(value))
    except UnicodeEncodeError:  # a lone surrogate
        return json.dumps(_marked(value), separators=(",", ":")).encode("ascii")
    except RecursionError:  # hostile nesting; an object in it that looks like a number may become one
        return dumps(value)


def unpack(data: bytes) -> Any:
    """Read what `pack` wrote, in this version or 0.1."""
    try:
        if _MARK not in data:
            return loads(data)
    except UnexpectedResponse:  # a lone surrogate
        pass
    return json.loads(data, object_hook=_unmarked, parse_float=Decimal)


def unpack_object(data: bytes) -> dict[str, Any]:
    """Read a JSON object that `pack` wrote."""
    value = unpack(data)
    if not isinstance(value, dict):
        found = type(value).__name__
        raise TypeError(
            f"The store holds a {found} instead of an object, so another program has written to its file. Nothing was changed."
        )
    return value


def mentions(data: bytes, uid: str) -> bool:
    """Return whether data holds a uid: JSON as a whole string, key or number, any other text as a whole word."""
    try:
        value = loads(data)
    except UnexpectedResponse:
        return re.search(rf"(?<![\w-]){re.escape(uid)}(?![\w-])", data.decode("utf-8", "replace")) is not None
    return mentioned_in(value, uid)


def mentioned_in(value: Any, uid: str) -> bool:
    """Return whether a parsed JSON value holds a uid as a whole string, key or number."""
    number = Decimal(uid) if _plain_integer(uid) else None
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.keys()
            left += value.values()
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str):
            if value == uid:
                return True
        elif number is not None and not isinstance(value, bool) and value == number:
            return True
    return False
