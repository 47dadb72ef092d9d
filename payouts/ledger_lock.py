"""A lock that is the operating system's: it ends with the process that holds it, however that ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from payouts.states import LedgerError, LedgerInUse
from webhooks.store.sqlite_guard import WriterLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class LedgerLock:
    """Keep every other process, and every other `Ledger` of this one, away from a ledger.

    Args:
        path: The ledger; the lock is a file beside it, which stays there.
    """

    def __init__(self, path: Path) -> None:
        self._ledger = path.absolute()
        self._lock = WriterLock(self._ledger)

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            LedgerInUse: another process has it.
            LedgerError: the ledger has a second name, or the file beside it cannot be made.
        """
        self._refuse_second_name()
        self._demand(self._lock.take)

    def check(self) -> None:
        """Make sure that it is still held, also where somebody has removed the file beside the ledger.

        Raises:
            LedgerInUse: another process has it by now.
            LedgerError: the file beside the ledger cannot be made anew.
        """
        self._demand(self._lock.holds)

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        self._lock.release()

    def _demand(self, ask: Callable[[], bool]) -> None:
        try:
            given = ask()
        except OSError as problem:
            raise LedgerError(
                f"{self._lock.path} cannot be written: {problem.strerror}. Nothing was sent. Name another ledger with --ledger."
            ) from None
        if not given:
            pid = self._lock.holder()
            raise LedgerInUse(
                f"{self._ledger} is in use by process {pid or 'unknown'}. Nothing was sent. Wait until it ends, or stop it; "
                "then run this command again: it continues where that one stopped.",
                pid=pid,
            )

    def _refuse_second_name(self) -> None:
        """Refuse a hard link: under its other name there would be another lock, and another write-ahead log."""
        names = self._ledger.stat().st_nlink if self._ledger.is_file() else 1
        if names > 1:
            raise LedgerError(
                f"{self._ledger} has {names} names (hard links), and could be paid from twice at one time. Nothing was sent. "
                "Copy it while no run works with it, and remove the other names."
            )
