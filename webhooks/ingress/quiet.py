"""One log line now and then for what strangers do, instead of one for each thing they do."""

from __future__ import annotations

import errno
import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rewards_core.clock import loop_time
from rewards_core.validation import check_instance, check_number

if TYPE_CHECKING:
    import asyncio

_NO_MORE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class QuietLog:
    """Count refusals by reason and log at most one line about them in `every` seconds.

    Args:
        logger: Where the line goes, as a warning.
        every: Seconds between two lines, 0 or more.

    Raises:
        TypeError: an argument is of another type.
        ValueError: `every` is negative or not finite.
    """

    def __init__(self, logger: logging.Logger, *, every: float = 10.0) -> None:
        self.total: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._logger = check_instance(logger, "logger", logging.Logger)
        self._every = check_number(every, "every", at_least=0, unit="seconds")
        self._silent_until = float("-inf")

    def note(self, reason: str, client: object) -> None:
        """Count one refusal, and say so unless a line has just been logged.

        Args:
            reason: One of a fixed set of words, never a stranger's text.
            client: Who was refused, for the line.
        """
        self.total[reason] += 1
        self._held[reason] += 1
        now = loop_time()
        if now < self._silent_until:
            return
        self._silent_until = now + self._every
        counts = ", ".join(f"{count} {word}" for word, count in sorted(self._held.items()))
        self._held.clear()
        self._logger.warning("refused since the last such line: %s; the last from %s", counts, client)


def quiet_about_accepting(logger: logging.Logger, *, every: float = 10.0) -> Callable[[asyncio.AbstractEventLoop, Any], None]:
    """Return a loop's exception handler that tells in a line, at most one in `every` seconds, that no connection can be taken.

    asyncio logs a traceback for each connection in the queue, which fills a log, or the pipe it goes to, in a moment.
    """
    check_number(every, "every", at_least=0, unit="seconds")
    silent_until = float("-inf")

    def handle(loop: asyncio.AbstractEventLoop, context: Any) -> None:
        nonlocal silent_until
        problem = context.get("exception")
        if not isinstance(problem, OSError) or problem.errno not in _NO_MORE:
            loop.default_exception_handler(context)
        elif loop.time() >= silent_until:
            silent_until = loop.time() + every
            logger.error("no further connection could be taken: %s", problem.strerror)

    return handle
