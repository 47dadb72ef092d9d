"""How much one peer may take of the listener's connections."""

from __future__ import annotations

from attrs import field, frozen

from rewards_core.validation import number, whole


@frozen(kw_only=True)
class ArmourLimits:
    """What one peer may take; times in seconds, above 0, sizes in bytes, 1 or more. The receiver says what a body may take.

    Attributes:
        header_bytes: Longest request line and headers together; beyond it 431.
        header_seconds: From connecting, or from the first byte of a later request, to the end of the headers; beyond it 408.
        answer_seconds: From the end of the body until the peer has taken the answer; beyond it the connection is cut.
        idle_seconds: How long a connection is kept between requests: longer than any proxy in front keeps it, or now and then a
            delivery meets a connection that is just being closed, and the proxy answers 502.
        linger_seconds: How long the rest of a refused body is read and thrown away, so that the refusal arrives.
        drain_grace_seconds: How long idle connections stay open once draining has begun, for a request already on its way.
        connections: Over all peers; beyond it the one with least to lose gives way: one that has its answer, an idle one, one
            without a request, then the body that came slowest. Where all wait for their answers a newcomer gets 429.
        connections_per_peer: Of one address (for IPv6 of one /64, and four times as many of one /56), or requests at a time of
            one forwarded address; beyond it the one with least to lose of the same peer gives way, or a newcomer gets 429.
        handshakes: TLS connections that are at shaking hands, over all peers and beside the open ones; beyond it the longest at
            it gives way. Of one peer as many as it may have connections.
        buffered_bytes: What all bodies under way may hold together; beyond it they wait, and their peers are not read from.

    Raises:
        TypeError: an attribute is no number, or not a whole one where that is counted.
        ValueError: one is out of range.
    """

    header_bytes: int = field(default=32_768, validator=whole(at_least=1))
    header_seconds: float = field(default=10.0, validator=number(above=0))
    answer_seconds: float = field(default=30.0, validator=number(above=0))
    idle_seconds: float = field(default=920.0, validator=number(above=0))
    linger_seconds: float = field(default=1.0, validator=number(above=0))
    drain_grace_seconds: float = field(default=0.5, validator=number(above=0))
    connections: int = field(default=1000, validator=whole(at_least=1))
    connections_per_peer: int = field(default=100, validator=whole(at_least=1))
    handshakes: int = field(default=256, validator=whole(at_least=1))
    buffered_bytes: int = field(default=8 * 1024 * 1024, validator=whole(at_least=1))

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
