"""The deliveries of this process, collected while somebody watches them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from attrs import define, frozen

from rewards_core.text import one_line
from webhooks.delivery_log import Verdict, peer_text

if TYPE_CHECKING:
    from webhooks.refusals import Refusal

DeliveryVerdict = Literal[Verdict, "refused"]
"""What became of a delivery."""

MAX_ROWS = 50
MAX_REFUSED_ROWS = 10
"""Deliveries, and refused ones beside them, that are shown at a time: what a worker tells its supervisor fits into a message."""
MAX_TEXT = 200


@define(kw_only=True)
class Delivery:
    """One delivery, without its body.

    Attributes:
        at: When it was answered, Unix time.
        verdict: What became of it: `"new"`, `"duplicate"`, `"dead letter"`, `"not kept"` if the store failed, or `"refused"`.
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
        peer: The client's address as its ingress gave it, None if unknown.
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
    peer: object = None

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
"""Called with each delivery, in the event loop. It must return quickly; what it raises is logged."""


@frozen(kw_only=True)
class DeliveryFilter:
    """Which deliveries somebody wants to see; None leaves a condition out."""

    event: str | None = None
    uid: str | None = None
    verdict: str | None = None

    def fits(self, event: str, uid: str | None, verdict: str) -> bool:
        """Return whether a delivery matches."""
        return self.event in {None, event} and self.uid in {None, uid} and self.verdict in {None, verdict}


EVERYTHING = DeliveryFilter()
NOTHING: Mapping[str, Any] = {"rows": [], "left_out": 0}
"""What is shown where nothing matches a filter."""


class _Ring:
    """The newest deliveries that match a filter; strangers displace no signed delivery."""

    def __init__(self) -> None:
        self.signed: deque[Delivery] = deque(maxlen=MAX_ROWS)
        self.refused: deque[Delivery] = deque(maxlen=MAX_REFUSED_ROWS)
        self.count = 0

    def add(self, delivery: Delivery) -> None:
        self.count += 1
        (self.refused if delivery.verdict == "refused" else self.signed).append(delivery)

    def fitting(self, which: DeliveryFilter) -> _Ring:
        """Return those that match another filter."""
        found = _Ring()
        for one in (*self.refused, *self.signed):
            if which.fits(one.event, one.uid, one.verdict):
                found.add(one)
        return found

    def shown(self) -> dict[str, Any]:
        rows = sorted((row_of(one) for one in (*self.refused, *self.signed)), key=_moment)
        return {"rows": rows, "left_out": self.count - len(rows)}


class DeliveryWatch:
    """Collect deliveries from one `take` to the next: for each filter of the last one those that are shown, and their count.

    No more is kept: what is kept for long costs more than to keep it, as memory in use leaves the processor's caches.

    Args:
        connect: Called with the observer when somebody begins to look, and with None when nobody does any more.
    """

    def __init__(self, connect: Callable[[DeliveryObserver | None], None]) -> None:
        self._connect = connect
        self._watching = False
        self._rings: dict[DeliveryFilter, _Ring] = {}
        self._counts: Counter[str] = Counter()

    def take(self, filters: Sequence[DeliveryFilter]) -> dict[str, Any]:
        """Return the deliveries since the last call; those for a new filter are chosen from the newest of all.

        Returns:
            JSON values: `counts`, how many there were of each verdict; and `shown`, for each filter its newest `rows`, oldest
            first, and how many were `left_out`.
        """
        if not self._watching:
            self._watching = True
            self._connect(self._add)
        counts, rings = dict(self._counts), self._rings
        self._counts.clear()
        self._rings = {which: _Ring() for which in (EVERYTHING, *filters)}
        everything = rings.get(EVERYTHING, _Ring())
        return {"counts": counts, "shown": [(rings.get(which) or everything.fitting(which)).shown() for which in filters]}

    def rest(self) -> None:
        """Collect nothing until the next `take`; idempotent."""
        if self._watching:
            self._watching = False
            self._connect(None)
            self._counts.clear()
            self._rings = {}

    def _add(self, delivery: Delivery) -> None:
        self._counts[delivery.verdict] += 1
        for which, ring in self._rings.items():
            if which is EVERYTHING or which.fits(delivery.event, delivery.uid, delivery.verdict):
                ring.add(delivery)


def newest_rows(rows: Iterable[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Return the newest of some rows, oldest first, no more than are shown at a time, and how many were left out."""
    left = {True: MAX_REFUSED_ROWS, False: MAX_ROWS}
    chosen: list[dict[str, Any]] = []
    left_out = 0
    for row in sorted(rows, key=_moment)[::-1]:
        refused = row["verdict"] == "refused"
        left[refused] -= 1
        if left[refused] >= 0:
            chosen.append(row)
        else:
            left_out += 1
    return chosen[::-1], left_out


def merged_deliveries(taken: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge what several calls of `take` with the same filters returned."""
    counts: Counter[str] = Counter()
    for each in taken:
        counts.update(each["counts"])
    shown = []
    for parts in zip(*(each["shown"] for each in taken), strict=True):
        rows, left_out = newest_rows(row for part in parts for row in part["rows"])
        shown.append({"rows": rows, "left_out": left_out + sum(part["left_out"] for part in parts)})
    return {"counts": dict(counts), "shown": shown}


def _moment(row: Mapping[str, Any]) -> float:
    return float(row["at"])


def row_of(delivery: Delivery) -> dict[str, Any]:
    """Return a delivery as JSON values."""
    return {
        "at": delivery.at,
        "verdict": delivery.verdict,
        "event": one_line(delivery.event, MAX_TEXT),
        "scope": delivery.scope,
        "kind": delivery.kind,
        "uid": None if delivery.uid is None else delivery.uid[:MAX_TEXT],
        "identity": None if delivery.identity is None else delivery.identity.hex(),
        "reason": None if delivery.reason is None else one_line(delivery.reason, MAX_TEXT),
        "status": delivery.status,
        "bytes": delivery.size,
        "ms": None if delivery.seconds is None else round(delivery.seconds * 1_000, 1),
        "path": delivery.path,
        "peer": peer_text(delivery.peer),
    }
