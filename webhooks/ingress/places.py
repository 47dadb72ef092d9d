"""Who may hold a connection, and who gives way where no place is left.

A signed delivery is through in milliseconds. So a newcomer is let in wherever somebody else can go, and who has least to lose
goes: first those that have their answer, then the idle ones, then those that have not sent their headers, then the body that came
slowest; of those alike one of the peer that holds most connections. No body is safe by its pace alone, or strangers could hold
every place at that pace. Only a delivery that has arrived and waits for its answer is never cut off, unless what came before it
over the same connection was not signed, or strangers could hold every place by asking faster than they are answered. Where there
is nothing else, the newcomer is asked to come again (429).
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from webhooks.ingress.peers import Shares

if TYPE_CHECKING:
    from webhooks.ingress.limits import ArmourLimits
    from webhooks.ingress.peers import Address
    from webhooks.refusals import Refusals

FRESH_SECONDS = 1.0
"""So long a connection may have done nothing yet without being among the first that go."""

_HEAD_START = 16_384
_AT_ONCE = 16


class Phase(Enum):
    """What a connection waits for."""

    IDLE = auto()
    HEADERS = auto()
    BODY = auto()
    ANSWER = auto()
    CLOSING = auto()


class Seated(Protocol):
    """A connection, as far as its place goes.

    Attributes:
        peer: Who is at the other end.
        phase: What it waits for.
        since: When that began, in seconds of the loop; later by as long as it was not read from for want of memory.
        stopped: Since when it has not been read from for want of memory, None while it is.
        received: Bytes that came since, while it waits for headers or a body.
        unsigned: Whether the last delivery over it was signed by nobody.
    """

    peer: Address | None
    phase: Phase
    since: float
    stopped: float | None
    received: int
    unsigned: bool

    @property
    def writing_paused(self) -> bool:
        """Whether the peer is slow to read its answers."""
        ...

    def give_way(self) -> int | None:
        """End at once, and return the status that was answered, None if nothing was."""
        ...


class Places:
    """Hand out places, in all and to each peer.

    Args:
        limits: `connections` in all, `connections_per_peer` of one peer.
        refusals: Hears of each connection that had to give way.
        clock: The loop's time.
    """

    def __init__(self, limits: ArmourLimits, refusals: Refusals, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._refusals = refusals
        self._clock = clock
        self._held: dict[Seated, tuple[int, ...]] = {}
        self._peers: Shares[Seated] = Shares(limits.connections_per_peer)
        self._clients: Shares[Seated] = Shares(limits.connections_per_peer)
        self._next: deque[tuple[Seated, float, int]] = deque()

    def enter(self, connection: Seated, keys: tuple[int, ...]) -> str | None:
        """Give a connection a place.

        Args:
            connection: A new one.
            keys: The shares that it counts in, none for a trusted proxy.

        Returns:
            None, or which limit leaves no place for it.
        """
        if not self._make_room_in(self._peers, keys):
            return "connections_per_peer"
        if len(self._held) >= self._limits.connections and not self._make_room():
            return "connections"
        self._held[connection] = keys
        self._peers.enter(keys, connection)
        return None

    def leave(self, connection: Seated) -> None:
        """Take back a place; nothing happens if there is none."""
        self._peers.leave(self._held.pop(connection, ()), connection)

    def beside(self, connection: Seated) -> int:
        """Return how many connections its peer has, this one among them; 0 where they are not counted."""
        return self._peers.held(self._held.get(connection, ()))

    def enter_client(self, connection: Seated, keys: tuple[int, ...]) -> bool:
        """Count the request of a client behind a trusted proxy, or return False where its share leaves no room for it."""
        if not self._make_room_in(self._clients, keys):
            return False
        self._clients.enter(keys, connection)
        return True

    def leave_client(self, connection: Seated, keys: tuple[int, ...]) -> None:
        """Count that request no longer."""
        self._clients.leave(keys, connection)

    def evict(self, connection: Seated) -> None:
        """End a connection, for others to have its place at once."""
        self.leave(connection)
        self._refusals.note("evicted", connection.peer, status=connection.give_way())

    def _make_room_in(self, shares: Shares[Seated], keys: tuple[int, ...]) -> bool:
        while (crowd := shares.crowd(keys)) is not None:
            going = self._least_to_lose(crowd, 1)
            if not going:
                return False
            for held in keys, self._held.get(going[0], ()):
                shares.leave(held, going[0])
            self.evict(going[0])
        return True

    def _make_room(self) -> bool:
        """Evict one of all. To look over all of them for each newcomer would cost more than to serve it: so look for several."""
        while self._next:
            connection, since, received = self._next.popleft()
            if connection in self._held and (connection.since, connection.received) == (since, received):  # as it was found
                self.evict(connection)
                return True
        going = self._least_to_lose(self._held, 1 + len(self._held) // _AT_ONCE)
        self._next.extend((connection, connection.since, connection.received) for connection in going[1:])
        if not going:
            return False
        self.evict(going[0])
        return True

    def _least_to_lose(self, connections: Iterable[Seated], count: int) -> list[Seated]:
        now = self._clock()
        ranked = (
            (rank[0], -self.beside(each), rank[1], number, each)
            for number, each in enumerate(connections)
            if (rank := _rank(each, now)) is not None
        )
        return [found[-1] for found in heapq.nsmallest(count, ranked)]


def _rank(connection: Seated, now: float) -> tuple[int, float] | None:
    """Return what goes before what; None for what does not go."""
    age, phase = (now if connection.stopped is None else connection.stopped) - connection.since, connection.phase
    if phase is Phase.CLOSING or (connection.unsigned and phase in (Phase.IDLE, Phase.ANSWER)):
        return 0, -age
    if phase is Phase.ANSWER:
        return (0, -age) if connection.writing_paused and age >= FRESH_SECONDS else None
    if phase is not Phase.BODY and age >= FRESH_SECONDS:
        return (1 if phase is Phase.IDLE else 2), -age
    return 3, (connection.received + _HEAD_START) / (age + FRESH_SECONDS)
