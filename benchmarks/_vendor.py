"""A stub of Original in a process of its own, which answers as fast as it can: `python -m benchmarks._vendor` prints its port.

An allocation is kept and read as done at once; nothing is checked.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_FIRST_UID = 324_167_489_835


class Vendor(asyncio.Protocol):
    """One connection."""

    held: dict[bytes, bytes] = {}  # noqa: RUF012 - what every connection knows
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
            self.transport.write(self.create(body) if head.startswith(b"POST") else self.read(head))

    def create(self, body: bytes) -> bytes:
        uid = b"%d" % (_FIRST_UID + len(self.held))
        self.held[uid] = body
        return _answer(b"201 Created", b'{"uid":"%b"}' % uid)

    def read(self, head: bytes) -> bytes:
        uid = head.split(b" ", 2)[1].rsplit(b"/", 1)[1]
        created = b'"created_at":"2023-08-10T14:07:14.494142Z"'
        return _answer(b"200 OK", b'{"uid":"%b","status":"done",%b,%b' % (uid, created, self.held[uid][1:]))


def _answer(status: bytes, data: bytes) -> bytes:
    body = b'{"success":true,"data":%b}' % data
    return b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


@contextmanager
def vendor() -> Iterator[str]:
    """Run the stub; give its base URL."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks._vendor"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


async def _main() -> None:
    server = await asyncio.get_running_loop().create_server(Vendor, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main())
