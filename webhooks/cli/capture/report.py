"""The report on a captured request: how its signature reads, what its event says, what changed since an earlier attempt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from attrs import asdict

from rewards_core.operations import Event
from webhooks.cli.capture.redaction import Headers, Path, json_text, rewrite_json
from webhooks.cli.capture.requests import Attempt, CapturedRequest
from webhooks.store.queries import operations_of

_NO_READING = (
    "No reading of it matches a configured key: the body was changed on the way, the secret belongs to another app, or the "
    "sender is not the vendor."
)
_REPORT_IT = "Please report this with the sample, so that this form can be accepted."
_MAX_NAMES = 100
_HOP_BY_HOP = frozenset({"connection", "content-length", "date", "host", "keep-alive", "transfer-encoding"})


def report_of(request: CapturedRequest, expected_path: str, known_names: frozenset[str]) -> dict[str, Any]:
    """Return the JSON report on a request.

    Args:
        request: The request.
        expected_path: Where deliveries are expected.
        known_names: The names of events that the vendor documents.
    """
    event, reply, body = request.event, request.reply, request.body
    headers = {name.lower(): value for name, value in request.headers}
    return {
        "number": request.number,
        "answered": (None if request.path == expected_path else 404) if reply is None else reply.status,
        "asked_again": request.asked_again,
        "body": {
            "bytes": None if body is None else len(body),
            "framed_by": headers.get("transfer-encoding", "content-length" if "content-length" in headers else None),
            "content_type": headers.get("content-type"),
            "content_encoding": headers.get("content-encoding"),
            "is_json": None if body is None else json_text(body) is not None,
        },
        "signature": {
            "accepted": request.accepted is not None,
            "key": request.accepted,
            "reason": None if request.problem is None else request.problem.reason,
            "verdict": _verdict(request),
            "readings": [asdict(reading) for reading in request.readings],
        },
        "event": None if event is None else _event_record(event, known_names),
        "identity": None if event is None else event.identity.hex(),
        "compared": None if request.attempt is None or request.earlier is None else _compare(request.earlier, request.attempt),
    }


def report_lines(request: CapturedRequest, expected_path: str, report: Mapping[str, Any], file: str | None) -> Iterator[str]:
    """Yield the lines of a report for people."""
    event = request.event
    name = event.name if request.ours and event is not None and event.name else f"{request.method} {request.target}"
    attempt = f", attempt {event.attempt}" if event is not None and event.attempt and request.ours else ""
    yield f"{request.number}. {name}{attempt}: {_answer_words(request, expected_path)}"
    if file is not None:
        yield f"   file: {file}"
    yield f"   signature: {report['signature']['verdict']}"
    if request.ours and event is not None:
        yield f"   event: {_event_words(event)}"
        yield f"   identity: {event.identity.hex()}"
    if report["compared"] is not None:
        yield f"   {_comparison_words(report['compared'])}"


def _verdict(request: CapturedRequest) -> str:
    matching = [reading for reading in request.readings if reading.ours]
    if request.accepted is not None:
        plain = next((reading for reading in matching if not reading.differs), None)
        return f"accepted: {plain.reads_as}." if plain is not None else f"accepted: key {request.accepted}."
    if matching:
        reading = matching[0]
        return f"NOT accepted, though it reads as {reading.reads_as}: {'; '.join(reading.differs)}. {_REPORT_IT}"
    if request.body is None:
        return "not checked: the body was not read."
    why = "" if request.problem is None else f"{str(request.problem).rstrip('.')}. "
    return f"not accepted: {why}{_NO_READING if request.readings else 'It contains no digest.'}"


def _answer_words(request: CapturedRequest, expected_path: str) -> str:
    if request.path != expected_path:
        return f"answered 404, because deliveries are expected at {expected_path}"
    if request.reply is None:
        return "refused before its body was read, or its body did not arrive"
    again = " after it was stored, so that it is sent again" if request.asked_again else ""
    return f"answered {request.reply.status}{again}"


def _event_record(event: Event, known_names: frozenset[str]) -> dict[str, Any]:
    return {
        "name": event.name,
        "known_name": event.name in known_names,
        "occurred_at": event.occurred_at,
        "correlation_id": event.correlation_id,
        "attempt": event.attempt,
        "operations": [ref.as_dict() for ref in operations_of(event)],
        "key": event.key,
        "settles": event.resource is not None,
        "problem": event.problem,
    }


def _event_words(event: Event) -> str:
    if event.problem:
        return f"a dead letter: {event.problem.rstrip('.')}."
    if event.ref is None:
        return "it names no operation."
    more = f" and {len(event.also)} more" if event.also else ""
    settles = "it settles the operation" if event.resource is not None else "it does not settle the operation, a poll will"
    return f"{event.ref.kind} {event.ref.uid}{more}; {settles}."


def _compare(first: Attempt, second: Attempt) -> dict[str, Any]:
    """Return what differs between two attempts: the names of members and headers, without values."""
    one, other = _members(first.event.body), _members(second.event.body)
    return {
        "of_delivery": first.number,
        "identity_kept": first.event.identity == second.event.identity,
        "same_bytes": first.event.body == second.event.body,
        "members": None if one is None or other is None else _changes(one, other),
        "headers": _changes(_by_name(first.headers), _by_name(second.headers)),
    }


def _changes(one: Mapping[str, object], other: Mapping[str, object]) -> dict[str, list[str]]:
    return {
        "changed": _first(name for name in one if name in other and one[name] != other[name]),
        "added": _first(name for name in other if name not in one),
        "gone": _first(name for name in one if name not in other),
    }


def _first(names: Iterable[str]) -> list[str]:
    return list(names)[:_MAX_NAMES]


def _members(body: bytes) -> dict[str, str] | None:
    """Return the values of a JSON body by their paths, None if it is not JSON."""
    text = json_text(body)
    if text is None:
        return None
    values: dict[str, str] = {}

    def note(path: Path, value: str | None) -> None:
        values[".".join(path)] = value or ""

    rewrite_json(text, note)
    return values


def _by_name(headers: Headers) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in headers:
        if name.lower() not in _HOP_BY_HOP:
            values.setdefault(name.lower(), []).append(value)
    return values


def _comparison_words(compared: Mapping[str, Any]) -> str:
    identity = "the same identity" if compared["identity_kept"] else "ANOTHER identity, so it counts as a new event"
    members = "the same bytes" if compared["same_bytes"] else _change_words(compared["members"], "members")
    headers = _change_words(compared["headers"], "headers")
    return f"compared with {compared['of_delivery']}: {identity}; {members}; {headers}."


def _change_words(changes: Mapping[str, Sequence[str]] | None, what: str) -> str:
    if changes is None:
        return "not JSON"
    words = [f"{how} {', '.join(names)}" for how, names in changes.items() if names]
    return f"{what} {'; '.join(words)}" if words else f"no changed {what}"
