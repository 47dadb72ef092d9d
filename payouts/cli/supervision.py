"""Show some work to its end, and end it early where an interrupt, a lost reader or the vendor asks for that."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from attrs import frozen

from payouts.runner import PayoutsStopped
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import give_up, tell
from webhooks import CompletionsFailed, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

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


class Shows(Protocol):
    """Shows how far some work has come."""

    def look(self) -> None:
        """Show it; called often."""
        ...

    def end(self) -> None:
        """Show it for the last time and give the terminal back."""
        ...


class Watch:
    """Show some work to its end: an interrupt, or a display that fails, only asks it to take up nothing more.

    Args:
        display: Shows it.
        stop: Asks it to take up nothing more; what is under way goes on.
        interrupted: What is said at the first interrupt.
        lost: What is said once nothing can be shown any more; `{reason}` in it says why.
        say: Says it while something can be shown.

    Attributes:
        heard: The signals that asked for the end.
        blind: Whether nothing can be shown any more.
    """

    def __init__(
        self,
        display: Shows,
        stop: Callable[[], object],
        *,
        interrupted: str,
        lost: str,
        say: Callable[[str, str], None] = tell,
    ) -> None:
        self._display = display
        self._stop = stop
        self._interrupted = interrupted
        self._lost = lost
        self._say = say
        self.heard: list[int] = []
        self.blind = False

    def say(self, text: str, style: str) -> None:
        """Say something beside what is shown."""
        if self.blind:
            tell(text, style)
        else:
            self.show(self._say, text, style)

    def show(self, what: Callable[..., None], *values: object) -> None:
        """Show something, if anything can be shown; whatever a display raises, the work goes on to its end."""
        if self.blind:
            return
        try:
            what(*values)
        except Exception as problem:  # noqa: BLE001 - no fault of a display may leave rows under way alone
            self.blind = True
            give_up()
            self._stop()
            with suppress(Exception):
                self._display.end()  # gives the terminal back
            known = problem.strerror if isinstance(problem, OSError) else None
            tell(self._lost.format(reason=known or f"{type(problem).__name__}: {problem}"), "bold red")

    @asynccontextmanager
    async def until_end(self, begin: Callable[[], None]) -> AsyncIterator[None]:
        """Show the work inside; a second interrupt ends it now."""
        loop = asyncio.get_running_loop()
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # inside a coroutine there is one

        def interrupt(number: int) -> None:
            self.heard.append(number)
            if len(self.heard) == 1:
                self._stop()
                self.say(self._interrupted, "yellow")
            else:
                task.cancel()

        async def keep_looking() -> None:
            while True:
                self.show(self._display.look)
                await asyncio.sleep(_LOOK_EVERY)

        signals = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup stays what it is
        for number in signals:
            loop.add_signal_handler(number, interrupt, number)
        self.show(begin)
        looking = loop.create_task(keep_looking())
        try:
            yield
        except asyncio.CancelledError:
            if len(self.heard) < 2:
                raise
            task.uncancel()
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            self.show(self._display.end)
            for number in signals:
                loop.remove_signal_handler(number)


async def follow(paying: PayoutRun, display: Display) -> EndedEarly | None:
    """Show a run to its end; return why it ended early, None if it did not.

    Args:
        paying: The run, not entered yet.
        display: Shows it.
    """
    watch = Watch(
        display,
        paying.stop,
        interrupted="Stopping: no further row is sent; waiting for the rows under way. Interrupt again to end now.",
        lost="Cannot show the run ({reason}): no further row is sent; waiting for the rows under way.",
        say=display.tell,
    )
    ended_early: EndedEarly | None = None
    async with watch.until_end(lambda: display.begin(paying.progress)):
        try:
            async with paying:
                async for entry in paying:
                    watch.show(display.row, entry)
        except (PayoutsStopped, StoreError, CompletionsFailed) as stopped:
            watch.say(str(stopped), "bold red")
            ended_early = EndedEarly(code=Exit.UNAVAILABLE)
    if watch.heard:
        return EndedEarly(code=Exit(128 + watch.heard[0]), at_once=len(watch.heard) > 1)
    return EndedEarly(code=Exit.FAULT) if watch.blind else ended_early
