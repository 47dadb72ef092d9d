"""What an event says about an operation, when two outcomes agree, and how resources are written down."""

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
    """Return the terminal status a resource names, in whatever case; None if it names none."""
    if resource is None:
        return None
    word = resource.get("status")
    return TERMINAL.get(word.lower()) if isinstance(word, str) else None


def outcome_of(event: Event, at: float) -> Outcome | None:
    """Return the outcome an event carries, None if it carries none."""
    status = terminal_status(event.resource)
    if event.ref is None or event.resource is None or status is None:
        return None
    return Outcome(ref=event.ref, status=status, resource=event.resource, via="webhook", settled_at=at, key=event.key)


def settled_by(event: Event, at: float) -> tuple[Outcome, bytes] | None:
    """Return the outcome an event carries, and its resource packed; None if it carries none, or cannot be used."""
    outcome = None if event.problem is not None else outcome_of(event, at)
    return None if outcome is None else (outcome, pack_any(outcome.resource))


def packed(outcome: Outcome) -> bytes:
    """Return an outcome as a `MemoryStore` keeps it, without its ref.

    Raises:
        TypeError: the resource holds what no JSON can hold.
    """
    about = (outcome.status.value, outcome.via, outcome.settled_at, outcome.key, outcome.resource, outcome.confirmed)
    return pack_any(about)


_PLAIN_NUMBER = re.compile(r"-?[0-9]{1,100}(\.[0-9]{1,100})?", re.ASCII)


def _number(value: object) -> Decimal | None:
    kind = type(value)
    if kind is str and _PLAIN_NUMBER.fullmatch(str(value)):
        return Decimal(str(value))
    if kind in {int, float, Decimal}:
        return Decimal(str(value))
    return None


def agree(first: Outcome, then: Outcome) -> bool:
    """Return whether two outcomes of one operation say the same: equal status, and no number that both name differs.

    Texts are left out of it, because one vendor writes the same moment in two ways in its events and in its answers.
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
    """Return whether two values of a resource are the same, or the same number however it is written."""
    first, second = _number(one), _number(other)
    return one == other if first is None or second is None else first == second


def contradiction(first: Outcome, later: Iterable[Outcome]) -> Outcome | None:
    """Return the outcome that the vendor's API confirmed against a first one that only an event told; None if there is none."""
    return None if first.confirmed else next((one for one in later if one.confirmed), None)


def conflict_event(first: Outcome, then: Outcome) -> Event:
    """Return the event that tells handlers of a later outcome which differs from the first; equal conflicts are equal events."""
    ref = first.ref
    words = {
        "event": CONFLICT_EVENT,
        "operation": {"scope": ref.scope, "kind": ref.kind, "uid": ref.uid},
        "first": _told(first),
        "then": _told(then),
    }
    same = [CONFLICT_EVENT, ref.scope, ref.kind, ref.uid, str(then.status), dict(then.resource)]
    return Event(
        scope=ref.scope,
        name=CONFLICT_EVENT,
        identity=hashlib.sha256(canonical(same)).digest()[:16],
        body=pack(words),
        ref=ref,
    )


def _told(outcome: Outcome) -> dict[str, Any]:
    return {
        "status": str(outcome.status),
        "via": outcome.via,
        "settled_at": outcome.settled_at,
        "resource": dict(outcome.resource),
    }


_DECIMAL = "$decimal"
"""`{"$decimal": "1.5"}` is a number where JSON's own would not do; an object that looks like one is `{"$decimal": [...]}`."""
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
    """Return a value without objects that look like a number; numbers stay numbers."""
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


def pack(value: Mapping[str, Any]) -> bytes:
    """Write a parsed JSON object so that `unpack` returns it with every number exact."""
    return pack_any(value)


def pack_any(value: Any) -> bytes:
    """Write any parsed JSON value, tuples as lists."""
    try:
        data = dumps(value)
        return data if _MARK not in data else dumps(_escaped(value))
    except UnicodeEncodeError:  # half a surrogate pair
        return json.dumps(_marked(value), separators=(",", ":")).encode("ascii")
    except RecursionError:  # a stranger's play, not worth failing for: read again, it may be a number
        return dumps(value)


def unpack(data: bytes) -> dict[str, Any]:
    """Read what `pack` wrote."""
    value = unpack_any(data)
    if not isinstance(value, dict):
        found = type(value).__name__
        raise TypeError(
            f"The store holds a {found} where an object was packed: something else wrote its file. Nothing was changed."
        )
    return value


def unpack_any(data: bytes) -> Any:
    """Read what `pack_any` wrote, in this version or 0.1."""
    try:
        if _MARK not in data:
            return loads(data)
    except UnexpectedResponse:  # half a surrogate pair
        pass
    return json.loads(data, object_hook=_unmarked, parse_float=Decimal)
