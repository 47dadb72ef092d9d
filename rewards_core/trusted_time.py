"""A wall clock that cannot be set ahead, for what must not happen too early."""

from __future__ import annotations

import logging
from typing import Self

from attrs import astuple, evolve, frozen

from rewards_core.clock import DAY, HOUR
from rewards_core.json import dumps, loads

logger = logging.getLogger(__name__)

_TOLERANCE = HOUR
_TRUSTED_AFTER = DAY


@frozen(kw_only=True)
class TrustedTime:
    """Unix time that advances with the uptime. A wall clock that was set is trusted after a day.

    A host that was off for more than an hour looks like one whose clock was set ahead, and waits a day too.

    Attributes:
        wall: The trusted Unix time at `uptime`.
        uptime: Seconds since the host was booted.
        boot: The id of that boot.
        offer: Wall clock minus uptime when the clock was found to be set, None while it is trusted.
        offered_at: The uptime of that moment.
    """

    wall: float
    uptime: float
    boot: str
    offer: float | None = None
    offered_at: float = 0.0

    def expected(self, uptime: float, boot: str) -> float:
        """Return the time by the uptime alone; the time between two boots is not counted."""
        return self.wall + (max(0.0, uptime - self.uptime) if boot == self.boot else 0.0)

    def update(self, wall: float, uptime: float, boot: str) -> Self:
        """Return the trusted time after reading the clocks."""
        expected = self.expected(uptime, boot)
        offer = wall - uptime
        same_offer = self.offer is not None and boot == self.boot and abs(offer - self.offer) <= _TOLERANCE
        if abs(wall - expected) <= _TOLERANCE or (same_offer and uptime - self.offered_at >= _TRUSTED_AFTER):
            return evolve(self, wall=wall, uptime=uptime, boot=boot, offer=None)
        if same_offer:
            return evolve(self, wall=expected, uptime=uptime)
        logger.warning("the wall clock was set by %+.0f s, or the host was off; it is trusted after a day", wall - expected)
        return evolve(self, wall=expected, uptime=uptime, boot=boot, offer=offer, offered_at=uptime)

    def dump(self) -> bytes:
        """Return the text that `load` reads."""
        return dumps(astuple(self))

    @classmethod
    def load(cls, kept: bytes) -> Self:
        """Read the text of `dump`."""
        wall, uptime, boot, offer, offered_at = loads(kept)
        offer = None if offer is None else float(offer)
        return cls(wall=float(wall), uptime=float(uptime), boot=boot, offer=offer, offered_at=float(offered_at))
