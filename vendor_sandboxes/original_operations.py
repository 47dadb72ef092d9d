"""What the sandboxed Original accepts and the blockchain settles later, whatever its kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any

from attrs import define, field

if TYPE_CHECKING:
    from vendor_sandboxes.options import OriginalOptions

KINDS = ("allocation", "claim", "asset", "edit", "transfer", "burn", "deposit", "collection", "reward")
_PENDING = ("pending", "deploying")
_DONE = ("done", "deployed")


def timestamp(now: float, suffix: str = "Z") -> str:
    """Return a time as the vendor writes it: `Z` in resources, `+00:00` in webhooks."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + suffix


@define(kw_only=True, eq=False)
class Operation(ABC):
    """Something that the vendor has accepted and the blockchain settles later.

    Attributes:
        kind: One of `KINDS`.
        uid: Its uid; that of an edit is the uid of the asset.
        stuck: Whether it failed on the blockchain, which the vendor shows as pending for ever.
        deliveries: Number of its webhooks that were answered with 2xx.
        history: Every status, in order.
    """

    kind: str
    uid: str
    committed_at: float
    status: str = "pending"
    confirmed_at: float | None = None
    stuck: bool = False
    deliveries: int = 0
    history: list[str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.history = [self.status]

    @property
    def pending(self) -> bool:
        """Whether the blockchain has not settled it."""
        return self.status in _PENDING

    @property
    def done(self) -> bool:
        """Whether the blockchain carried it out."""
        return self.status.lower() in _DONE

    def settle(self, status: str, now: float) -> None:
        """Set the status."""
        self.status = status
        self.history.append(status)
        self.confirmed_at = now

    @abstractmethod
    def resource(self, options: OriginalOptions, now: float, /) -> str:
        """Return the operation as the vendor's JSON text at the time `now`."""

    @abstractmethod
    def entry(self) -> dict[str, Any]:
        """Return its entry in the report."""

    def course(self) -> dict[str, Any]:
        """Return the members that the entries of all kinds share."""
        return {
            "uid": self.uid,
            "status": self.status,
            "history": list(self.history),
            "committed_at": self.committed_at,
            "confirmed_at": self.confirmed_at,
            "deliveries": self.deliveries,
        }


class Operations:
    """The operations of one app, by kind; equal seeds give equal uids.

    Attributes:
        by_uid: Kind to uid to the operation; for an edit, the latest of the asset.
        by_user: Kind to user to the operations that lists of the user show.
    """

    def __init__(self, seed: int, clock: Callable[[], float]) -> None:
        self.now = clock
        self.by_uid: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        self.by_user: dict[str, dict[str, list[Any]]] = {kind: {} for kind in KINDS}
        self._first = Random(f"{seed}/uids").randrange(10**11, 9 * 10**11)
        self._given: Counter[str] = Counter()

    def next_uid(self, kind: str) -> str:
        """Return a uid of twelve digits, unique within a kind; two kinds may share one, as in the vendor's samples."""
        self._given[kind] += 1
        return str(self._first + self._given[kind])

    def keep(self, operation: Operation, user_uid: str | None = None) -> None:
        """Keep an operation, in the lists of the user if one is given."""
        self.by_uid[operation.kind][operation.uid] = operation
        if user_uid is not None:
            self.by_user[operation.kind].setdefault(user_uid, []).append(operation)

    def pending(self) -> list[Operation]:
        """Return the operations that the blockchain has not settled."""
        return [each for kind in self.by_uid.values() for each in kind.values() if each.pending]
