"""The files of one database on the disk: who has them open, and whether they are still where they were."""

from __future__ import annotations

import fcntl
import os
import re
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from rewards_core.errors import StoreError

if TYPE_CHECKING:
    from pathlib import Path

_MAX_LINKS = 40
_MOUNTS = "/proc/self/mountinfo"
_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs")


class FileLock:
    """A lock beside a file, on its `.lock`: shared by many or held by one; it ends with the process, however that ends.

    Args:
        path: The file, under whatever name; the lock's own file stays there.
    """

    def __init__(self, path: Path) -> None:
        real = followed(path)
        self.path = real.with_name(real.name + ".lock")
        self._descriptor: int | None = None
        self._exclusive = False

    def take(self, *, shared: bool = False) -> bool:
        """Ask for it, once; return False where another process holds it. A shared one becomes exclusive, or the reverse.

        Raises:
            OSError: the file beside it cannot be made.
        """
        descriptor = self._descriptor
        if descriptor is None:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            self._descriptor = None
            return False
        self._descriptor, self._exclusive = descriptor, not shared
        if not shared:
            self.note("")
        return True

    def note(self, more: str) -> None:
        """Write into the lock's file which process holds it alone, and what others should know."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n{more}".encode("ascii"), 0)

    def noted(self) -> str:
        """Return what was noted for others, empty if nothing was."""
        return self._said().partition("\n")[2]

    def holds(self) -> bool:
        """Return whether it is still held; one whose file was removed is asked for again, and may be another's by now.

        Raises:
            OSError: the file beside it cannot be made.
        """
        if self.in_place:
            return True
        shared = not self._exclusive
        self.release()
        return self.take(shared=shared)

    @property
    def in_place(self) -> bool:
        """Whether it is held, and its file was not removed."""
        return self._descriptor is not None and os.fstat(self._descriptor).st_nlink > 0

    def holder(self) -> int | None:
        """Return the process that took it alone last, None if that is not known."""
        said = self._said().partition("\n")[0]
        return int(said) if said.isdecimal() else None

    def release(self) -> None:
        """Let another have it; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _said(self) -> str:
        try:
            return self.path.read_text("ascii")
        except (OSError, UnicodeDecodeError):
            return ""


class OpenFiles:
    """The three files of a database that a connection has open, to notice when one is moved, removed or replaced.

    SQLite goes on with a log that has no name any more; all it holds is gone with the process.

    Args:
        path: The file, open and read or written at least once.
    """

    def __init__(self, path: Path) -> None:
        real = str(path.resolve())  # a log lies beside the file itself, not beside a link to it
        self._names = (str(path.absolute()), real + "-wal", real + "-shm")
        self.inodes = self._look()
        self.log_bytes = 0

    @property
    def moved(self) -> bool:
        """Whether the file itself is not where it was."""
        return _inode(self._names[0]) != self.inodes[0]

    @property
    def whole(self) -> bool:
        """Whether the file, its log and the log's index are where they were."""
        return self._look() == self.inodes

    def _look(self) -> tuple[int | None, ...]:
        found: list[int | None] = []
        for name in self._names:
            try:
                about = os.stat(name)  # noqa: PTH116 - some of these for each commit
            except OSError:
                found.append(None)
            else:
                found.append(about.st_ino)
                if name is self._names[1]:
                    self.log_bytes = about.st_size
        return tuple(found)


def refuse_unsafe(path: Path) -> None:
    """Refuse a file on which several processes cannot work safely.

    Raises:
        StoreError: it has a second name (a hard link), under which there would be a second log; or it lies on a network file
            system, on which locks and shared memory do not hold.
    """
    with suppress(FileNotFoundError):
        about = path.stat()
        if stat.S_ISREG(about.st_mode) and about.st_nlink > 1:  # a folder has a name more for each folder in it
            raise StoreError(
                f"{path} has {about.st_nlink} names (hard links), each with a log of its own, so that entries would be lost. "
                "Remove the other names while no process has it open."
            )
    kind = _file_system(path.resolve().parent)
    if kind in _NETWORK:
        raise StoreError(f"{path} lies on a network file system ({kind}), where locks cannot be trusted. Use a local disk.")


def followed(path: Path) -> Path:
    """Return the file that a symbolic link leads to."""
    with suppress(OSError):  # there is nothing yet, or a ring of links that opening it will complain about
        for _ in range(_MAX_LINKS):
            if not stat.S_ISLNK(os.lstat(path).st_mode):
                break
            path = path.parent / path.readlink()
    return path


def _inode(name: str) -> int | None:
    try:
        return os.stat(name).st_ino  # noqa: PTH116 - one of these for each commit
    except OSError:
        return None


def _file_system(folder: Path) -> str | None:
    """Return the kind of the file system that holds a folder, None where the system does not tell."""
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as mounts:  # noqa: PTH123 - no Path is needed
            lines = mounts.read().splitlines()
    except OSError:
        return None
    place, longest, found = str(folder), 0, None
    for line in lines:
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4])
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:
            longest, found = len(point), after.split(" ")[0]
    return found
