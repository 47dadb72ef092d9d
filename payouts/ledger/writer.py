"""The one thread that changes a ledger. It commits waiting changes together, and only while the file is in its place.

Before rows are first marked as sent, the thread makes sure that this is the newest copy of the ledger, and notes in the state
folder the generation of the ledger, so that an older copy is recognised later.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from payouts.ledger import steps
from payouts.ledger.generation import GenerationNote, require_newest, standing
from payouts.ledger.lock import LedgerLock
from payouts.ledger.schema import connect_to_write, seal_branch
from payouts.states import AuditNeeded, Entry, LedgerError, State
from rewards_core.batches import Call
from rewards_core.sqlite.batches import BatchThread
from rewards_core.sqlite.connection import Connection, transaction
from rewards_core.sqlite.files import OpenFiles

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

T = TypeVar("T")

_NOT_OPEN = "is not open; use it inside `async with`"
_CLOSED = "is closed; make another Ledger to go on"


class LedgerWriter:
    """Run work on the ledger's connection, in batches of one transaction and one fsync; results are durable.

    Work that raises a `LedgerError` must leave the database unchanged; the error reaches only its caller. Any other error undoes
    the whole batch, and nothing is written after it.

    Args:
        path: The ledger.
        campaign: Vendor and name of the campaign whose rows are sent.
        lock: The ledger's lock, if it was taken already; released when the writer is closed.
        state: The state folder; the user's if not given.

    Attributes:
        commits: How many batches were committed.
    """

    _files: OpenFiles
    _held: LedgerLock

    def __init__(
        self,
        path: Path,
        *,
        campaign: tuple[str, str],
        lock: LedgerLock | None,
        state: Path | None,
    ) -> None:
        self.commits = 0
        self._path = path
        self._campaign = campaign
        self._lock = lock
        self._state = state
        self._thread = BatchThread(f"ledger {path}", self._run, notify=_nothing, end=self._disconnect)
        self._database: Connection | None = None
        self._closed: str | None = _NOT_OPEN
        self._broken: LedgerError | None = None
        self._note: GenerationNote | None = None
        self._generation = 0
        self._branch: str | None = None
        self._branch_begun = False
        self._sent_at: float | None = None

    async def open(self) -> None:
        """Start the thread, take the lock and open the file.

        Raises:
            LedgerInUse: another process has the lock.
            LedgerError: the file is not a ledger or cannot be written, or the ledger was closed before.
        """
        if self._closed == _CLOSED:
            self._check_open()
        self._closed = None
        await self.run(_nothing)

    async def aclose(self) -> None:
        """Finish the work that waits, close the file and release the lock; a second call does nothing.

        If this is cancelled, the thread does the same a little later.
        """
        if self._closed is None:
            self._closed = _CLOSED
        await self._thread.aclose()
        self._release()  # if it was never opened

    def run(self, work: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Return the result of work once it is durable; the work is done even if the caller is cancelled.

        Args:
            work: Reads and writes.

        Raises:
            LedgerError: from the work, or because the ledger can no longer be written.
        """
        self._check_open()
        return self._thread.submit(Call[T](work))

    def read(self, work: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Return the result of work that changes nothing; it costs no commit."""
        self._check_open()
        return self._thread.submit(_Read[T](work))

    def move(self, rows: Sequence[steps.Step]) -> asyncio.Future[list[Entry]]:
        """Write steps of rows, each by itself, together with others of about the same time.

        Raises:
            InvalidTransition: when awaited: a row is no longer in the state that its step starts from.
            LedgerError: as `run`.
        """
        self._check_open()
        return self._thread.submit(Call[list[Entry]](_nothing, rows))

    # on the thread

    def begin_sending(self, database: Connection) -> None:
        """Make sure, once, that nothing was sent from a newer copy of this ledger, and keep other copies from sending.

        Raises:
            AuditNeeded: this may be an older copy.
            LedgerInUse: another copy of the ledger is in use.
        """
        if self._note is not None:
            return
        identity, self._generation, self._branch = database.execute("SELECT identity, generation, branch FROM ledger").get
        note = GenerationNote(identity, self._state)
        note.take()
        try:
            require_newest(self._path, standing(self._generation, self._branch, note.read()))
        except AuditNeeded:
            note.release()
            raise
        self._note = note

    def count_sent(self, at: float, database: Connection) -> None:
        """Count a commit that marks rows as sent; the first starts a branch, which tells this ledger from earlier copies."""
        self.begin_sending(database)
        if not self._branch_begun and self._sent_at is None and self._note is not None:
            branch = secrets.token_hex(8)
            self._note.write(self._generation, at, (self._branch, branch))
            self._branch = branch
            database.execute("UPDATE ledger SET branch = ?", (self._branch,))
        self._generation += 1
        self._sent_at = at
        database.execute("UPDATE ledger SET generation = ?", (self._generation,))

    def _run(self, batch: Sequence[Call[Any]]) -> list[Any]:
        try:
            if self._broken is None:
                self._do(batch, self._database or self._connect())
        except LedgerError as problem:
            self._broken = problem
        except Exception as problem:  # noqa: BLE001 - every caller must learn of it, whatever it is
            self._broken = LedgerError(
                f"{self._path} cannot be written: {problem}. Nothing more was sent. Check its disk, then run again."
            )
        if self._broken is not None:
            for call in batch:
                call.error = copy.copy(self._broken)
        return []

    def _do(self, batch: Sequence[Call[Any]], database: Connection) -> None:
        if all(isinstance(call, _Read) for call in batch):
            _run_each(batch, database)
            return
        self._held.check()
        with transaction(database):
            moves = [call for call in batch if call.item is not None]
            if moves:
                self._move(moves, database)
            _run_each((call for call in batch if call.item is None), database)
        self._after_commit(database)
        self.commits += 1

    def _move(self, calls: Sequence[Call[Any]], database: Connection) -> None:
        wanted: list[Any] = [step for call in calls for step in call.item]  # type: ignore[attr-defined]
        try:
            sent_at = [now.sent_at for _, now in wanted if now.state is State.SENT]
            if sent_at:
                self.count_sent(sent_at[-1], database)
        except LedgerError as refusal:
            for call in calls:
                call.error = copy.copy(refusal)
            return
        problems = iter(steps.write_each(wanted, database))
        for call in calls:
            rows: Any = call.item
            call.result = [now for _, now in rows]
            call.error = next(filter(None, [next(problems) for _ in rows]), None)

    def _connect(self) -> Connection:
        if self._lock is None:
            self._lock = LedgerLock(self._path)
            self._lock.acquire()
        self._held = self._lock
        database = self._database = connect_to_write(self._path)
        self._files = OpenFiles(self._path)
        return database

    def _after_commit(self, database: Connection) -> None:
        """Record the ledger's generation; raise if the file was replaced, because a later run would not find the rows."""
        if not self._files.intact:
            raise LedgerError(
                f"{self._path}: the ledger or its -wal file was moved, deleted or replaced while it was open. Put both back "
                "before you run again; without them the ledger does not know the payments made since."
            )
        if self._sent_at is not None and self._note is not None and self._branch is not None:
            self._note.write(self._generation, self._sent_at, (self._branch, self._branch), self._campaign)
            self._sent_at = None
            if not self._branch_begun:
                self._branch_begun = True
                seal_branch(database)

    def _disconnect(self) -> None:
        try:
            if self._database is not None:
                self._database.close()
        finally:
            self._release()

    def _release(self) -> None:
        if self._note is not None:
            self._note.release()
        if self._lock is not None:
            self._lock.release()

    def _check_open(self) -> None:
        if self._closed is not None:
            raise LedgerError(f"{self._path}: the ledger {self._closed}.")


class _Read(Call[T]):
    """Work that changes nothing."""

    __slots__ = ()


def _run_each(calls: Iterable[Call[Any]], database: Connection) -> None:
    for call in calls:
        try:
            call.result = call.run(database)
        except LedgerError as problem:
            call.error = problem


def _nothing(_: object) -> None:
    """Do nothing."""
