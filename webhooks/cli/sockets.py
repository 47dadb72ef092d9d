"""The listening sockets for deliveries and for the admin port."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from webhooks.cli.unix_socket import file_at, open_unix

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from webhooks.cli.settings import ListenerSettings

_BACKLOG = 1_024
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""Socket options that end an idle connection two minutes after its peer has disappeared."""


class ListeningSockets:
    """Listening sockets, and the path of a unix socket.

    Attributes:
        sockets: One, or one for each address of a host name.
        where: The `url` or the `unix` path, for the startup record.
    """

    def __init__(self, sockets: Sequence[socket.socket], where: dict[str, Any], path: Path | None = None) -> None:
        self.sockets = sockets
        self.where = where
        self._path = path
        self._file = None if path is None else file_at(path)

    def remove_path(self) -> None:
        """Remove the path of the unix socket, unless another process has replaced it; idempotent.

        While the socket is open, its inode cannot be reused.
        """
        if self._path is not None and self._file is not None and file_at(self._path) == self._file:
            self._path.unlink(missing_ok=True)
        self._file = None

    def close(self) -> None:
        """Remove the path and close the sockets; connections in their backlog are reset. Idempotent."""
        self.remove_path()
        for each in self.sockets:
            each.close()


async def open_sockets(settings: ListenerSettings) -> ListeningSockets:
    """Listen where the settings say; raises `OSError` if that is not possible."""
    if settings.unix is not None:
        opened = open_unix(settings.unix, _BACKLOG)
        return ListeningSockets([opened], {"unix": str(settings.unix.path)}, settings.unix.path)
    sockets = await open_tcp(settings.host, settings.port)
    return ListeningSockets(sockets, {"url": url_of("http" if settings.tls is None else "https", sockets[0])})


async def open_tcp(host: str, port: int) -> list[socket.socket]:
    """Listen on a port, with one socket for each address of the host; raises `OSError` if that is not possible."""
    loop = asyncio.get_running_loop()
    try:
        bound = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
    except (socket.gaierror, UnicodeError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else "the name is not valid"
        raise OSError(f"the host {host!a} cannot be found: {why}. Give an address of this machine, such as 127.0.0.1.") from None
    try:
        sockets = [each.dup() for each in bound.sockets]
    finally:
        bound.close()
    for each in sockets:
        each.setblocking(False)
        _enable_keepalive(each)
        each.listen(_BACKLOG)
    return sockets


def url_of(scheme: str, listening: socket.socket) -> str:
    """Return the URL of a TCP socket."""
    host, port = listening.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _enable_keepalive(listening: socket.socket) -> None:
    """Enable keep-alive probes for all connections, which inherit the socket's options."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        option = getattr(socket, name, None)
        if option is not None:
            listening.setsockopt(socket.IPPROTO_TCP, option, value)
