"""One log line a minute, or a few a second, for what may happen a thousand times a second."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class LogLimit:
    """Say when a line may be logged.

    Args:
        every: Seconds in which so many lines about the same thing may be logged, above 0.
        lines: How many, 1 or more.
        clock: Returns seconds from any moment on, which cannot be set.
    """

    def __init__(self, every: float = 60.0, *, lines: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._lines = lines
        self._clock = clock
        self._logged_at: dict[str, deque[float]] = {}

    def allows(self, about: str) -> bool:
        """Return whether to log a line now, which counts as logged.

        Args:
            about: What the line is about; one of few texts, never a stranger's.
        """
        now = self._clock()
        logged_at = self._logged_at.setdefault(about, deque(maxlen=self._lines))
        if len(logged_at) == self._lines and now - logged_at[0] < self._every:
            return False
        logged_at.append(now)
        return True
