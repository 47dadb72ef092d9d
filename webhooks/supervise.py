"""Background work that is started again when it dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from attrs import field, frozen

from rewards_core.backoff import delay
from rewards_core.clock import loop_time
from rewards_core.validation import number, optional, whole

logger = logging.getLogger(__name__)


@frozen(kw_only=True)
class RestartPolicy:
    """How work that died is started again.

    Attributes:
        first_delay: Seconds before the first restart, above 0; doubled with every death in a row.
        max_delay: Seconds between restarts at most, above 0.
        healthy_after: A task that ran for so many seconds, 0 or more, counts as healthy again.
        deaths: After so many deaths in a row there is no restart, 1 or more; None: always restart.

    Raises:
        TypeError: an attribute is no number, or `deaths` not a whole one.
        ValueError: one is out of range.
    """

    first_delay: float = field(default=0.1, validator=number(above=0))
    max_delay: float = field(default=10.0, validator=number(above=0))
    healthy_after: float = field(default=60.0, validator=number(at_least=0))
    deaths: int | None = field(default=5, validator=optional(whole(at_least=1)))


async def keep_running(
    work: Callable[[], Awaitable[None]],
    *,
    name: str,
    policy: RestartPolicy,
    died: Callable[[Exception], None],
    traceback: bool = True,
) -> None:
    """Run work over and over until cancelled; it is not meant to return.

    Args:
        work: Runs until cancelled.
        name: For the log.
        policy: How it is started again.
        died: Called with every death.
        traceback: Whether the log shows where it died, beside what it died of.

    Raises:
        Exception: what the work died of, when it has died `policy.deaths` times in a row; a `RuntimeError` that names it if it
            is no `Exception`.
    """
    row = 0
    while True:
        started = loop_time()
        try:
            await work()
            return
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as problem:  # whatever it is: a task must not end unseen
            if is_cancelled():  # also where what was cancelled died of it
                raise asyncio.CancelledError from problem
            cause = problem if isinstance(problem, Exception) else _as_exception(problem)
        died(cause)
        row = row + 1 if loop_time() - started < policy.healthy_after else 1
        if policy.deaths is not None and row >= policy.deaths:
            logger.error("%s died %d times in a row and is given up", name, row, exc_info=cause)
            raise cause
        pause = delay(row - 1, first=policy.first_delay, longest=policy.max_delay)
        where = cause if traceback else None
        logger.error("%s died and starts again in %.1f s: %s", name, pause, cause, exc_info=where)
        await asyncio.sleep(pause)


def is_cancelled() -> bool:
    """Return whether somebody asked the running task to end; a `CancelledError` may also come from inside."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _as_exception(problem: BaseException) -> Exception:
    told = RuntimeError(f"expected it to run until cancelled, but it was ended from inside by {type(problem).__name__}")
    told.__cause__ = problem
    return told


async def wait_at_most(event: asyncio.Event, seconds: float | None) -> None:
    """Return when the event is set or the seconds are over; None: only when it is set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
