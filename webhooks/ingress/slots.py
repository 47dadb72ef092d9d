"""Connection slots: who may hold a connection, and which connection is evicted when none is free.

A signed delivery takes milliseconds. So a newcomer always gets a slot if any other connection can be evicted, in this order:

1. connections that have received their answer,
2. idle connections,
3. connections that have not sent their headers,
4. the body that arrived most slowly.

Among equals the peer with the most connections loses one. No body is safe because of its pace, or strangers could hold every slot
at that pace. A delivery that has arrived and waits for its answer is never evicted, unless the previous delivery on the same
connection was unsigned: otherwise strangers could hold every slot by sending faster than they are answered. If nothing can be
evicted, the newcomer gets 429.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from webhooks.ingress.peers import PeerQuotas

if TYPE_CHECKING:
    from webhooks.ingress.limits import ServerLimits
    from webhooks.ingress.peers import Address
    from webhooks.refusals import Refusals

FRESH_SECONDS = 1.0
"""A connection this young is not evicted for having done nothing yet."""

_HEAD_START = 16_384
_CANDIDATES_DIVISOR = 16


class Phase(Enum):
    """What a connection waits for."""

    IDLE = auto()
    HEADERS = auto()
    BODY = auto()
    ANSWER = auto()
    CLOSING = auto()


class SlotHolder(Protocol):
    """A connection, as far as its slot is concerned."""

    peer: Address | None
    phase: Phase
    since: float  # when the phase began, in the loop's time, without pauses for body memory
    paused_since: float | None  # when reading was paused for lack of body memory
    received: int  # in this phase
    unsigned: bool  # whether the last delivery had no valid signature

    @property
    def writing_paused(self) -> bool:
        """Whether the peer is slow to read its answers."""
        ...

    def evict(self) -> int | None:
        """Close at once, and return the status that was sent, None if nothing was."""
        ...


class ConnectionSlots:
    """Allocate connection slots, in total and per peer."""

    def __init__(self, limits: ServerLimits, refusals: Refusals, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._refusals = refusals
        self._clock = clock
        self._held: dict[SlotHolder, tuple[int, ...]] = {}
        self._peers: PeerQuotas[SlotHolder] = PeerQuotas(limits.connections_per_peer)
        self._clients: PeerQuotas[SlotHolder] = PeerQuotas(limits.connections_per_peer)
        self._candidates: deque[tuple[SlotHolder, float, int]] = deque()

    def acquire(self, connection: SlotHolder, keys: tuple[int, ...]) -> str | None:
        """Give a new connection a slot, or return the limit that prevents it; a trusted proxy has no `keys` of quotas."""
        if not self._make_room_in(self._peers, keys):
            return "connections_per_peer"
        if len(self._held) >= self._limits.connections and not self._make_room():
            return "connections"
        self._held[connection] = keys
        self._peers.add(keys, connection)
        return None

    def release(self, connection: SlotHolder) -> None:
        """Free a connection's slot, if it has one."""
        self._peers.remove(self._held.pop(connection, ()), connection)

    def connections_of_peer(self, connection: SlotHolder) -> int:
        """Return how many connections its peer has, including this one; 0 for a peer without a quota."""
        return self._peers.count(self._held.get(connection, ()))

    def acquire_client(self, connection: SlotHolder, keys: tuple[int, ...]) -> bool:
        """Count the request of a client behind a trusted proxy; return False if its quota is used up."""
        if not self._make_room_in(self._clients, keys):
            return False
        self._clients.add(keys, connection)
        return True

    def release_client(self, connection: SlotHolder, keys: tuple[int, ...]) -> None:
        """Stop counting a request that `acquire_client` counted."""
        self._clients.remove(keys, connection)

    def evict(self, connection: SlotHolder) -> None:
        """Close a connection and free its slot at once."""
        self.release(connection)
        self._refusals.note("evicted", connection.peer, status=connection.evict())

    def _make_room_in(self, quotas: PeerQuotas[SlotHolder], keys: tuple[int, ...]) -> bool:
        while (members := quotas.members_if_full(keys)) is not None:
            victims = self._eviction_candidates(members, 1)
            if not victims:
                return False
            for held in keys, self._held.get(victims[0], ()):
                quotas.remove(held, victims[0])
            self.evict(victims[0])
        return True

    def _make_room(self) -> bool:
        """Evict one of all connections. A scan costs more than serving the newcomer, so each scan finds several candidates."""
        while self._candidates:
            connection, since, received = self._candidates.popleft()
            unchanged = (connection.since, connection.received) == (since, received)
            if connection in self._held and unchanged:
                self.evict(connection)
                return True
        victims = self._eviction_candidates(self._held, 1 + len(self._held) // _CANDIDATES_DIVISOR)
        self._candidates.extend((connection, connection.since, connection.received) for connection in victims[1:])
        if not victims:
            return False
        self.evict(victims[0])
        return True

    def _eviction_candidates(self, connections: Iterable[SlotHolder], count: int) -> list[SlotHolder]:
        now = self._clock()
        ranked = (
            (rank[0], -self.connections_of_peer(each), rank[1], number, each)
            for number, each in enumerate(connections)
            if (rank := _rank(each, now)) is not None
        )
        return [found[-1] for found in heapq.nsmallest(count, ranked)]


def _rank(connection: SlotHolder, now: float) -> tuple[int, float] | None:
    """Return the eviction order, lowest first; None for a connection that must not be evicted."""
    age, phase = (now if connection.paused_since is None else connection.paused_since) - connection.since, connection.phase
    if phase is Phase.CLOSING or (connection.unsigned and phase in (Phase.IDLE, Phase.ANSWER)):
        return 0, -age
    if phase is Phase.ANSWER:
        return (0, -age) if connection.writing_paused and age >= FRESH_SECONDS else None
    if phase is not Phase.BODY and age >= FRESH_SECONDS:
        return (1 if phase is Phase.IDLE else 2), -age
    return 3, (connection.received + _HEAD_START) / (age + FRESH_SECONDS)
