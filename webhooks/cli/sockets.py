"""The sockets on which deliveries arrive."""

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
_SILENT_SECONDS, _PROBE_SECONDS, _PROBES = 60, 15, 4
"""When a peer that is silent is asked whether it is still there; an idle connection to one that is gone ends in two minutes."""


class ListeningSockets:
    """Sockets that listen, and the path of a unix socket for as long as it leads to this one.

    Attributes:
        sockets: One, or one for each address of a host name.
        where: The `url` or the `unix` path, for people.
    """

    def __init__(self, sockets: Sequence[socket.socket], where: dict[str, Any], path: Path | None = None) -> None:
        self.sockets = sockets
        self.where = where
        self._path = path
        self._file = None if path is None else file_at(path)

    def remove_path(self) -> None:
        """Remove the path of the unix socket unless another process has taken it; idempotent.

        While the socket is open, no other file can have its inode.
        """
        if self._path is not None and self._file is not None and file_at(self._path) == self._file:
            self._path.unlink(missing_ok=True)
        self._file = None

    def close(self) -> None:
        """Remove the path and close the sockets; what they have not handed over yet is reset. Idempotent."""
        self.remove_path()
        for each in self.sockets:
            each.close()


async def open_sockets(settings: ListenerSettings) -> ListeningSockets:
    """Listen where the settings say.

    Raises:
        OSError: the address cannot be had, the host is no name, or another server answers on the path of the unix socket.
    """
    if settings.unix is not None:
        opened = open_unix(settings.unix, _BACKLOG)
        return ListeningSockets([opened], {"unix": str(settings.unix.path)}, settings.unix.path)
    sockets = await open_tcp(settings.host, settings.port)
    return ListeningSockets(sockets, {"url": url_of("http" if settings.tls is None else "https", sockets[0])})


async def open_tcp(host: str, port: int) -> list[socket.socket]:
    """Listen on a port: on one socket, or on one for each address of a host name.

    Raises:
        OSError: the address cannot be had, or the host is no name.
    """
    loop = asyncio.get_running_loop()
    try:
        bound = await loop.create_server(asyncio.Protocol, host, port, start_serving=False)
    except (socket.gaierror, UnicodeError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else "it can be no name"
        raise OSError(f"the host {host!a} cannot be found: {why}. Give an address of this machine, such as 127.0.0.1.") from None
    try:
        sockets = [each.dup() for each in bound.sockets]
    finally:
        bound.close()
    for each in sockets:
        each.setblocking(False)
        _find_dead_peers(each)
        each.listen(_BACKLOG)
    return sockets


def url_of(scheme: str, listening: socket.socket) -> str:
    """Return the URL of a TCP socket."""
    host, port = listening.getsockname()[:2]
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _find_dead_peers(listening: socket.socket) -> None:
    """Let the system ask silent peers of all connections to this socket, which inherit its options."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", _SILENT_SECONDS), ("TCP_KEEPINTVL", _PROBE_SECONDS), ("TCP_KEEPCNT", _PROBES)):
        option = getattr(socket, name, None)
        if option is not None:
            listening.setsockopt(socket.IPPROTO_TCP, option, value)
