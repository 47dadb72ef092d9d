"""Show a run to its end, and end it early where an interrupt, a lost reader or the vendor asks for that."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from attrs import frozen

from payouts.runner import PayoutsStopped
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import give_up, tell
from webhooks import CompletionsFailed, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from payouts.cli.display import Display
    from payouts.runner import PayoutRun

_LOOK_EVERY = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@frozen(kw_only=True)
class EndedEarly:
    """Why a run ended before its rows did.

    Attributes:
        code: The exit code.
        at_once: Whether a second interrupt asked to end without writing any file.
    """

    code: int
    at_once: bool = False


async def follow(paying: PayoutRun, display: Display) -> EndedEarly | None:
    """Show a run to its end; return why it ended early, None if it did not.

    A display that fails, whatever it raises, stops the sending, like an interrupt: rows under way are still awaited.

    Args:
        paying: The run, not entered yet.
        display: Shows it.
    """
    loop = asyncio.get_running_loop()
    task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # inside a coroutine there is one
    heard: list[int] = []
    lost: list[Exception] = []

    def interrupt(number: int) -> None:
        heard.append(number)
        if len(heard) == 1:
            paying.stop()
            say("Stopping: no further row is sent; waiting for the rows under way. Interrupt again to end now.", "yellow")
        else:
            task.cancel()

    def say(text: str, style: str) -> None:
        if lost:
            tell(text, style)
        else:
            show(display.tell, text, style)

    def show(what: Callable[..., None], *values: object) -> None:
        if lost:
            return
        try:
            what(*values)
        except Exception as problem:  # noqa: BLE001 - no fault of a display may leave rows under way alone
            lost.append(problem)
            give_up()
            paying.stop()
            with suppress(Exception):
                display.end()  # gives the terminal back
            known = problem.strerror if isinstance(problem, OSError) else None
            reason = known or f"{type(problem).__name__}: {problem}"
            tell(f"Cannot show the run ({reason}): no further row is sent; waiting for the rows under way.", "bold red")

    async def keep_looking() -> None:
        while True:
            show(display.look)
            await asyncio.sleep(_LOOK_EVERY)

    signals = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup stays what it is
    for number in signals:
        loop.add_signal_handler(number, interrupt, number)
    show(display.begin, paying.progress)
    looking = loop.create_task(keep_looking())
    ended_early: EndedEarly | None = None
    try:
        async with paying:
            async for entry in paying:
                show(display.row, entry)
    except (PayoutsStopped, StoreError, CompletionsFailed) as stopped:
        say(str(stopped), "bold red")
        ended_early = EndedEarly(code=Exit.UNAVAILABLE)
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
        return EndedEarly(code=128 + heard[0], at_once=len(heard) > 1)
    return EndedEarly(code=Exit.FAULT) if lost else ended_early
