"""A lock of the operating system, which is released when the process that holds it ends, even by a crash."""

from __future__ import annotations

from typing import TYPE_CHECKING

from payouts.states import LedgerError, LedgerInUse
from rewards_core.errors import StoreError
from rewards_core.sqlite.files import FileLock, check_shareable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class LedgerLock:
    """Keep every other process, and every other `Ledger` of this process, away from a ledger.

    Args:
        path: The ledger; the lock is a file beside it, which stays there.
    """

    def __init__(self, path: Path) -> None:
        self._ledger = path.absolute()
        self._lock = FileLock(self._ledger)

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LedgerInUse: another process uses the ledger.
            LedgerError: the ledger has a second name, lies on a network file system, or the file beside it cannot be made.
        """
        try:
            check_shareable(self._ledger)
        except StoreError as problem:
            raise LedgerError(f"{problem} Nothing was sent.") from None
        self._demand(self._lock.take, "Nothing was sent.", "Name another ledger with --ledger.")

    def check(self) -> None:
        """Make sure that the lock is still held, even if its file beside the ledger was removed.

        Raises:
            LedgerInUse: another process has opened the ledger in the meantime.
            LedgerError: the file beside the ledger cannot be made again.
        """
        self._demand(self._lock.holds, "Nothing more was sent.", "Make it writable, then run the same command again.")

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        self._lock.release()

    def _demand(self, ask: Callable[[], bool], sent: str, advice: str) -> None:
        try:
            given = ask()
        except OSError as problem:
            raise LedgerError(f"{self._lock.path} cannot be written: {problem.strerror}. {sent} {advice}") from None
        if not given:
            pid = self._lock.holder()
            raise LedgerInUse(
                f"{self._ledger} is in use by {f'process {pid}' if pid else 'another process'}. {sent} Wait until it ends, or "
                "stop it; then run this command again: it continues where that process stopped.",
                pid=pid,
            )
