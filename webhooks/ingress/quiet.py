"""One log line now and then about connections that cannot be taken, instead of a traceback for each."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rewards_core.validation import check_number

if TYPE_CHECKING:
    import asyncio
    import logging

_NO_MORE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


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
