"""One log line a minute for what may happen a thousand times a second."""

from __future__ import annotations

import time
from collections.abc import Callable


class LogLimit:
    """Say when a line may be logged.

    Args:
        every: Seconds between two lines about the same thing, above 0.
        clock: Returns seconds from any moment on, which cannot be set.
    """

    def __init__(self, every: float = 60.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._clock = clock
        self._logged_at: dict[str, float] = {}

    def allows(self, about: str) -> bool:
        """Return whether to log a line now, which counts as logged.

        Args:
            about: What the line is about; one of few texts, never a stranger's.
        """
        now = self._clock()
        if now - self._logged_at.get(about, -self._every) < self._every:
            return False
        self._logged_at[about] = now
        return True
