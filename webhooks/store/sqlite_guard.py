"""What keeps an SQLite file from being written by two, or written where nobody will find it."""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_MOST_LINKS = 40


class WriterLock:
    """The right to be the one that writes a file; held until released, and given back by the system if the holder dies.

    SQLite before 3.51.3 can lose committed rows when two connections write or checkpoint the same file.

    Args:
        path: The file, under whatever name; the lock is a file beside it, which stays there and names the process that has it.
    """

    def __init__(self, path: Path) -> None:
        real = _followed(path)
        self.path = real.with_name(real.name + ".lock")
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Ask for it, once; return False where another holds it.

        Raises:
            OSError: the file beside it cannot be made.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return False
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        self._descriptor = descriptor
        return True

    def holds(self) -> bool:
        """Return whether it is still held; one whose file was removed is asked for anew, and may be another's by now.

        Raises:
            OSError: the file beside it cannot be made.
        """
        if self._descriptor is not None and os.fstat(self._descriptor).st_nlink:
            return True
        self.release()
        return self.take()

    def holder(self) -> int | None:
        """Return the process that has it, None if that is not known."""
        try:
            said = self.path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return int(said) if said.isdecimal() else None

    def release(self) -> None:
        """Let another have it; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class InPlace:
    """The files that a connection has open, to notice when one of them is moved or removed beneath it.

    SQLite goes on with a log that has no name any more; all it holds is gone with the process.

    Args:
        path: The file, open and read or written at least once.
    """

    def __init__(self, path: Path) -> None:
        self._file = str(path.absolute())
        real = str(path.resolve())  # a log lies beside the file itself, not beside a link to it
        self._log, self._index = real + "-wal", real + "-shm"
        self._at_first = self._look()

    @property
    def file(self) -> int | None:
        """What tells the file from another that later stands at the same path."""
        return self._at_first[0]

    @property
    def moved(self) -> bool:
        """Whether the file itself is not where it was."""
        return _inode(self._file) != self.file

    @property
    def whole(self) -> bool:
        """Whether the file, its log and the log's index are where they were."""
        return self._look() == self._at_first

    def _look(self) -> tuple[int | None, ...]:
        return _inode(self._file), _inode(self._log), _inode(self._index)


def _followed(path: Path) -> Path:
    """Return the file that a link leads to."""
    with suppress(OSError):  # there is nothing yet, or a ring of links that opening it will complain about
        for _ in range(_MOST_LINKS):
            if not stat.S_ISLNK(os.lstat(path).st_mode):
                break
            path = path.parent / path.readlink()
    return path


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino  # noqa: PTH116 - some of these for each batch
    except OSError:
        return None
