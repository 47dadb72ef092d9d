"""A limit on log lines about what may happen a thousand times a second."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class LogLimit:
    """Allow `lines` log lines about the same thing in `every` seconds."""

    def __init__(self, every: float = 60.0, *, lines: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._lines = lines
        self._clock = clock
        self._logged_at: dict[str, deque[float]] = {}

    def allows(self, about: str) -> bool:
        """Return whether to log a line about this subject now; subjects are a small fixed set, never untrusted input."""
        now = self._clock()
        logged_at = self._logged_at.setdefault(about, deque(maxlen=self._lines))
        if len(logged_at) == self._lines and now - logged_at[0] < self._every:
            return False
        logged_at.append(now)
        return True
