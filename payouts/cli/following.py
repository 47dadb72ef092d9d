"""Show a run to its end, and let whoever watches it break it off."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

from attrs import frozen

from payouts.cli.terminal import Exit
from payouts.runner import PayoutsStopped
from webhooks import CompletionsFailed, StoreError
from webhooks.cli.terminal import tell

if TYPE_CHECKING:
    from collections.abc import Callable

    from payouts.cli.display import Display
    from payouts.runner import PayoutRun
    from webhooks.cli.terminal import Output

_LOOK_EVERY = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@frozen(kw_only=True)
class BrokenOff:
    """Why a run ended before its rows did.

    Attributes:
        code: The exit code.
        at_once: Whether somebody wants to be out now.
    """

    code: int
    at_once: bool = False


async def follow(paying: PayoutRun, display: Display, output: Output) -> BrokenOff | None:
    """Show a run to its end; return what broke it off."""
    loop = asyncio.get_running_loop()
    task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # inside a coroutine there is one
    heard: list[int] = []
    lost: list[OSError] = []

    def interrupt(number: int) -> None:
        heard.append(number)
        if len(heard) == 1:
            paying.stop()
            told = "stopping: nothing more is sent, what is under way is awaited; interrupt again to end now"
            show(display.tell, told, "yellow")
        else:
            task.cancel()

    def show(what: Callable[..., None], *values: object) -> None:
        try:
            what(*values)
        except OSError as problem:  # a pipe whose reader has gone, a full disk: no reason to leave what is under way alone
            lost.append(problem)
            output.give_up()
            paying.stop()
            told = problem.strerror or type(problem).__name__
            tell(f"standard output: {told}; nothing more is sent, what is under way is awaited", "bold red")

    async def keep_looking() -> None:
        while True:
            show(display.look)
            await asyncio.sleep(_LOOK_EVERY)

    signals = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup stays what it is
    for number in signals:
        loop.add_signal_handler(number, interrupt, number)
    show(display.begin, paying.progress)
    looking = loop.create_task(keep_looking())
    broken_off: BrokenOff | None = None
    try:
        async with paying:
            async for entry in paying:
                show(display.row, entry)
    except (PayoutsStopped, StoreError, CompletionsFailed) as stopped:
        show(display.tell, str(stopped), "bold red")
        broken_off = BrokenOff(code=Exit.UNAVAILABLE)
    except asyncio.CancelledError:
        if len(heard) < 2:
            raise
        task.uncancel()
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        show(display.end)
        for number in signals:
            loop.remove_signal_handler(number)
    if heard:
        return BrokenOff(code=128 + heard[0], at_once=len(heard) > 1)
    return BrokenOff(code=Exit.FAULT) if lost else broken_off
