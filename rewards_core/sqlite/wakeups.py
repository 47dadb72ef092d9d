"""Hints between the processes that share a file: datagrams to sockets beside it, which may be lost."""

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
"""Bytes of a path that a unix socket can have on every platform."""
_MAX_HINTS = 8
"""Hints that are received in one pass of the loop."""


class Wakeups:
    """This process's socket, and the sender of hints to others; `receive` gets each byte of a hint at most once, in the loop."""

    def __init__(self, path: Path, receive: Callable[[bytes], None]) -> None:
        self._file = path.absolute()
        self._on_hints = receive
        self._socket: socket.socket | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sender: socket.socket | None = None
        self.address: str | None = None
        """The path of this process's socket, or None."""

    def bind(self) -> None:
        """Create the socket, in any thread; if that fails, this process receives no hints."""
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
            logger.warning(
                "%s: no socket (%s); changes of other processes are noticed once a second",
                address,
                problem.strerror,
            )
            return
        self._socket, self.address = own, str(address)

    def listen(self) -> None:
        """Start to receive hints in the running loop."""
        if self._socket is not None and (self._loop is None or self._loop.is_closed()):
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._socket, self._receive, self._socket)

    def stop(self) -> None:
        """Stop receiving hints, in the loop."""
        if self._socket is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._socket)
        self._loop = None

    def close(self) -> None:
        """Remove the socket, in any thread, after `stop`."""
        for each in (self._socket, self._sender):
            if each is not None:
                each.close()
        if self.address is not None:
            with suppress(OSError):
                Path(self.address).unlink()
        self._socket = self._sender = self.address = None

    def send(self, hint: bytes, addresses: Iterable[str]) -> None:
        """Send a hint, from the writing thread; a process that is gone or does not keep up is skipped."""
        for address in addresses:
            with suppress(OSError):
                if self._sender is None:
                    self._sender = _datagrams()
                self._sender.sendto(hint, address)

    def sweep(self) -> None:
        """Remove the sockets of killed processes."""
        for found in _folder(self._file).glob(f"{glob.escape(_prefix(self._file))}*"):
            with suppress(OSError), closing(_datagrams()) as probe:
                try:
                    probe.connect(str(found))
                except ConnectionRefusedError:
                    if found.is_socket():
                        found.unlink()

    def _receive(self, own: socket.socket) -> None:
        hints: set[int] = set()
        with suppress(BlockingIOError):
            for _ in range(_MAX_HINTS):
                hints.update(own.recv(16))
        self._on_hints(bytes(sorted(hints)))


def _datagrams() -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setblocking(False)
    return made


def _folder(file: Path) -> Path:
    """Return the folder of the sockets: the file's, or the one of temporary files if that path is too long."""
    return file.parent if _fits(file) else Path(tempfile.gettempdir())


def _prefix(file: Path) -> str:
    """Return the prefix of the names of all sockets that belong to a file."""
    return f"{file.name}.wake-" if _fits(file) else f"rewards-{hashlib.sha256(os.fsencode(file)).hexdigest()[:12]}-"


def _fits(file: Path) -> bool:
    return len(os.fsencode(file)) <= _MAX_PATH - len(".wake-4194304-abcdef")
