"""A note of a ledger's generation, kept outside the ledger, by which an older copy of the ledger is recognised."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from payouts.states import AuditNeeded, LedgerError, LedgerInUse
from rewards_core.errors import UnexpectedResponse
from rewards_core.json import dumps, loads

if TYPE_CHECKING:
    from payouts.ledger.base import Database

_first_line = re.compile(rb"([0-9]{20}) ([0-9]{13}\.[0-9]{6}) (\S{16}) (\S{16})").fullmatch
_NO_BRANCH = "-" * 16


class Standing(Enum):
    """What the note says about a ledger."""

    NEWEST = "nothing was sent from a newer copy"
    OLDER = "an older copy of a ledger that was paid from since"
    UNKNOWN = "of unknown age: it was paid from, but this user has no note of that on this machine"


def state_folder() -> Path:
    """Return the user's state folder of this program, created if necessary.

    Raises:
        LedgerError: it does not exist and cannot be created.
    """
    place = os.environ.get("XDG_STATE_HOME")
    try:
        folder = Path(place) if place else Path.home() / ".local" / "state"
        folder = folder / "rewards-async"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except RuntimeError:
        told = "This user has no home directory. Nothing was sent. Set XDG_STATE_HOME to a folder that is kept between runs."
        raise LedgerError(told) from None
    except OSError as problem:
        told = f"{problem.filename}: {problem.strerror}. Nothing was sent. Set XDG_STATE_HOME to a folder that can be written."
        raise LedgerError(told) from None
    return folder


@frozen(kw_only=True)
class NoteContents:
    """The contents of a note.

    Attributes:
        generation: How many commits marked rows as sent, over all copies of the ledger.
        at: When the last of them was, in seconds since the epoch.
        branches: The branches that may be used to pay: that of the copy that paid last, and the branch it was about to begin.
        campaigns: Vendor and name of the campaigns that were paid from any copy.
    """

    generation: int
    at: float
    branches: tuple[str, str]
    campaigns: tuple[tuple[str, str], ...] = ()


def standing(generation: int, branch: str | None, noted: NoteContents | None) -> Standing:
    """Return what a note says about a ledger."""
    if noted is None:
        return Standing.UNKNOWN if generation else Standing.NEWEST
    is_newest = noted.generation <= generation and (branch or _NO_BRANCH) in noted.branches
    return Standing.NEWEST if is_newest else Standing.OLDER


def require_newest(ledger: object, found: Standing, why: str | None = None) -> None:
    """Refuse a ledger that is not known to be the newest copy; `why` replaces the words of its standing.

    Raises:
        AuditNeeded: it may be an older copy.
    """
    if found is not Standing.NEWEST:
        raise AuditNeeded(ledger, why or found.value, may_be_newest=found is Standing.UNKNOWN)


def identity_in(database: Database) -> str:
    """Return the identity that all copies of a ledger share."""
    return str(database.execute("SELECT identity FROM ledger").get)


class GenerationNote:
    """The note of a ledger and all its copies, in the state folder.

    Args:
        identity: The identity that all copies share.
        folder: The state folder; the user's if not given.
    """

    def __init__(self, identity: str, folder: Path | None = None) -> None:
        self.path = (folder or state_folder()) / f"ledger-{identity}"
        self._descriptor: int | None = None
        self._known: set[tuple[str, str]] = set()

    def take(self) -> None:
        """Lock the note, so that no other copy of the ledger can be used to pay.

        Raises:
            LedgerInUse: a run pays from another copy.
            LedgerError: the note cannot be written.
        """
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            raise self._unwritable(problem) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            told = "A run pays from another copy of this ledger. Nothing was sent from this one. Keep one copy only."
            raise LedgerInUse(told, pid=None) from None
        self._descriptor = descriptor
        noted = self.read()
        self._known = set(noted.campaigns) if noted else set()

    def write(
        self, generation: int, at: float, branches: tuple[str | None, str], campaign: tuple[str, str] | None = None
    ) -> None:
        """Write the ledger's generation.

        Args:
            generation: The ledger's generation.
            at: Now, in seconds since the epoch.
            branches: The branch of the ledger and the one it begins now; the same twice once it has begun.
            campaign: Vendor and name of the campaign whose rows are about to be sent, None if not known yet.

        Raises:
            LedgerError: the note cannot be written, or was removed.
        """
        descriptor = self._descriptor
        if descriptor is None:
            raise RuntimeError("take the note before writing it")
        try:
            if not os.fstat(descriptor).st_nlink:
                raise LedgerError(
                    f"{self.path}, which records the newest copy of the ledger, was removed during the run. Nothing more was "
                    "sent. Run the same command again."
                )
            known, new = (branch or _NO_BRANCH for branch in branches)
            self._put(descriptor, f"{generation:020} {at:020.6f} {known} {new}\n".encode(), 0)
            if campaign is not None and campaign not in self._known:
                self._put(descriptor, dumps(campaign) + b"\n", os.fstat(descriptor).st_size)
                self._known.add(campaign)
        except OSError as problem:
            raise self._unwritable(problem) from None

    def release(self) -> None:
        """Unlock the note; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def read(self) -> NoteContents | None:
        """Return the contents of the note, None if there are none.

        Raises:
            LedgerError: the note cannot be read.
        """
        try:
            first, *rest = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return None
        except OSError as problem:
            raise self._unwritable(problem) from None
        known = _first_line(first)
        if known is None:
            return None
        campaigns = []
        for line in rest:
            with suppress(UnexpectedResponse, ValueError, TypeError):  # a line truncated by a full disk or a crash
                vendor, name = loads(line)
                campaigns.append((str(vendor), str(name)))
        branches = (known[3].decode(), known[4].decode())
        return NoteContents(generation=int(known[1]), at=float(known[2]), branches=branches, campaigns=tuple(campaigns))

    def _put(self, descriptor: int, data: bytes, place: int) -> None:
        """Write all bytes; a full disk may take only some of them."""
        if os.pwrite(descriptor, data, place) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _unwritable(self, problem: OSError) -> LedgerError:
        return LedgerError(
            f"{self.path}: {problem.strerror}. Nothing more was sent. Set XDG_STATE_HOME to a folder that can be written."
        )
