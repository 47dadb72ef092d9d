"""Limits of the hardened server: timeouts, sizes and quotas."""

from __future__ import annotations

from attrs import field, frozen

from rewards_core.validation import number, whole


@frozen(kw_only=True)
class ServerLimits:
    """Timeouts in seconds, above 0; sizes in bytes and counts, 1 or more. The receiver has the limits of a single body.

    Attributes:
        header_bytes: Longest request line and headers together; beyond it 431.
        header_seconds: From connecting, or from the first byte of a later request, to the end of the headers; beyond it 408.
        answer_seconds: From the end of the body until the peer has read the answer; beyond it the connection is aborted.
        idle_seconds: How long a connection stays open between requests. It must exceed the idle timeout of any proxy in front, or
            now and then a delivery reaches a connection that is just closing, and the proxy answers 502.
        linger_seconds: How long the rest of a refused body is read and discarded, so that the refusal arrives.
        drain_grace_seconds: How long idle connections stay open while draining, for requests already on their way.
        connections: In total. Beyond it one is evicted: one that has its answer, an idle one, one without a request, or the
            slowest body, in this order. If all wait for their answers, the newcomer gets 429.
        connections_per_peer: Per address (IPv6: per /64, and four times as many per /56), or requests at a time per forwarded
            address. Beyond it one connection of the same peer is evicted in the same order, or the newcomer gets 429.
        handshakes: TLS handshakes in progress, in total and beside the open connections; beyond it the oldest is evicted. One
            peer may have `connections_per_peer` of them.
        buffered_bytes: Memory of all bodies in progress; beyond it they wait, and their peers are not read from.

    Raises:
        TypeError: an attribute is not a number, or a count is not a whole number.
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
        """The shortest of all timeouts."""
        return min(self.header_seconds, self.answer_seconds, self.idle_seconds, self.linger_seconds, self.drain_grace_seconds)
