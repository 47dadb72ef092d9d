"""Background tasks that are restarted when they crash."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from attrs import field, frozen

from rewards_core.backoff import delay
from rewards_core.clock import loop_time
from rewards_core.errors import StoreClosed
from rewards_core.validation import number, optional, whole

logger = logging.getLogger(__name__)


@frozen(kw_only=True)
class RestartPolicy:
    """How a crashed task is restarted.

    Attributes:
        first_delay: Seconds before the first restart, above 0; doubled with each consecutive crash.
        max_delay: Maximum seconds before a restart, above 0.
        healthy_after: Seconds, 0 or more. A task that ran this long counts as healthy again.
        max_crashes: Consecutive crashes after which the task is not restarted, 1 or more; None restarts it always.

    Raises:
        TypeError: an attribute is not a number, or `max_crashes` is not a whole number.
        ValueError: an attribute is out of range.
    """

    first_delay: float = field(default=0.1, validator=number(above=0))
    max_delay: float = field(default=10.0, validator=number(above=0))
    healthy_after: float = field(default=60.0, validator=number(at_least=0))
    max_crashes: int | None = field(default=5, validator=optional(whole(at_least=1)))


async def keep_running(
    work: Callable[[], Awaitable[None]],
    *,
    name: str,
    policy: RestartPolicy,
    died: Callable[[Exception], None],
    traceback: bool = True,
) -> None:
    """Run `work`, which should not return, and restart it when it crashes, until cancelled.

    Args:
        work: Runs until cancelled.
        name: For the log.
        policy: How it is restarted.
        died: Called with the error of each crash.
        traceback: Whether the log shows tracebacks.

    Raises:
        StoreClosed: a store that `work` uses was closed, after which no restart would help.
        Exception: the error of the crash number `policy.max_crashes` in a row; a `RuntimeError` if that is not an `Exception`.
    """
    crashes = 0
    while True:
        started = loop_time()
        try:
            await work()
            return
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as problem:  # no task may end unnoticed
            if is_cancelled():  # also if the cancelled work raised something else
                raise asyncio.CancelledError from problem
            if _is_of_closed_store(problem):
                raise StoreClosed("The store was closed while tasks used it. Close it after whatever uses it.") from problem
            cause = problem if isinstance(problem, Exception) else _as_exception(problem)
        died(cause)
        crashes = crashes + 1 if loop_time() - started < policy.healthy_after else 1
        if policy.max_crashes is not None and crashes >= policy.max_crashes:
            logger.error("%s crashed %d times in a row and is not restarted", name, crashes, exc_info=cause)
            raise cause
        pause = delay(crashes - 1, first=policy.first_delay, longest=policy.max_delay)
        where = cause if traceback else None
        logger.error("%s crashed and is restarted in %.1f s: %s", name, pause, cause, exc_info=where)
        await asyncio.sleep(pause)


def is_cancelled() -> bool:
    """Return whether the running task is being cancelled; a `CancelledError` may also come from what it calls."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _is_of_closed_store(problem: BaseException) -> bool:
    """Return whether an error is a `StoreClosed`, or a group of errors with one in it."""
    return isinstance(problem, StoreClosed) or (
        isinstance(problem, BaseExceptionGroup) and problem.subgroup(StoreClosed) is not None
    )


def _as_exception(problem: BaseException) -> Exception:
    error = RuntimeError(f"It raised {type(problem).__name__}, but nobody cancelled it.")
    error.__cause__ = problem
    return error


async def wait_at_most(event: asyncio.Event, seconds: float | None) -> None:
    """Wait for the event, for at most `seconds`; None waits without a limit."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
