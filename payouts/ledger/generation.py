"""How far a ledger had come when it was last paid from, noted apart from it, so that an older copy of it is recognised."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from contextlib import suppress
from enum import Enum
from pathlib import Path

from attrs import frozen

from payouts.states import LedgerError, LedgerInUse
from rewards_core.errors import UnexpectedResponse
from rewards_core.json import dumps, loads

_first_line = re.compile(rb"([0-9]{20}) ([0-9]{13}\.[0-9]{6}) (\S{16}) (\S{16})").fullmatch
_NO_BRANCH = "-" * 16


class Standing(Enum):
    """What the note says about a ledger."""

    NEWEST = "nothing was sent from a newer copy"
    OLDER = "an older copy of a ledger that was paid from since"
    UNKNOWN = "of unknown age: it was paid from, and this user has no note of that on this machine"


def state_folder() -> Path:
    """Return the folder in which this user's programs remember things between runs, made if it is not there.

    Raises:
        LedgerError: there is none, or it cannot be made.
    """
    place = os.environ.get("XDG_STATE_HOME")
    try:
        folder = Path(place) if place else Path.home() / ".local" / "state"
        folder = folder / "rewards-async"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except RuntimeError:
        told = "This user has no home directory. Set XDG_STATE_HOME to a folder that is kept between runs. Nothing was sent."
        raise LedgerError(told) from None
    except OSError as problem:
        told = f"{problem.filename}: {problem.strerror}. Set XDG_STATE_HOME to a folder that can be written. Nothing was sent."
        raise LedgerError(told) from None
    return folder


def is_paid_elsewhere(identity: str | None, vendor: str, campaign: str, folder: Path | None = None) -> bool:
    """Return whether this user has paid a campaign of that name from another ledger.

    Args:
        identity: The name of the ledger that is meant, None if there is none yet.
        vendor: The campaign's vendor.
        campaign: Its name.
        folder: The state folder; the user's if not given.
    """
    notes = (folder or state_folder()).glob("ledger-*")
    others = (
        GenerationNote(path.name.removeprefix("ledger-"), path.parent) for path in notes if path.name != f"ledger-{identity}"
    )
    return any((vendor, campaign) in noted.campaigns for noted in (note.read() for note in others) if noted is not None)


@frozen(kw_only=True)
class Noted:
    """What a note says.

    Attributes:
        generation: How often rows were marked as sent, in all copies of the ledger one after the other.
        at: When they last were, in seconds since the epoch.
        branches: The branches of the ledger that may go on: that of the copy that was paid from last, and the one it was about
            to begin.
        campaigns: Vendor and name of the campaigns that were paid from any copy.
    """

    generation: int
    at: float
    branches: tuple[str, str]
    campaigns: tuple[tuple[str, str], ...] = ()


def standing(generation: int, branch: str | None, noted: Noted | None) -> Standing:
    """Return what a note says about a ledger.

    Args:
        generation: How often the ledger says that rows were marked as sent.
        branch: The ledger's own branch, a new one for each opening in which rows are marked as sent; None before the first.
        noted: What the note says, None if there is none.
    """
    if noted is None:
        return Standing.UNKNOWN if generation else Standing.NEWEST
    is_newest = noted.generation <= generation and (branch or _NO_BRANCH) in noted.branches
    return Standing.NEWEST if is_newest else Standing.OLDER


class GenerationNote:
    """The note of one ledger and of all its copies, in the state folder.

    Args:
        identity: The name that the copies share.
        folder: The state folder; the user's if not given.
    """

    def __init__(self, identity: str, folder: Path | None = None) -> None:
        self.path = (folder or state_folder()) / f"ledger-{identity}"
        self._descriptor: int | None = None
        self._known: set[tuple[str, str]] = set()

    def take(self) -> None:
        """Keep other copies of the ledger from being paid from.

        Raises:
            LedgerInUse: another copy is being paid from.
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
            told = "Another copy of this ledger is being paid from. Nothing was sent from this one. Keep one copy only."
            raise LedgerInUse(told, pid=None) from None
        self._descriptor = descriptor
        noted = self.read()
        self._known = set(noted.campaigns) if noted else set()

    def write(
        self, generation: int, at: float, branches: tuple[str | None, str], campaign: tuple[str, str] | None = None
    ) -> None:
        """Note how far the ledger has come.

        Args:
            generation: How often the ledger says that rows were marked as sent.
            at: Now, in seconds since the epoch.
            branches: The branch of the ledger and the one that it begins now; both the same once it has begun.
            campaign: Vendor and name of the campaign whose rows are about to be sent, None if that is not known yet.

        Raises:
            LedgerError: the note cannot be written, or is no longer where it was.
        """
        descriptor = self._descriptor
        if descriptor is None:
            raise RuntimeError("take the note before you write it")
        try:
            if not os.fstat(descriptor).st_nlink:
                raise LedgerError(
                    f"{self.path}: the note was removed while the ledger was paid from. Run the same command again."
                )
            known, new = (branch or _NO_BRANCH for branch in branches)
            self._put(descriptor, f"{generation:020} {at:020.6f} {known} {new}\n".encode(), 0)
            if campaign is not None and campaign not in self._known:
                self._put(descriptor, dumps(campaign) + b"\n", os.fstat(descriptor).st_size)
                self._known.add(campaign)
        except OSError as problem:
            raise self._unwritable(problem) from None

    def release(self) -> None:
        """Let other copies be paid from; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def read(self) -> Noted | None:
        """Return what is noted, None if nothing is.

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
            with suppress(UnexpectedResponse, ValueError, TypeError):  # a line that was cut off by a full disk or a crash
                vendor, name = loads(line)
                campaigns.append((str(vendor), str(name)))
        branches = (known[3].decode(), known[4].decode())
        return Noted(generation=int(known[1]), at=float(known[2]), branches=branches, campaigns=tuple(campaigns))

    def _put(self, descriptor: int, data: bytes, place: int) -> None:
        """Write a few bytes whole; a full disk may take some of them only."""
        if os.pwrite(descriptor, data, place) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _unwritable(self, problem: OSError) -> LedgerError:
        return LedgerError(
            f"{self.path}: {problem.strerror}. Set XDG_STATE_HOME to a folder that can be written. Nothing more was sent."
        )
