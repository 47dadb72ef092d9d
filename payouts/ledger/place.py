"""Where a ledger is, a file or a PostgreSQL database, and what a command asks before it opens it."""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias, cast

from payouts.ledger.lock import LedgerLock
from payouts.ledger.reader import LedgerReader, is_database
from payouts.ledger.schema import connect_to_write, refuse_moved
from rewards_core.secrets import shielded
from rewards_core.validation import check_path

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from payouts.ledger.generation import Standing
    from payouts.ledger.postgres import PostgresLedger
    from payouts.ledger.postgres_lock import PostgresLock
    from payouts.ledger.reader import Campaign
    from payouts.ledger.sqlite import Ledger
    from rewards_core.postgres.engine import Engine

Lock: TypeAlias = "LedgerLock | PostgresLock"
"""What keeps runs, workers and other commands away from a ledger while it is held."""


class LedgerPlace(ABC):
    """Where a ledger is. Its text is what a person types after `--ledger`, without a password."""

    path: Path | None = None
    """The file; None for a database."""

    @abstractmethod
    def exists(self) -> bool:
        """Return whether there is a ledger.

        Raises:
            LedgerError: the database cannot be used.
        """

    @abstractmethod
    def reader(self) -> LedgerReader:
        """Open the ledger to read it."""

    @abstractmethod
    def lock(self, campaigns: Collection[Campaign] | None = None) -> AbstractContextManager[Lock]:
        """Return a context manager that excludes runs, workers and commands by hand, and yields the lock for `ledger`.

        Args:
            campaigns: The campaigns to lock; None while a file is checked and planned. A ledger in a file is locked as a whole.

        Raises:
            LedgerInUse: somebody works with them.
            LedgerError: the ledger cannot be locked.
        """

    @abstractmethod
    def ledger(self, *, vendor: str, campaign: str, target: str = "", lock: Lock | None = None) -> Ledger | PostgresLedger:
        """Return a ledger, to be opened by `async with`."""

    @abstractmethod
    def standing(self, state: Path | None = None) -> tuple[Standing, float]:
        """Return what is known of its age, and when rows were last sent from a newer copy; 0 where no note says so.

        Earlier findings of an audit say nothing about what was sent since.

        Args:
            state: The folder of this machine's notes; the user's if not given.

        Raises:
            LedgerError: the ledger or a note cannot be read.
        """

    @abstractmethod
    def why(self, found: Standing) -> str:
        """Return in words what is known of its age."""

    def check_newest(self) -> None:
        """Refuse a ledger that is not known to be the newest copy.

        Raises:
            AuditNeeded: it may be an older copy.
            LedgerError: the ledger or a note cannot be read.
        """
        from payouts.ledger.generation import require_newest  # noqa: PLC0415 - it brings cattrs, which readers do not need

        found, _ = self.standing()
        require_newest(self, found, self.why(found))


class FilePlace(LedgerPlace):
    """A ledger in a SQLite file."""

    path: Path

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        """Return whether there is a ledger."""
        return self.path.is_file() and self.path.stat().st_size > 0

    def reader(self) -> LedgerReader:
        """Open the ledger to read it."""
        return LedgerReader(self.path)

    @contextmanager
    def lock(self, campaigns: Collection[Campaign] | None = None) -> Iterator[LedgerLock]:  # noqa: ARG002 - a file is locked whole
        """Lock the file against every other process; a ledger of an older or unfinished layout is migrated."""
        lock = LedgerLock(self.path)
        lock.acquire()
        try:
            if self.exists():
                connect_to_write(self.path).close()
            yield lock
        finally:
            lock.release()

    def ledger(self, *, vendor: str, campaign: str, target: str = "", lock: Lock | None = None) -> Ledger | PostgresLedger:
        """Return a `Ledger`."""
        from payouts.ledger.sqlite import Ledger  # noqa: PLC0415 - commands that only read do not wait for it

        return Ledger(
            self.path, vendor=vendor, campaign=campaign, target=target, lock=cast("LedgerLock | None", lock), clock=time.time
        )

    def standing(self, state: Path | None = None) -> tuple[Standing, float]:
        """Return what this machine's note says of the ledger; a `LedgerError` says that it was moved."""
        from payouts.ledger.generation import GenerationNote, Standing, standing  # noqa: PLC0415

        with self.reader() as reader:
            reader.ask(lambda database: refuse_moved(database, self.path))
            identity, generation, branch = reader.generation()
        noted = GenerationNote(identity, state).read()
        found = standing(generation, branch, noted)
        return found, noted.at if noted is not None and found is Standing.OLDER else 0.0

    def why(self, found: Standing) -> str:
        """Return in words what is known of its age."""
        return found.value


class DatabasePlace(LedgerPlace):
    """A ledger in a PostgreSQL database."""

    @shielded
    def __init__(self, url: str) -> None:
        from rewards_core.postgres.connection import address_of  # noqa: PLC0415 - it needs packages that files do not

        self._address = address_of(url, "--ledger")

    def __str__(self) -> str:
        return self._address.typed

    def exists(self) -> bool:
        """Return whether the database holds a ledger."""
        from payouts.ledger.postgres import holds_ledger  # noqa: PLC0415

        return holds_ledger(self._address.url.reveal())

    def engine(self) -> Engine:
        """Return an engine that writes to the database; its first call creates the tables if they are missing."""
        from payouts.ledger.postgres import engine_of  # noqa: PLC0415

        return engine_of(self._address.url.reveal())

    def reader(self) -> LedgerReader:
        """Open the ledger to read it."""
        return LedgerReader(self._address.url.reveal())

    @contextmanager
    def lock(self, campaigns: Collection[Campaign] | None = None) -> Iterator[PostgresLock]:
        """Keep workers and other commands away from campaigns, or other planners from the database."""
        from payouts.ledger.postgres import lock_of  # noqa: PLC0415

        lock = lock_of(self._address.url.reveal(), None if campaigns is None else [each.number for each in campaigns])
        lock.acquire()
        try:
            yield lock
        finally:
            lock.release()

    def ledger(self, *, vendor: str, campaign: str, target: str = "", lock: Lock | None = None) -> Ledger | PostgresLedger:
        """Return a `PostgresLedger`."""
        from payouts.ledger.postgres import PostgresLedger  # noqa: PLC0415

        return PostgresLedger(
            self._address.url.reveal(), vendor=vendor, campaign=campaign, target=target, lock=cast("PostgresLock | None", lock)
        )

    def standing(self, state: Path | None = None) -> tuple[Standing, float]:
        """Return what the database and this machine's notes say of the ledger."""
        from payouts.ledger.postgres_standing import standing_in  # noqa: PLC0415

        with self.reader() as reader:
            return reader.ask(lambda database: standing_in(database, state))

    def why(self, found: Standing) -> str:
        """Return in words what is known of its age."""
        from payouts.ledger.fleet_note import RESTORED  # noqa: PLC0415
        from payouts.ledger.generation import Standing  # noqa: PLC0415

        return RESTORED if found is Standing.UNKNOWN else found.value


_looks_like_url = re.compile(r"\s*[\w.+-]{2,}:/|.*(?:host|dbname|user|password)\s*=").match
"""Of a text that may hold a password, and must not become the name of a file."""


@shielded
def place_of(ledger: str | Path | LedgerPlace) -> LedgerPlace:
    """Return the place of a ledger from its URL or the name of its file.

    Raises:
        TypeError: it is neither.
        ValueError: it cannot be read, or its extra is not installed; the message shows no password.
    """
    if isinstance(ledger, LedgerPlace):
        return ledger
    if not is_database(ledger):
        if isinstance(ledger, str) and _looks_like_url(ledger):
            raise ValueError("ledger: give the name of a file, or a URL that begins with 'postgresql://'.")
        return FilePlace(check_path(ledger, "ledger"))
    try:
        return DatabasePlace(str(ledger))
    except ImportError as missing:
        raise ValueError(str(missing)) from None
