"""How far a ledger had come when it was last paid from, noted apart from it, so that an older copy of it is recognised."""

from __future__ import annotations

import fcntl
import json
import os
import re
from enum import Enum
from pathlib import Path

from payouts.states import LedgerError, LedgerInUse

_DIGITS = 20
_first_line = re.compile(rb"([0-9]{20}) ([0-9]{13}\.[0-9]{6})").fullmatch


class Standing(Enum):
    """What the note says about a ledger."""

    NEWEST = "nothing was sent from a newer copy"
    OLDER = "an older copy of a ledger that was paid from since"
    UNKNOWN = "was paid from, but this machine has no note of it"


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


def standing(generation: int, noted: int | None) -> Standing:
    """Return what a note says about a ledger.

    Args:
        generation: How often the ledger says that rows were marked as sent.
        noted: What the note says, None if there is none.
    """
    if noted is None:
        return Standing.UNKNOWN if generation else Standing.NEWEST
    return Standing.OLDER if noted > generation else Standing.NEWEST


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

    def read(self) -> int | None:
        """Return the generation that is noted, None if nothing is."""
        return self.contents()[0]

    def sent_at(self) -> float:
        """Return when rows of any copy were last marked as sent, in seconds since the epoch; 0 if nothing is noted."""
        return self.contents()[1]

    def campaigns(self) -> list[tuple[str, str]]:
        """Return vendor and name of the campaigns that were paid from any copy."""
        return self.contents()[2]

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
        self._known = set(self.campaigns())

    def write(self, generation: int, vendor: str, campaign: str, at: float) -> None:
        """Note that rows of a campaign are about to be sent.

        Args:
            generation: How often the ledger says that rows were marked as sent.
            vendor: The campaign's vendor.
            campaign: Its name.
            at: Now, in seconds since the epoch.

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
            os.pwrite(descriptor, b"%0*d %020.6f\n" % (_DIGITS, generation, at), 0)
            if (vendor, campaign) not in self._known:
                self._known.add((vendor, campaign))
                line = json.dumps([vendor, campaign]).encode() + b"\n"
                os.pwrite(descriptor, line, os.fstat(descriptor).st_size)
        except OSError as problem:
            raise self._unwritable(problem) from None

    def release(self) -> None:
        """Let other copies be paid from; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def contents(self) -> tuple[int | None, float, list[tuple[str, str]]]:
        """Return the generation, when rows were last marked as sent, and the campaigns."""
        try:
            first, *rest = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return None, 0.0, []
        except OSError as problem:
            raise self._unwritable(problem) from None
        known = _first_line(first)
        if known is None:
            return None, 0.0, []
        return int(known[1]), float(known[2]), [(found[0], found[1]) for line in rest if line for found in [json.loads(line)]]

    def _unwritable(self, problem: OSError) -> LedgerError:
        return LedgerError(
            f"{self.path}: {problem.strerror}. Set XDG_STATE_HOME to a folder that can be written. Nothing more was sent."
        )
