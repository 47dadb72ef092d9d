"""What a captured request was: how its signature reads, what its event says, what an attempt changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import asdict, frozen

from original_async.signature_readings import Reading
from rewards_core.errors import SignatureError
from rewards_core.operations import Event
from webhooks.cli.capture.arrivals import Arrival
from webhooks.cli.capture.attempts import difference
from webhooks.cli.capture.json_text import readable
from webhooks.cli.sources import ReloadableSource
from webhooks.store.listing import operations_of

_NO_READING = (
    "No reading of it fits a configured key: the body was changed on the way, the secret is not this app's, or the sender is not "
    "the vendor."
)
_REPORT_IT = "Please report this with the sample: verify must learn it."


@frozen(kw_only=True)
class Capture:
    """A request with all that is known of it.

    Attributes:
        number: Its number among those that were captured.
        path: Where deliveries are expected.
        arrival: The request.
        accepted: The id of the key by which it verified, None if it did not.
        problem: Why it did not verify, None if it did.
        readings: How its signature reads.
    """

    number: int
    path: str
    arrival: Arrival
    accepted: str | None
    problem: SignatureError | None
    readings: Sequence[Reading]

    @property
    def event(self) -> Event | None:
        """What its body says, None where it was not read."""
        return None if self.arrival.attempt is None else self.arrival.attempt.event

    @property
    def ours(self) -> bool:
        """Whether a configured secret signed it, in a way that verify accepts or in another one."""
        return self.accepted is not None or any(reading.ours for reading in self.readings)

    @property
    def kept(self) -> bool:
        """Whether its event is in the store."""
        reply = self.arrival.reply
        return self.accepted is not None and reply is not None and (reply.status == 200 or self.arrival.asked_again)

    @property
    def misread(self) -> bool:
        """Whether a configured secret signed it in a way that verify does not accept."""
        return self.ours and self.accepted is None


def verified(source: ReloadableSource, headers: Mapping[str, str], body: bytes) -> tuple[str | None, SignatureError | None]:
    """Return the id of the key by which a delivery verifies, or why it does not."""
    try:
        return source.verify(headers, body), None
    except SignatureError as problem:
        return None, problem


def report_of(capture: Capture, known_names: frozenset[str]) -> dict[str, Any]:
    """Return what a program reads of a captured request.

    Args:
        capture: The request.
        known_names: The names of events that the vendor documents.
    """
    arrival, event = capture.arrival, capture.event
    reply = arrival.reply
    headers = {name.lower(): value for name, value in arrival.headers}
    return {
        "number": capture.number,
        "answered": (None if arrival.path == capture.path else 404) if reply is None else reply.status,
        "asked_again": capture.arrival.asked_again,
        "body": {
            "bytes": None if arrival.body is None else len(arrival.body),
            "framed_by": headers.get("transfer-encoding", "content-length" if "content-length" in headers else None),
            "content_type": headers.get("content-type"),
            "content_encoding": headers.get("content-encoding"),
            "is_json": None if arrival.body is None else readable(arrival.body) is not None,
        },
        "signature": {
            "accepted": capture.accepted is not None,
            "key": capture.accepted,
            "reason": None if capture.problem is None else capture.problem.reason,
            "verdict": verdict(capture),
            "readings": [asdict(reading) for reading in capture.readings],
        },
        "event": None if event is None else _event_record(event, known_names),
        "identity": None if event is None else event.identity.hex(),
        "compared": _compared(arrival),
    }


def lines_of(capture: Capture, report: Mapping[str, Any], file: str | None) -> Iterator[str]:
    """Yield what a person reads of a captured request."""
    arrival, event = capture.arrival, capture.event
    name = event.name if capture.ours and event is not None and event.name else f"{arrival.method} {arrival.target}"
    attempt = f", attempt {event.attempt}" if event is not None and event.attempt and capture.ours else ""
    yield f"{capture.number}. {name}{attempt}: {_answered_words(capture)}"
    if file is not None:
        yield f"   file: {file}"
    yield f"   signature: {report['signature']['verdict']}"
    if capture.ours and event is not None:
        yield f"   event: {_event_words(event)}"
        yield f"   identity: {event.identity.hex()}"
    if report["compared"] is not None:
        yield f"   {_compared_words(report['compared'])}"


def verdict(capture: Capture) -> str:
    """Return in a sentence how the signature reads, and what to do."""
    fitting = [reading for reading in capture.readings if reading.ours]
    if capture.accepted is not None:
        plain = next((reading for reading in fitting if not reading.differs), None)
        return f"accepted: {plain.reads_as}." if plain is not None else f"accepted: key {capture.accepted}."
    if fitting:
        reading = fitting[0]
        return f"NOT accepted, though it reads as {reading.reads_as}: {'; '.join(reading.differs)}. {_REPORT_IT}"
    if capture.arrival.body is None:
        return "not looked at: the body was not read."
    why = "" if capture.problem is None else f"{str(capture.problem).rstrip('.')}. "
    return f"not accepted: {why}{_NO_READING if capture.readings else 'There is no digest in it.'}"


def _answered_words(capture: Capture) -> str:
    arrival = capture.arrival
    if arrival.path != capture.path:
        return f"answered 404, for deliveries are expected at {capture.path}"
    if arrival.reply is None:
        return "refused before it was read, or its body did not arrive"
    again = ", though it is kept, so that it comes again" if arrival.asked_again else ""
    return f"answered {arrival.reply.status}{again}"


def _event_record(event: Event, known_names: frozenset[str]) -> dict[str, Any]:
    return {
        "name": event.name,
        "known_name": event.name in known_names,
        "occurred_at": event.occurred_at,
        "correlation_id": event.correlation_id,
        "attempt": event.attempt,
        "operations": [{"scope": ref.scope, "kind": ref.kind, "uid": ref.uid} for ref in operations_of(event)],
        "key": event.key,
        "settles": event.resource is not None,
        "problem": event.problem,
    }


def _event_words(event: Event) -> str:
    if event.problem:
        return f"a dead letter: {event.problem}."
    if event.ref is None:
        return "names no operation."
    more = f" and {len(event.also)} more" if event.also else ""
    settles = "settles it" if event.resource is not None else "does not settle it by itself: the vendor is asked"
    return f"{event.ref.kind} {event.ref.uid}{more}; {settles}."


def _compared(arrival: Arrival) -> dict[str, Any] | None:
    if arrival.attempt is None or arrival.earlier is None:
        return None
    return difference(arrival.earlier, arrival.attempt)


def _compared_words(compared: Mapping[str, Any]) -> str:
    identity = "the same identity" if compared["identity_kept"] else "ANOTHER identity, so that it counts as a further event"
    members = "the same bytes" if compared["same_bytes"] else _changed_words(compared["members"], "members")
    headers = _changed_words(compared["headers"], "headers")
    return f"compared with {compared['of_delivery']}: {identity}; {members}; {headers}."


def _changed_words(changes: Mapping[str, Sequence[str]] | None, what: str) -> str:
    if changes is None:
        return "no JSON to compare"
    told = [f"{how} {', '.join(names)}" for how, names in changes.items() if names]
    return f"{what} {'; '.join(told)}" if told else f"no other {what}"
