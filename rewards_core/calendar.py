"""Whether the wall clock may be believed where something must not happen too early."""

from __future__ import annotations

import logging
from typing import Self

from attrs import astuple, evolve, frozen

from rewards_core.clock import DAY, HOUR
from rewards_core.json import dumps, loads

logger = logging.getLogger(__name__)

_TOLERANCE = HOUR
_BELIEVED_AFTER = DAY


@frozen(kw_only=True)
class Calendar:
    """What is believed of the wall clock: it goes on as the uptime does, and one that was set is believed after a day.

    A host that was off for longer than an hour looks like one whose clock was set ahead, and waits a day too.

    Attributes:
        wall: Unix time that is believed at `uptime`.
        uptime: Seconds since the host was booted.
        boot: Which boot that was.
        offer: What the wall clock was ahead of the uptime when it was first found to be set, None if it is believed.
        offered_at: The uptime of that moment.
    """

    wall: float
    uptime: float
    boot: str
    offer: float | None = None
    offered_at: float = 0.0

    def after(self, uptime: float, boot: str) -> float:
        """Return what the time is by the uptime alone; what passed between two boots is not known."""
        return self.wall + (max(0.0, uptime - self.uptime) if boot == self.boot else 0.0)

    def see(self, wall: float, uptime: float, boot: str) -> Self:
        """Return what is believed after a look at the clocks."""
        believed = self.after(uptime, boot)
        offer = wall - uptime
        same_offer = self.offer is not None and boot == self.boot and abs(offer - self.offer) <= _TOLERANCE
        if abs(wall - believed) <= _TOLERANCE or (same_offer and uptime - self.offered_at >= _BELIEVED_AFTER):
            return evolve(self, wall=wall, uptime=uptime, boot=boot, offer=None)
        if same_offer:
            return evolve(self, wall=believed, uptime=uptime)
        logger.warning("the wall clock was set by %+.0f s, or the host was off; it is believed after a day", wall - believed)
        return evolve(self, wall=believed, uptime=uptime, boot=boot, offer=offer, offered_at=uptime)

    def dump(self) -> bytes:
        """Return it as text to keep, for `load`."""
        return dumps(astuple(self))

    @classmethod
    def load(cls, kept: bytes) -> Self:
        """Return what was kept."""
        wall, uptime, boot, offer, offered_at = loads(kept)
        offer = None if offer is None else float(offer)
        return cls(wall=float(wall), uptime=float(uptime), boot=boot, offer=offer, offered_at=float(offered_at))
