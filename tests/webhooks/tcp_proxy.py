"""A TCP proxy that loses what a test tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class TcpProxy:
    """Forwards connections to a server.

    Attributes:
        port: Where it listens.
        target: The server's port.
        swallow: Whether what the server sends is lost.
        connections: The connections that clients have opened.
        connections_lost: The connections that a client has given up while their answers were lost.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.swallow = False
        self.connections = 0
        self.connections_lost = 0
        self.target = target
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._open:
            writer.transport.abort()

    async def finish(self) -> None:
        """Break all connections and wait for their end."""
        self.cut()
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection."""
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, server_writer}
        await asyncio.gather(self._pump(reader, server_writer, lose=False), self._pump(server_reader, writer, lose=True))
        self.connections_lost += self.swallow
        for each in (writer, server_writer):
            self._open.discard(each)
            each.close()
            with suppress(OSError):
                await each.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, lose: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                if not (lose and self.swallow):
                    writer.write(data)
                    await writer.drain()
        writer.transport.abort()


@asynccontextmanager
async def tcp_proxy(target: int) -> AsyncIterator[TcpProxy]:
    """Start a proxy before a port of the loopback."""
    proxy = TcpProxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1")
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.finish()
