"""The acceptor: accepts connections, limits and performs TLS handshakes, and passes the connections on.

asyncio's own server would take up to a thousand connections at a time from other processes on the socket, drop connections that
it has accepted when it closes, and not count TLS connections before their handshake, so that silent peers would go unlimited.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from webhooks.ingress.peers import Address, Networks, PeerQuotas, quota_keys, read_address

if TYPE_CHECKING:
    import socket
    import ssl

    from webhooks.ingress.limits import ServerLimits
    from webhooks.refusals import Refusals

logger = logging.getLogger("webhooks.listener")

_OUT_OF_FILES_PAUSE = 0.2
_LOG_INTERVAL = 10.0
_MIN_BATCH = 2
_MAX_BATCH = 64
_BATCH_DIVISOR = 16
_EXTRA_PER_SECOND = 1_000


class _HandshakeProtocol(asyncio.Protocol):
    """Makes a connection's protocol only after the handshake: it takes most of the memory of a connection."""

    def __init__(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
        self._make = make

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Switch to the connection's protocol."""
        protocol = self._make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class Acceptor:
    """Accept connections, perform TLS handshakes, and pass the connections on.

    `header_seconds` of the limits is the timeout of a handshake. Beyond `handshakes` in progress, the oldest handshake of the
    peer with most of them is evicted; beyond `connections_per_peer`, the oldest of the same peer. Trusted proxies have no quota.
    """

    def __init__(
        self,
        protocol: Callable[[], asyncio.BaseProtocol],
        context: ssl.SSLContext | None,
        *,
        limits: ServerLimits,
        refusals: Refusals,
        trusted: Networks | None = None,
    ) -> None:
        self._protocol = protocol
        self._tls: dict[str, Any] = {}
        if context is not None:
            self._tls = {
                "ssl": context,
                "ssl_handshake_timeout": limits.header_seconds,
                "ssl_shutdown_timeout": limits.linger_seconds,
            }
        self._limits = limits
        # connections that are evicted for a batch keep their files open until the loop's next iterations
        self._max_batch = min(_MAX_BATCH, max(_MIN_BATCH, limits.connections // _BATCH_DIVISOR))
        self._refusals = refusals
        self._trusted = trusted or Networks()
        self._accepting: dict[socket.socket, asyncio.TimerHandle | None] = {}
        self._handshakes: dict[asyncio.Task[None], tuple[tuple[int, ...], Address | None]] = {}
        self._peers: PeerQuotas[asyncio.Task[None]] = PeerQuotas(limits.connections_per_peer)
        self._backlog_since: dict[socket.socket, float] = {}
        self._next_log_at = float("-inf")

    def open(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on listening, non-blocking sockets, which then belong to the acceptor."""
        for listening in sockets:
            self._start_accepting(listening)

    async def close(self, timeout: float = 0.0) -> None:
        """Stop accepting connections, and wait this long for handshakes in progress, which continue afterwards; idempotent."""
        loop = asyncio.get_running_loop()
        for listening, pause in self._accepting.items():
            loop.remove_reader(listening)
            if pause is not None:
                pause.cancel()
            listening.close()
        self._accepting.clear()
        if self._handshakes and timeout > 0:
            await asyncio.wait(list(self._handshakes), timeout=timeout)

    async def aclose(self) -> None:
        """Stop accepting connections, and cancel handshakes in progress; idempotent."""
        await self.close()
        tasks = list(self._handshakes)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start_accepting(self, listening: socket.socket) -> None:
        self._accepting[listening] = None
        asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        """Accept a small batch: more would delay open connections, and take connections from other processes.

        When open connections keep the loop busy, the batch grows by one for each millisecond since connections were left in the
        backlog; otherwise newcomers would wait ever longer.
        """
        now = asyncio.get_running_loop().time()
        backlog_since = self._backlog_since.pop(listening, now)
        for _ in range(min(_MIN_BATCH + int((now - backlog_since) * _EXTRA_PER_SECOND), self._max_batch)):
            if not self._accept_one(listening):
                return
        self._backlog_since[listening] = now

    def _accept_one(self, listening: socket.socket) -> bool:
        """Accept a connection; return False if none is pending."""
        try:
            connection, name = listening.accept()
        except BlockingIOError:  # none, or another process took it
            return False
        except ConnectionError:  # the peer has left
            return True
        except OSError as problem:
            loop = asyncio.get_running_loop()
            loop.remove_reader(listening)
            self._accepting[listening] = loop.call_later(_OUT_OF_FILES_PAUSE, self._start_accepting, listening)
            if loop.time() >= self._next_log_at:
                self._next_log_at = loop.time() + _LOG_INTERVAL
                logger.error(  # noqa: TRY400 - one line says it
                    "cannot accept connections on %s: %s; retrying", _name_of(listening), problem.strerror
                )
            return False
        connection.setblocking(False)
        self._admit(connection, read_address(name[0]) if isinstance(name, tuple) else None)
        return True

    def _admit(self, connection: socket.socket, peer: Address | None) -> None:
        keys: tuple[int, ...] = ()
        if self._tls:
            if peer is not None and peer not in self._trusted:
                keys = quota_keys(peer)
                while (members := self._peers.members_if_full(keys)) is not None:
                    self._evict(next(iter(members)), "handshakes_per_peer")
            if len(self._handshakes) >= self._limits.handshakes:
                self._evict(max(self._handshakes, key=self._peer_count), "evicted")
        unowned = [connection]
        task = asyncio.create_task(self._handshake(unowned, peer), name="TLS handshake")
        self._handshakes[task] = keys, peer
        self._peers.add(keys, task)
        task.add_done_callback(lambda task: self._finish(task, unowned))

    def _evict(self, task: asyncio.Task[None], reason: str) -> None:
        _, peer = self._handshakes[task]
        self._refusals.note(reason, peer)
        self._remove(task)
        task.cancel()

    def _peer_count(self, task: asyncio.Task[None]) -> int:
        keys, _ = self._handshakes[task]
        return self._peers.count(keys)

    def _remove(self, task: asyncio.Task[None]) -> None:
        keys, _ = self._handshakes.pop(task, ((), None))
        self._peers.remove(keys, task)

    def _finish(self, task: asyncio.Task[None], unowned: list[socket.socket]) -> None:
        self._remove(task)
        for connection in unowned:  # the task was cancelled before it started; otherwise the transport closes the socket
            connection.close()

    def _handshake_protocol(self) -> _HandshakeProtocol:
        return _HandshakeProtocol(self._protocol)

    async def _handshake(self, unowned: list[socket.socket], peer: Address | None) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._handshake_protocol, unowned.pop(), **self._tls)
        except OSError:  # not TLS, an unsupported version, too slow, or closed
            self._refusals.note("handshake", peer)


def _name_of(listening: socket.socket) -> str:
    name = listening.getsockname()
    return f"port {name[1]}" if isinstance(name, tuple) else str(name)
