"""How much one peer may take of the listener's connections."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class ArmourLimits:
    """What one peer may take; times in seconds, sizes in bytes. What a body may take is the receiver's to say.

    Attributes:
        header_bytes: Longest request line and headers together; beyond it 431.
        header_seconds: From connecting, or from the first byte of a later request, to the end of the headers; beyond it 408.
        answer_seconds: From the end of the body until the peer has taken the answer; beyond it the connection is cut.
        idle_seconds: How long a connection is kept between requests.
        linger_seconds: How long the rest of a refused body is read and thrown away, so that the refusal arrives.
        drain_grace_seconds: How long idle connections stay open once draining has begun, for a request already on its way.
        connections: Over all peers; beyond it the connection that would time out next, of those without a request, gives way.
            With TLS as many more may be at shaking hands, and of one address as many as it may have connections.
        connections_per_peer: Of one address (of one /64 for IPv6), or requests at a time of one forwarded address; beyond it 429.
    """

    header_bytes: int = 32_768
    header_seconds: float = 10.0
    answer_seconds: float = 30.0
    idle_seconds: float = 60.0
    linger_seconds: float = 1.0
    drain_grace_seconds: float = 0.5
    connections: int = 1000
    connections_per_peer: int = 100

    @property
    def shortest(self) -> float:
        """The shortest of all times."""
        return min(
            self.header_seconds,
            self.answer_seconds,
            self.idle_seconds,
            self.linger_seconds,
            self.drain_grace_seconds,
        )
