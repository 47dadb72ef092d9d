"""Where TLS connections come in: half-shaken hands are counted too, so that no peer holds what others need.

asyncio's own server makes a protocol only once hands are shaken; until then a connection that says nothing costs a file, and is
no peer's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from webhooks.ingress.peers import Address, Networks, PeerCounts, peer_key, read_address
from webhooks.supervise import RestartPolicy, keep_running

if TYPE_CHECKING:
    import socket
    import ssl

    from webhooks.ingress.limits import ArmourLimits
    from webhooks.ingress.quiet import QuietLog

logger = logging.getLogger("webhooks.listener")

_OUT_OF_FILES = 0.2


class TlsGate:
    """Accept connections, shake hands, and hand over what speaks TLS.

    Args:
        protocol: Makes the protocol of a connection whose hands are shaken.
        context: The server's TLS context.
        limits: `header_seconds` for shaking hands; `connections` and `connections_per_peer` bound those who are at it, beside the
            open ones. Beyond the first the longest at it gives way, beyond the second a connection is closed at once.
        quiet: Where refusals are counted.
        trusted: Proxies that have no share of their own.
    """

    def __init__(
        self,
        protocol: Callable[[], asyncio.BaseProtocol],
        context: ssl.SSLContext,
        *,
        limits: ArmourLimits,
        quiet: QuietLog,
        trusted: Networks | None = None,
    ) -> None:
        self._protocol = protocol
        self._context = context
        self._limits = limits
        self._quiet = quiet
        self._trusted = trusted or Networks()
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._shaking: dict[asyncio.Task[None], None] = {}
        self._peers = PeerCounts()

    async def open(self, host: str, port: int, *, backlog: int) -> tuple[str, int]:
        """Listen, and return the first address and port.

        Raises:
            OSError: the address cannot be had.
        """
        loop = asyncio.get_running_loop()
        bound = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
        try:
            self._sockets = [one.dup() for one in bound.sockets]
        finally:
            bound.close()
        for one in self._sockets:
            one.setblocking(False)
            one.listen(backlog)
        self._accepting = [
            asyncio.create_task(
                keep_running(
                    partial(self._accept, one),
                    name="the acceptance of TLS connections",
                    policy=RestartPolicy(deaths=None),
                    died=lambda _: None,
                ),
                name="accept TLS connections",
            )
            for one in self._sockets
        ]
        name = self._sockets[0].getsockname()
        return name[0], name[1]

    @property
    def shaking(self) -> int:
        """How many connections are at shaking hands."""
        return len(self._shaking)

    async def close(self) -> None:
        """Take no further connections; idempotent. Hands are shaken to the end."""
        accepting, self._accepting = self._accepting, []
        for task in accepting:
            task.cancel()
        await asyncio.gather(*accepting, return_exceptions=True)
        for one in self._sockets:
            one.close()

    async def aclose(self) -> None:
        """Take no further connections, and let go of those whose hands are not shaken; idempotent."""
        await self.close()
        shaking = list(self._shaking)
        for task in shaking:
            task.cancel()
        await asyncio.gather(*shaking, return_exceptions=True)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, name = await loop.sock_accept(listening)
            except ConnectionError:
                continue
            except OSError as problem:
                logger.error("no further connection could be taken: %s", problem.strerror)  # noqa: TRY400 - one line says it
                await asyncio.sleep(_OUT_OF_FILES)
                continue
            self._admit(connection, name[0])
            await asyncio.sleep(0)  # a flood of connections must not keep those that are in from going on

    def _admit(self, connection: socket.socket, host: str) -> None:
        peer = read_address(host)
        key = None if peer in self._trusted else peer_key(peer)
        if key is not None and not self._peers.enter(key, self._limits.connections_per_peer):
            self._quiet.note("handshakes_per_peer", peer)
            connection.close()
            return
        if len(self._shaking) >= self._limits.connections:
            self._quiet.note("evicted", peer)
            longest = next(iter(self._shaking))
            del self._shaking[longest]
            longest.cancel()
        task = asyncio.create_task(self._shake(connection, peer), name="shake hands")
        self._shaking[task] = None
        task.add_done_callback(lambda task: self._ended(task, connection, key))

    def _ended(self, task: asyncio.Task[None], connection: socket.socket, key: int | None) -> None:
        self._shaking.pop(task, None)
        if task.cancelled():  # perhaps before it began
            connection.close()
        if key is not None:
            self._peers.leave(key)

    async def _shake(self, connection: socket.socket, peer: Address | None) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._limits.header_seconds,
                ssl_shutdown_timeout=self._limits.linger_seconds,
            )
        except OSError:  # no TLS, or another version; too slow, or gone
            self._quiet.note("handshake", peer)
