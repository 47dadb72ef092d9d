"""Show a run to its end, and let whoever watches it break it off."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

from attrs import frozen

from payouts.cli.terminal import Exit, tell
from payouts.runner import PayoutsStopped
from webhooks import CompletionsFailed, StoreError

if TYPE_CHECKING:
    from payouts.cli.display import Display
    from payouts.runner import PayoutRun

_LOOK_EVERY = 0.2


@frozen(kw_only=True)
class BrokenOff:
    """Why a run ended before its rows did.

    Attributes:
        code: The exit code.
        at_once: Whether somebody wants to be out now.
    """

    code: int
    at_once: bool = False


async def follow(paying: PayoutRun, display: Display) -> BrokenOff | None:
    """Show a run to its end; return what broke it off."""
    loop = asyncio.get_running_loop()
    task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # inside a coroutine there is one
    heard: list[int] = []

    def interrupt(number: int) -> None:
        heard.append(number)
        if len(heard) == 1:
            tell("stopping: nothing more is sent, what is under way is awaited; interrupt again to end now", "yellow")
            paying.stop()
        else:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt, number)
    display.begin(paying.progress)
    looking = loop.create_task(_keep_looking(display))
    broken_off: BrokenOff | None = None
    try:
        async with paying:
            async for entry in paying:
                display.row(entry)
    except (PayoutsStopped, StoreError, CompletionsFailed) as stopped:
        tell(str(stopped), "bold red")
        broken_off = BrokenOff(code=Exit.UNAVAILABLE)
    except asyncio.CancelledError:
        if len(heard) < 2:
            raise
        task.uncancel()
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        display.end()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return BrokenOff(code=128 + heard[0], at_once=len(heard) > 1) if heard else broken_off


async def _keep_looking(display: Display) -> None:
    while True:
        display.look()
        await asyncio.sleep(_LOOK_EVERY)
