"""The files of one database on the disk: its lock, and whether they were moved, removed or replaced."""

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
MOUNTS = Path("/proc/self/mountinfo")
Identity = tuple[int, int]
"""Device and inode, which identify a file on this host."""

_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "virtiofs", "afs", "ceph", "glusterfs", "lustre", "fuse.sshfs")


class FileLock:
    """A lock on the `.lock` beside a file, shared or exclusive; it ends with the process, however that ends.

    A forked child holds nothing of it: it would keep other processes away while it lives. The lock file is never removed.
    """

    def __init__(self, path: Path) -> None:
        real = follow_links(path)
        self.file = real
        self.path = real.with_name(real.name + ".lock")
        self._descriptor: int | None = None
        self._identity: Identity | None = None
        self._exclusive = False

    def take(self, *, shared: bool = False, note: bool = True) -> bool:
        """Try once to take the lock; return False if another process holds it. A held lock changes its kind.

        An exclusive lock names this process in its file at once if `note` is set, see `write_note`.
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
        if not self.in_place:  # it was removed in the meantime: other processes may lock another file
            self.release()
            return False
        self._exclusive = not shared
        if note and not shared:
            self.write_note(self.read_note())
        return True

    def write_note(self, more: str) -> None:
        """Write this process's id and a text for other processes into the lock file."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n{more}".encode("ascii"), 0)

    def touch(self) -> None:
        """Show progress to waiting processes, which watch the time of the lock file."""
        if self._descriptor is not None:
            os.utime(self._descriptor)

    def read_note(self) -> str:
        """Return the text of `write_note`, empty without one."""
        return self._content().partition("\n")[2]

    def holds(self) -> bool:
        """Return whether the lock is held; if its file was removed, it is taken again unless another process has it."""
        if self.in_place:
            return True
        shared = not self._exclusive
        self.release()
        return self.take(shared=shared)

    @property
    def linked(self) -> bool:
        """Whether it is held and its file was not removed; a fifth of the cost of `in_place`, which also detects a move."""
        return self._descriptor is not None and os.fstat(self._descriptor).st_nlink > 0

    @property
    def in_place(self) -> bool:
        """Whether it is held and its file was neither removed nor moved."""
        return self._descriptor is not None and identity(self.path) == self._identity

    def holder(self) -> int | None:
        """Return the last process with the exclusive lock, or None."""
        content = self._content().partition("\n")[0]
        return int(content) if content.isdecimal() else None

    def release(self) -> None:
        """Release the lock; idempotent."""
        with _no_fork:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
                _open_locks.discard(self)

    def _content(self) -> str:
        try:
            return self.path.read_text("ascii")
        except (OSError, UnicodeDecodeError):
            return ""


NO_FORK = (
    "and SQLite's locks do not survive a fork. Nothing was read or written. Fork before the file is first used, or start this "
    "process with spawn instead of fork."
)
"""The end of an error about a forked process."""

_open_locks: set[FileLock] = set()
_inherited: set[Identity] = set()
_no_fork = threading.RLock()
"""Held while a descriptor is opened or closed, so that a forked child knows all that it inherited."""


def _let_go_in_child() -> None:
    """Close what a child inherited: a lock lasts as long as any copy of its descriptor, but only the parent uses it."""
    for lock in tuple(_open_locks):
        if (file := identity(lock.file)) is not None:
            _inherited.add(file)
        lock.release()
    _no_fork.release()


os.register_at_fork(before=_no_fork.acquire, after_in_parent=_no_fork.release, after_in_child=_let_go_in_child)


class OpenFiles:
    """The three open files of a database, to detect that one was moved, removed or replaced.

    SQLite keeps writing to a removed log, whose content is lost with the process.
    """

    def __init__(self, path: Path) -> None:
        real = str(path.resolve())  # the log is beside the file itself, not beside a link to it
        self._names = (str(path.absolute()), real + "-wal", real + "-shm")
        self.log_bytes = 0
        self.identities = self._identities()

    @property
    def complete(self) -> bool:
        """Whether all three exist."""
        return None not in self.identities

    @property
    def moved(self) -> bool:
        """Whether the file itself was moved, removed or replaced."""
        return identity(self._names[0]) != self.identities[0]

    @property
    def intact(self) -> bool:
        """Whether the file, its log and the log's index are the ones that were opened."""
        return self._identities() == self.identities

    def remove_log(self) -> None:
        """Remove the opened log and index, which SQLite would apply to any file beside them; replaced ones stay."""
        for name, opened in zip(self._names[1:], self.identities[1:], strict=True):
            if identity(name) == opened:
                with suppress(OSError):  # another process has just removed it
                    os.unlink(name)  # noqa: PTH108 - it is a str

    def has_foreign_log(self, noted: str) -> bool:
        """Whether the present log was noted, as the text of such an object, together with a different file."""
        file, log, _ = str(self).split(" ")
        then = noted.split(" ")
        return len(then) == len(self._names) and then[0] != file and then[1] == log != _MISSING

    def __str__(self) -> str:
        return " ".join(_MISSING if each is None else f"{each[0]}:{each[1]}" for each in self.identities)

    def _identities(self) -> tuple[Identity | None, ...]:
        found: list[Identity | None] = []
        for name in self._names:
            try:
                about = os.stat(name)  # noqa: PTH116 - on the path of each commit
            except OSError:
                found.append(None)
            else:
                found.append((about.st_dev, about.st_ino))
                if name is self._names[1]:
                    self.log_bytes = about.st_size
        return tuple(found)


def check_shareable(path: Path) -> None:
    """Check that several processes can safely work on a file.

    Raises:
        StoreError: the file has a second name (a hard link), which would have a second log; it is on a network file system, where
            locks and shared memory do not work; or it was open in the parent of this process at the fork, so that SQLite takes
            the parent's locks for its own.
    """
    if identity(path) in _inherited:
        raise StoreError(f"{path} was open in the process that this process was forked from, {NO_FORK}")
    with suppress(FileNotFoundError):
        about = path.stat()
        if stat.S_ISREG(about.st_mode) and about.st_nlink > 1:  # each folder in a folder adds a name
            raise StoreError(
                f"{path} has {about.st_nlink} names (hard links), each with its own log, so entries would be lost. "
                "Remove the other names while no process has it open."
            )
    mounts = ""  # without the list of mounts, nothing is refused
    with suppress(OSError):
        mounts = os.fsdecode(MOUNTS.read_bytes())
    kind = file_system(path.resolve().parent, mounts)
    if kind in _NETWORK:
        raise StoreError(f"{path} is on a network file system ({kind}), where locks are unreliable. Use a local disk.")


def follow_links(path: Path) -> Path:
    """Return the file that a symbolic link leads to."""
    with suppress(OSError):  # no file yet, or a loop of links, which fails when it is opened
        for _ in range(_MAX_LINKS):
            if not stat.S_ISLNK(os.lstat(path).st_mode):
                break
            path = path.parent / path.readlink()
    return path


def identity(name: str | Path) -> Identity | None:
    """Return device and inode of a file, None if it is missing."""
    try:
        about = os.stat(name)  # noqa: PTH116 - on the path of each commit
    except OSError:
        return None
    return about.st_dev, about.st_ino


def file_system(folder: Path, mounts: str) -> str | None:
    """Return the kind of a folder's file system, or None; `mounts` is the text of Linux's `/proc/self/mountinfo`."""
    place, longest, found = str(folder), 0, None
    for line in filter(None, mounts.split("\n")):
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4])
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:
            longest, found = len(point), after.split(" ")[0]
    return found
