"""Notes, kept outside the database, of how much was sent from it, by which a database that was restored is recognised."""

from __future__ import annotations

import fcntl
import os
import re
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

from attrs import frozen

from payouts.ledger.generation import GenerationNote, state_folder
from payouts.states import LedgerError
from rewards_core.errors import UnexpectedResponse
from rewards_core.json import dumps, loads

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RESTORED = "of unknown age: it was restored from a dump"
"""Why nothing is sent from a database whose tables are not those that were paid from."""
_PREFIX = "fleet-"
_first_line = re.compile(rb"([0-9]{20}) ([0-9]{13}\.[0-9]{6})\n").match


@frozen(kw_only=True)
class FleetNoteContents:
    """The contents of a note.

    Attributes:
        vendor: The campaign's vendor.
        name: The campaign's name; it and the vendor are empty if the disk was full.
        mark: What stands for both.
        generation: How many rows were marked as sent, as far as this machine knows.
        at: When the last of them was, in seconds since the epoch.
    """

    vendor: str
    name: str
    mark: str
    generation: int
    at: float


class FleetNote:
    """The note of one campaign on this machine, which its workers share.

    Args:
        folder: The state folder; the user's if not given.

    Attributes:
        generation: The highest generation of the campaign that this machine knows of.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.generation = 0
        self._folder = folder
        self._path: Path | None = None
        self._campaign = ("", "")

    def open(self, identity: str, vendor: str, name: str) -> None:
        """Read the note of a campaign; raises `LedgerError` if it cannot be read."""
        self._campaign = (vendor, name)
        self._path = (self._folder or state_folder()) / f"{_PREFIX}{identity}-{mark_of(vendor, name)}"
        noted = _read(self._path)
        if noted is not None:
            self.generation = max(self.generation, noted.generation)

    def write(self, generation: int, at: float) -> None:
        """Write a generation, unless another worker wrote a higher one; raises `LedgerError` if it cannot be written."""
        if self._path is None:
            raise RuntimeError("open the note before writing it")
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                known = _first_line(os.pread(descriptor, 64, 0))
                self.generation = max(self.generation, generation, int(known[1]) if known else 0)
                os.pwrite(descriptor, b"%020d %020.6f\n%b\n" % (self.generation, at, dumps(self._campaign)), 0)
            finally:
                os.close(descriptor)
        except OSError as problem:
            raise _unusable(self._path, problem) from None


def mark_of(vendor: str, name: str) -> str:
    """Return what stands for a campaign in the name of its note."""
    return sha256(f"{vendor}\0{name}".encode()).hexdigest()[:16]


def fleet_notes(identity: str | None = None, folder: Path | None = None) -> Iterator[FleetNoteContents]:
    """Yield the notes of this machine's campaigns in one database, or in any.

    Raises:
        LedgerError: one cannot be read.
    """
    for path in (folder or state_folder()).glob(f"{_PREFIX}{identity or '*'}-*"):
        noted = _read(path)
        if noted is not None:
            yield noted


def is_paid_elsewhere(identity: str | None, vendor: str, campaign: str, folder: Path | None = None) -> bool:
    """Return whether this user has paid a campaign of that name from another ledger, in a file or in a database."""
    place = folder or state_folder()
    notes = (GenerationNote(path.name.removeprefix("ledger-"), place) for path in place.glob("ledger-*"))
    files = (noted for noted in (note.read() for note in notes if note.path.name != f"ledger-{identity}") if noted is not None)
    databases = (path for path in place.glob(f"{_PREFIX}*") if not path.name.startswith(f"{_PREFIX}{identity}-"))
    return any((vendor, campaign) in noted.campaigns for noted in files) or any(
        (noted.vendor, noted.name) == (vendor, campaign) for noted in map(_read, databases) if noted is not None
    )


def _read(path: Path) -> FleetNoteContents | None:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise _unusable(path, problem) from None
    known = _first_line(content)
    if known is None:
        return None
    vendor = name = ""
    with suppress(UnexpectedResponse, ValueError, TypeError):  # a line truncated by a full disk or a crash
        vendor, name = loads(content[known.end() :])
    return FleetNoteContents(vendor=vendor, name=name, mark=path.name[-16:], generation=int(known[1]), at=float(known[2]))


def _unusable(path: Path, problem: OSError) -> LedgerError:
    return LedgerError(f"{path}: {problem.strerror}. Nothing more was sent. Set XDG_STATE_HOME to a folder that can be written.")
