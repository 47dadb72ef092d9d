"""One log line now and then for what strangers do, instead of one for each thing they do."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging


class QuietLog:
    """Count refusals by reason and log at most one line about them in `every` seconds.

    Args:
        logger: Where the line goes, as a warning.
        every: Seconds between two lines.
        clock: Monotonic seconds.
    """

    def __init__(self, logger: logging.Logger, *, every: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.total: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._logger = logger
        self._every = every
        self._clock = clock
        self._silent_until = float("-inf")

    def note(self, reason: str, client: object) -> None:
        """Count one refusal, and say so unless a line has just been logged.

        Args:
            reason: One of a fixed set of words, never a stranger's text.
            client: Who was refused, for the line.
        """
        self.total[reason] += 1
        self._held[reason] += 1
        now = self._clock()
        if now < self._silent_until:
            return
        self._silent_until = now + self._every
        counts = ", ".join(f"{count} {word}" for word, count in sorted(self._held.items()))
        self._held.clear()
        self._logger.warning("refused since the last such line: %s; the last from %s", counts, client)
