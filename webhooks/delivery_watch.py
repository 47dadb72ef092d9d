"""The deliveries of this process, as long as somebody looks at them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

from attrs import frozen

from rewards_core.text import one_line

if TYPE_CHECKING:
    from webhooks.refusals import Refusal

DeliveryVerdict = Literal["new", "duplicate", "dead letter", "not kept", "refused"]
"""What became of a delivery."""

_SIZE, _SIZE_OF_CHARACTER = 900, 12
"""Bytes of JSON that a row has at most without its texts, and that a character takes if it is escaped."""
_MAX_SIGNED = 2_000
_MAX_REFUSED = 200
_MAX_TEXT = 200
_MAX_SIZE = 800_000
"""Bytes of JSON that one `take` returns at most; a worker sends it as one message, which may have 1 MiB."""


@frozen(kw_only=True)
class Delivery:
    """One delivery, without its body.

    Attributes:
        at: When it was answered, Unix time.
        verdict: What became of it; `not kept` if the store failed.
        event: The vendor's event name, empty if unknown.
        scope: The scope of its source, None if it was refused.
        kind: The kind of the operation in it, None if there is none.
        uid: The uid of that operation.
        identity: The identity of its event, None if it was refused.
        reason: Why it was refused or is a dead letter, else None.
        status: The HTTP status of the answer, None if the connection was closed without one.
        size: The length of its body in bytes, None if unknown.
        seconds: From the whole body to the answer, None if it was refused.
        path: The path that received it, None if unknown.
        peer: The client's address, None if unknown.
    """

    at: float
    verdict: DeliveryVerdict
    event: str = ""
    scope: str | None = None
    kind: str | None = None
    uid: str | None = None
    identity: bytes | None = None
    reason: str | None = None
    status: int | None = None
    size: int | None = None
    seconds: float | None = None
    path: str | None = None
    peer: str | None = None

    @classmethod
    def refused(cls, refusal: Refusal) -> Delivery:
        """Return a refused delivery or connection."""
        return cls(
            at=refusal.last_at,
            verdict="refused",
            reason=refusal.reason,
            status=refusal.status,
            size=refusal.length,
            path=refusal.path,
            peer=refusal.peer,
        )


DeliveryObserver = Callable[[Delivery], None]
"""Called with each delivery, in the event loop. It must return quickly and should not raise."""


class DeliveryWatch:
    """Collect deliveries from one `take` to the next, within limits; strangers displace no signed delivery.

    Args:
        connect: Called with the observer when somebody begins to look, and with None when nobody does any more.
    """

    def __init__(self, connect: Callable[[Callable[[Delivery, str | None], None] | None], None]) -> None:
        self._connect = connect
        self._watching = False
        self._signed: deque[tuple[Delivery, str | None]] = deque(maxlen=_MAX_SIGNED)
        self._refused: deque[tuple[Delivery, str | None]] = deque(maxlen=_MAX_REFUSED)
        self._counts: Counter[str] = Counter()

    def take(self) -> dict[str, Any]:
        """Return the deliveries since the last call as JSON values, oldest first, and how many there were of each verdict."""
        if not self._watching:
            self._watching = True
            self._connect(self._add)
        newest_first = sorted((*self._signed, *self._refused), key=lambda one: one[0].at, reverse=True)
        counts, rows, size = dict(self._counts), [], 0
        self._clear()
        for one in newest_first:
            row = _row(*one)
            size += _SIZE + sum(_SIZE_OF_CHARACTER * len(row[name] or "") for name in ("event", "uid", "reason"))
            if size > _MAX_SIZE:
                break
            rows.append(row)
        return {"rows": rows[::-1], "counts": counts}

    def rest(self) -> None:
        """Collect nothing until the next `take`; idempotent."""
        if self._watching:
            self._watching = False
            self._connect(None)
            self._clear()

    def _clear(self) -> None:
        for kept in (self._signed, self._refused, self._counts):
            kept.clear()

    def _add(self, delivery: Delivery, path: str | None) -> None:
        self._counts[delivery.verdict] += 1
        (self._refused if delivery.verdict == "refused" else self._signed).append((delivery, path))


def _row(delivery: Delivery, path: str | None) -> dict[str, Any]:
    return {
        "at": delivery.at,
        "verdict": delivery.verdict,
        "event": one_line(delivery.event, _MAX_TEXT),
        "scope": delivery.scope,
        "kind": delivery.kind,
        "uid": None if delivery.uid is None else delivery.uid[:_MAX_TEXT],
        "identity": None if delivery.identity is None else delivery.identity.hex(),
        "reason": None if delivery.reason is None else one_line(delivery.reason, _MAX_TEXT),
        "status": delivery.status,
        "bytes": delivery.size,
        "ms": None if delivery.seconds is None else round(delivery.seconds * 1_000, 1),
        "path": path or delivery.path,
        "peer": delivery.peer,
    }


def merged_deliveries(taken: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge what several `take` returned."""
    counts: Counter[str] = Counter()
    rows = []
    for each in taken:
        counts.update(each["counts"])
        rows += each["rows"]
    return {"rows": sorted(rows, key=lambda row: row["at"]), "counts": dict(counts)}
