"""How the processes that share a file wake each other: datagrams to a socket beside the file, hints that may be lost."""

from __future__ import annotations

import asyncio
import glob
import hashlib
import logging
import os
import secrets
import socket
import tempfile
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

_MAX_PATH = 100
"""Bytes of the longest path that a unix socket can have everywhere, less a few."""
_MAX_HINTS = 8
"""Hints taken in one pass of the loop."""


class Wakeups:
    """A process's own socket, and what it sends to those of others.

    Args:
        path: The shared file.
        hear: Is called in the loop with what others sent, each byte at most once.
    """

    def __init__(self, path: Path, hear: Callable[[bytes], None]) -> None:
        self._file = path.absolute()
        self._hear = hear
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sender: socket.socket | None = None
        self.address: str | None = None
        """The path of the own socket, for others; None while there is none."""

    def bind(self) -> None:
        """Make the socket, in any thread; where none can be made, hints do without."""
        if self._socket is not None:
            return
        self.sweep()
        address = _folder(self._file) / f"{_prefix(self._file)}{os.getpid()}-{secrets.token_hex(3)}"
        own: socket.socket | None = None
        try:
            own = _datagrams()
            own.bind(str(address))
            address.chmod(0o600)
        except OSError as problem:
            if own is not None:
                own.close()
            logger.warning("%s: no socket can be made (%s); other processes are heard once a second", address, problem.strerror)
            return
        self._socket, self.address = own, str(address)

    def listen(self) -> None:
        """Call `hear` in the running loop from now on."""
        if self._socket is not None and (self._loop is None or self._loop.is_closed()):
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._socket, self._receive, self._socket)

    def stop(self) -> None:
        """Call `hear` no longer; in the loop."""
        if self._socket is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
        self._loop = None

    def close(self) -> None:
        """Remove the socket, in any thread, after `stop`."""
        for one in (self._socket, self._sender):
            if one is not None:
                one.close()
        if self.address is not None:
            with suppress(OSError):
                Path(self.address).unlink()
        self._socket = self._sender = self.address = None

    def send(self, hint: bytes, addresses: Iterable[str]) -> None:
        """Wake others; from the writing thread. One that is gone or does not keep up is passed over."""
        for address in addresses:
            with suppress(OSError):
                if self._sender is None:
                    self._sender = _datagrams()
                self._sender.sendto(hint, address)

    def sweep(self) -> None:
        """Remove the sockets that processes left which were killed: nobody listens to them."""
        for left in _folder(self._file).glob(f"{glob.escape(_prefix(self._file))}*"):
            with suppress(OSError), closing(_datagrams()) as probe:
                try:
                    probe.connect(str(left))
                except ConnectionRefusedError:
                    if left.is_socket():
                        left.unlink()

    def _receive(self, own: socket.socket) -> None:
        heard: set[int] = set()
        with suppress(BlockingIOError):
            for _ in range(_MAX_HINTS):
                heard.update(own.recv(16))
        self._hear(bytes(sorted(heard)))


def _datagrams() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


def _folder(file: Path) -> Path:
    """Return where the sockets are: beside the file, or in the folder of temporary files where that path is too long."""
    return file.parent if _fits(file) else Path(tempfile.gettempdir())


def _prefix(file: Path) -> str:
    """Return how the names of all sockets for a file begin."""
    return f"{file.name}.wake-" if _fits(file) else f"rewards-{hashlib.sha256(os.fsencode(file)).hexdigest()[:12]}-"


def _fits(file: Path) -> bool:
    return len(os.fsencode(file)) <= _MAX_PATH - len(".wake-4194304-abcdef")
