"""Where connections come in, with TLS or without; hands that are being shaken are counted too.

asyncio's own server would take a thousand connections at a time from the other processes on a socket, drop those that it accepted
as it was closed, and know nothing of a TLS connection until hands are shaken: one that says nothing would be nobody's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from webhooks.ingress.peers import Address, Networks, Shares, peer_keys, read_address

if TYPE_CHECKING:
    import socket
    import ssl

    from webhooks.ingress.limits import ArmourLimits
    from webhooks.refusals import Refusals

logger = logging.getLogger("webhooks.listener")

_OUT_OF_FILES = 0.2
_SILENCE = 10.0
_FEWEST_AT_ONCE = 2
_MOST_AT_ONCE = 64
_PART_AT_ONCE = 16
_MORE_PER_SECOND = 1_000


class _Threshold(asyncio.Protocol):
    """Makes the protocol of a connection once hands are shaken: most memory of a stranger who only begins to would be for it."""

    def __init__(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
        self._make = make

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand the connection over."""
        protocol = self._make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class Gate:
    """Accept connections, shake hands where there is TLS, and hand them over.

    Args:
        protocol: Makes the protocol of a connection.
        context: The server's TLS context, None for plain connections.
        limits: `header_seconds` for shaking hands; `handshakes` and `connections_per_peer` bound those who are at it, beside the
            open ones. Beyond the first the longest at it of the peer with most of them gives way,
            beyond the second the longest of the same peer.
        refusals: Where refusals are counted and kept.
        trusted: Proxies that have no share of their own.
    """

    def __init__(
        self,
        protocol: Callable[[], asyncio.BaseProtocol],
        context: ssl.SSLContext | None,
        *,
        limits: ArmourLimits,
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
        # who gives way to those that are taken at once has a file open until the loop's next turns
        self._most_at_once = min(_MOST_AT_ONCE, max(_FEWEST_AT_ONCE, limits.connections // _PART_AT_ONCE))
        self._refusals = refusals
        self._trusted = trusted or Networks()
        self._accepting: dict[socket.socket, asyncio.TimerHandle | None] = {}
        self._shaking: dict[asyncio.Task[None], tuple[tuple[int, ...], Address | None]] = {}
        self._peers: Shares[asyncio.Task[None]] = Shares(limits.connections_per_peer)
        self._left_at: dict[socket.socket, float] = {}
        self._silent_until = float("-inf")

    def open(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on listening, non-blocking sockets, which then belong to the gate."""
        for listening in sockets:
            self._begin(listening)

    @property
    def shaking(self) -> int:
        """How many connections are at shaking hands, or, without TLS, are about to be handed over."""
        return len(self._shaking)

    async def close(self, timeout: float = 0.0) -> None:
        """Take no further connections; idempotent.

        Args:
            timeout: Seconds to wait until those at shaking hands are handed over; those that are not go on with it.
        """
        loop = asyncio.get_running_loop()
        for listening, pause in self._accepting.items():
            loop.remove_reader(listening)
            if pause is not None:
                pause.cancel()
            listening.close()
        self._accepting.clear()
        if self._shaking and timeout > 0:
            await asyncio.wait(list(self._shaking), timeout=timeout)

    async def aclose(self) -> None:
        """Take no further connections, and let go of those whose hands are not shaken; idempotent."""
        await self.close()
        shaking = list(self._shaking)
        for task in shaking:
            task.cancel()
        await asyncio.gather(*shaking, return_exceptions=True)

    def _begin(self, listening: socket.socket) -> None:
        self._accepting[listening] = None
        asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        """Accept a connection or two: more would keep those that are in from going on, and be taken from other processes.

        Where those that are in keep the loop busy, it is one more for each millisecond since it left some waiting, or
        newcomers would wait ever longer.
        """
        now = asyncio.get_running_loop().time()
        left_at = self._left_at.pop(listening, now)
        for _ in range(min(_FEWEST_AT_ONCE + int((now - left_at) * _MORE_PER_SECOND), self._most_at_once)):
            if not self._accept_one(listening):
                return
        self._left_at[listening] = now

    def _accept_one(self, listening: socket.socket) -> bool:
        """Accept a connection, or return False where none waits."""
        try:
            connection, name = listening.accept()
        except BlockingIOError:  # there is none, or another process took it
            return False
        except ConnectionError:  # it is gone
            return True
        except OSError as problem:
            loop = asyncio.get_running_loop()
            loop.remove_reader(listening)
            self._accepting[listening] = loop.call_later(_OUT_OF_FILES, self._begin, listening)
            if loop.time() >= self._silent_until:
                self._silent_until = loop.time() + _SILENCE
                logger.error(  # noqa: TRY400 - one line says it
                    "no further connection could be taken on %s: %s", _place_of(listening), problem.strerror
                )
            return False
        connection.setblocking(False)
        self._admit(connection, read_address(name[0]) if isinstance(name, tuple) else None)
        return True

    def _admit(self, connection: socket.socket, peer: Address | None) -> None:
        keys: tuple[int, ...] = ()
        if self._tls:
            if peer is not None and peer not in self._trusted:
                keys = peer_keys(peer)
                while (crowd := self._peers.crowd(keys)) is not None:
                    self._let_go(next(iter(crowd)), "handshakes_per_peer")
            if len(self._shaking) >= self._limits.handshakes:
                self._let_go(max(self._shaking, key=self._beside), "evicted")
        untaken = [connection]
        task = asyncio.create_task(self._shake(untaken, peer), name="shake hands")
        self._shaking[task] = keys, peer
        self._peers.enter(keys, task)
        task.add_done_callback(lambda task: self._ended(task, untaken))

    def _let_go(self, task: asyncio.Task[None], reason: str) -> None:
        _, peer = self._shaking[task]
        self._refusals.note(reason, peer)
        self._leave(task)
        task.cancel()

    def _beside(self, task: asyncio.Task[None]) -> int:
        keys, _ = self._shaking[task]
        return self._peers.held(keys)

    def _leave(self, task: asyncio.Task[None]) -> None:
        keys, _ = self._shaking.pop(task, ((), None))
        self._peers.leave(keys, task)

    def _ended(self, task: asyncio.Task[None], untaken: list[socket.socket]) -> None:
        self._leave(task)
        for connection in untaken:  # the task was cancelled before it began; else the socket is its transport's to close
            connection.close()

    def _threshold(self) -> _Threshold:
        return _Threshold(self._protocol)

    async def _shake(self, untaken: list[socket.socket], peer: Address | None) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._threshold, untaken.pop(), **self._tls)
        except OSError:  # no TLS, or another version; too slow, or gone
            self._refusals.note("handshake", peer)


def _place_of(listening: socket.socket) -> str:
    name = listening.getsockname()
    return f"port {name[1]}" if isinstance(name, tuple) else str(name)
