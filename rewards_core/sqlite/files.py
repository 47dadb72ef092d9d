"""The files of one database on the disk: who has them open, and whether they are still where they were."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import threading
from contextlib import suppress
from pathlib import Path

from rewards_core.errors import StoreError

_MAX_LINKS = 40
_MISSING = "none"
_MOUNTS = Path("/proc/self/mountinfo")
Identity = tuple[int, int]
"""What tells a file from every other one of this host: the device and the inode."""

_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs")


class FileLock:
    """A lock beside a file, on its `.lock`: shared by many or held by one; it ends with the process, however that ends.

    A child of a fork holds nothing of it: it would keep others away for as long as it lives.

    Args:
        path: The file, under whatever name; the lock's own file stays there.
    """

    def __init__(self, path: Path) -> None:
        real = followed(path)
        self.file = real
        self.path = real.with_name(real.name + ".lock")
        self._descriptor: int | None = None
        self._identity: Identity | None = None
        self._exclusive = False

    def take(self, *, shared: bool = False, note: bool = True) -> bool:
        """Ask for it, once; return False where another process holds it. A shared one becomes exclusive, or the reverse.

        Args:
            shared: Whether others may hold it too.
            note: Whether one that is held alone names this process in its file at once, see `note`.

        Raises:
            OSError: the file beside it cannot be made.
        """
        if self._descriptor is None:
            with _no_fork:
                self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                _open_locks.add(self)
            about = os.fstat(self._descriptor)
            self._identity = about.st_dev, about.st_ino
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            self.release()
            return False
        if not self.in_place:  # it was removed in the meantime, so that others may lock another one
            self.release()
            return False
        self._exclusive = not shared
        if note and not shared:
            self.note(self.noted())
        return True

    def note(self, more: str) -> None:
        """Write into the lock's file which process holds it alone, and what others should know."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n{more}".encode("ascii"), 0)

    def touch(self) -> None:
        """Show those who wait that this process goes on with what it holds the lock for: they see when the file was changed."""
        if self._descriptor is not None:
            os.utime(self._descriptor)

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
    def named(self) -> bool:
        """Whether it is held, and its file was not removed; a fifth of the work of `in_place`, which also notices a move."""
        return self._descriptor is not None and os.fstat(self._descriptor).st_nlink > 0

    @property
    def in_place(self) -> bool:
        """Whether it is held, and its file is where others look for it."""
        return self._descriptor is not None and identity(self.path) == self._identity

    def holder(self) -> int | None:
        """Return the process that took it alone last, None if that is not known."""
        said = self._said().partition("\n")[0]
        return int(said) if said.isdecimal() else None

    def release(self) -> None:
        """Let another have it; a second call does nothing."""
        with _no_fork:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
                _open_locks.discard(self)

    def _said(self) -> str:
        try:
            return self.path.read_text("ascii")
        except (OSError, UnicodeDecodeError):
            return ""


NO_FORK = (
    "and SQLite's locks do not survive a fork. Nothing was read or written. Fork before the file is first used, or start this "
    "process with spawn instead of fork."
)
"""What to say where a process cannot use a file because it was forked."""

_open_locks: set[FileLock] = set()
_inherited: set[Identity] = set()
_no_fork = threading.RLock()
"""Held while a descriptor is opened or closed, so that each child of a fork knows all that it inherited."""


def _let_go_in_child() -> None:
    """Close what a child inherited: such a lock lasts as long as any copy of its descriptor, but only the parent uses it."""
    for lock in tuple(_open_locks):
        if (file := identity(lock.file)) is not None:
            _inherited.add(file)
        lock.release()
    _no_fork.release()


os.register_at_fork(before=_no_fork.acquire, after_in_parent=_no_fork.release, after_in_child=_let_go_in_child)


class OpenFiles:
    """The three files of a database that a connection has open, to notice when one is moved, removed or replaced.

    SQLite goes on with a log that has no name any more; all it holds is gone with the process.

    Args:
        path: The file, open and read or written at least once.
    """

    def __init__(self, path: Path) -> None:
        real = str(path.resolve())  # a log lies beside the file itself, not beside a link to it
        self._names = (str(path.absolute()), real + "-wal", real + "-shm")
        self.log_bytes = 0
        self.identities = self._look()

    @property
    def complete(self) -> bool:
        """Whether all three stood there."""
        return None not in self.identities

    @property
    def moved(self) -> bool:
        """Whether the file itself is not where it was."""
        return identity(self._names[0]) != self.identities[0]

    @property
    def whole(self) -> bool:
        """Whether the file, its log and the log's index are where they were."""
        return self._look() == self.identities

    def remove_log(self) -> None:
        """Remove the log and its index, unless others stand there by now: SQLite would move it into any file beside it."""
        for name, opened in zip(self._names[1:], self.identities[1:], strict=True):
            if identity(name) == opened:
                with suppress(OSError):  # another process has just done so
                    os.unlink(name)  # noqa: PTH108 - it is a str

    def beside_foreign_log(self, noted: str) -> bool:
        """Whether the log that stands here was noted, as the text of such an object, with another file than the one here."""
        file, log, _ = str(self).split(" ")
        then = noted.split(" ")
        return len(then) == len(self._names) and then[0] != file and then[1] == log != _MISSING

    def __str__(self) -> str:
        return " ".join(_MISSING if one is None else f"{one[0]}:{one[1]}" for one in self.identities)

    def _look(self) -> tuple[Identity | None, ...]:
        found: list[Identity | None] = []
        for name in self._names:
            try:
                about = os.stat(name)  # noqa: PTH116 - some of these for each commit
            except OSError:
                found.append(None)
            else:
                found.append((about.st_dev, about.st_ino))
                if name is self._names[1]:
                    self.log_bytes = about.st_size
        return tuple(found)


def refuse_unsafe(path: Path) -> None:
    """Refuse a file on which several processes cannot work safely.

    Raises:
        StoreError: it has a second name (a hard link), under which there would be a second log; it lies on a network file
            system, on which locks and shared memory do not hold; or a parent had it open when this process was forked from it,
            so that SQLite takes the parent's locks for this process's and asks for none.
    """
    if identity(path) in _inherited:
        raise StoreError(f"{path} was open in the process that this one was forked from, {NO_FORK}")
    with suppress(FileNotFoundError):
        about = path.stat()
        if stat.S_ISREG(about.st_mode) and about.st_nlink > 1:  # a folder has a name more for each folder in it
            raise StoreError(
                f"{path} has {about.st_nlink} names (hard links), each with a log of its own, so that entries would be lost. "
                "Remove the other names while no process has it open."
            )
    mounts = ""  # where the system does not tell, nothing is refused
    with suppress(OSError):
        mounts = os.fsdecode(_MOUNTS.read_bytes())
    kind = file_system(path.resolve().parent, mounts)
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


def identity(name: str | Path) -> Identity | None:
    """Return what tells the file that stands here from others, None if there is none."""
    try:
        about = os.stat(name)  # noqa: PTH116 - some of these for each commit
    except OSError:
        return None
    return about.st_dev, about.st_ino


def file_system(folder: Path, mounts: str) -> str | None:
    """Return the kind of the file system that holds a folder, None if it is not known.

    Args:
        folder: Absolute, without links.
        mounts: The text of Linux's `/proc/self/mountinfo`; of two mounts in one place the later one counts.
    """
    place, longest, found = str(folder), 0, None
    for line in filter(None, mounts.split("\n")):
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4])
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:
            longest, found = len(point), after.split(" ")[0]
    return found
