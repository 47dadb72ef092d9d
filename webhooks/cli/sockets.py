"""The sockets on which deliveries arrive."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from webhooks.cli.settings import ListenerSettings

_BACKLOG = 1_024
_ANSWER_SECONDS = 1.0
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
        self._file = None if path is None else _file_at(path)

    def remove_path(self) -> None:
        """Remove the path of the unix socket unless another process has taken it; idempotent.

        While the socket is open, no other file can have its inode.
        """
        if self._path is not None and self._file is not None and _file_at(self._path) == self._file:
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
        OSError: the address cannot be had, or another server answers on the path of the unix socket.
        UnicodeError: the host is no name.
    """
    if settings.unix is not None:
        return ListeningSockets([_open_unix(settings.unix)], {"unix": str(settings.unix)}, settings.unix)
    scheme = "http" if settings.tls is None else "https"
    loop = asyncio.get_running_loop()
    bound = await loop.create_server(asyncio.Protocol, settings.host, settings.port, start_serving=False)
    try:
        sockets = [each.dup() for each in bound.sockets]
    finally:
        bound.close()
    for each in sockets:
        each.setblocking(False)
        _find_dead_peers(each)
        each.listen(_BACKLOG)
    return ListeningSockets(sockets, {"url": url_of(scheme, sockets[0])})


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


def _open_unix(path: Path) -> socket.socket:
    _make_way(path)
    made = socket.socket(socket.AF_UNIX)
    try:
        made.setblocking(False)
        made.bind(str(path))
        path.chmod(0o660)
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _make_way(path: Path) -> None:
    """Remove the socket that a process left when it died.

    Raises:
        OSError: another server answers there, or what is there is no socket.
    """
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise FileExistsError(f"{path} exists and is no socket; give another path as --unix")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_ANSWER_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except (TimeoutError, BlockingIOError):  # its queue is full
            pass
    raise FileExistsError(f"another server listens on {path}; stop it, or give another path as --unix")


def _file_at(path: Path) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
