"""Vendors in a process of their own that answer as fast as they can: `python -m benchmarks._vendor [peer]` prints the port.

Without an argument it is a stub of Original, which keeps every allocation and reads it as done. As `peer` it gives every request
the answer that it reads from stdin. Nothing is checked.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks._processes import running

_FIRST_UID = 324_167_489_835


class Peer(asyncio.Protocol):
    """A connection whose requests all get the same answer."""

    answer = b""
    transport: asyncio.Transport
    buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end]
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body, self.buffer = self.buffer[end + 4 : end + 4 + length], self.buffer[end + 4 + length :]
            self.transport.write(self.reply(head, body))

    def reply(self, head: bytes, body: bytes) -> bytes:
        return self.answer


class Vendor(Peer):
    """A connection to the stub of Original."""

    held: dict[bytes, bytes] = {}  # noqa: RUF012 - shared by all connections

    def reply(self, head: bytes, body: bytes) -> bytes:
        if head.startswith(b"POST"):
            uid = b"%d" % (_FIRST_UID + len(self.held))
            self.held[uid] = body
            return _answer(b"201 Created", b'{"uid":"%b"}' % uid)
        uid = head.split(b" ", 2)[1].rsplit(b"/", 1)[1]
        created = b'"created_at":"2023-08-10T14:07:14.494142Z"'
        return _answer(b"200 OK", b'{"uid":"%b","status":"done",%b,%b' % (uid, created, self.held[uid][1:]))


def _answer(status: bytes, data: bytes) -> bytes:
    body = b'{"success":true,"data":%b}' % data
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


@contextmanager
def vendor() -> Iterator[str]:
    """Run the stub of Original; give its base URL."""
    with running("-m", "benchmarks._vendor") as (output, _):
        yield f"http://127.0.0.1:{int(output.readline())}/v1"


async def _main() -> None:
    connection: type[Peer] = Vendor
    if sys.argv[1:] == ["peer"]:
        Peer.answer, connection = sys.stdin.buffer.read(), Peer
    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
