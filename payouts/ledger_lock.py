"""A lock that is the operating system's: it ends with the process that holds it, however that ends."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

from payouts.states import LedgerError, LedgerInUse

if TYPE_CHECKING:
    from pathlib import Path


class LedgerLock:
    """Keep every other process, and every other `Ledger` of this one, away from a ledger.

    Args:
        path: The ledger; the lock is a file beside it, which stays there.
    """

    def __init__(self, path: Path) -> None:
        self._ledger = path.resolve()  # one lock for one file, under whatever name it is opened
        self._path = self._ledger.with_name(f"{self._ledger.name}.lock")
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LedgerInUse: another process has it.
            LedgerError: the ledger has a second name, or the file beside it cannot be made.
        """
        self._refuse_second_name()
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise LedgerError(
                f"{self._path}: expected a place to write, got: {problem.strerror}; give another --ledger"
            ) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            pid = int(holder) if holder.isdecimal() else None
            raise LedgerInUse(
                f"{self._ledger}: expected to work with it alone, but process {pid or 'unknown'} does; "
                "wait for that run to end or stop it, then start this one again: it continues where that one stood",
                pid=pid,
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        self._descriptor = descriptor

    def _refuse_second_name(self) -> None:
        """Refuse a hard link: under its other name there would be another lock, and another write-ahead log."""
        names = self._ledger.stat().st_nlink if self._ledger.is_file() else 1
        if names > 1:
            raise LedgerError(
                f"{self._ledger}: expected a file with one name, got one with {names} (hard links), which could be paid "
                "from twice at one time; copy it while no run works with it, and remove the other names"
            )

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
