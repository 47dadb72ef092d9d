"""Run work to its end while showing it, and stop it early on an interrupt or a lost display."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

from attrs import frozen

from payouts.runner import PayoutsStopped
from rewards_core.cli.exit_codes import Exit
from rewards_core.cli.output import discard_stdout, print_stderr
from webhooks import CompletionsFailed, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from payouts.cli.display import Display
    from payouts.runner import PayoutRun

_REFRESH_EVERY = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@frozen(kw_only=True)
class EndedEarly:
    """Why a run ended before all of its rows did."""

    code: int
    at_once: bool = False


class _Shows(Protocol):
    def refresh(self) -> None: ...

    def end(self) -> None: ...


class Supervision:
    """Show work until it ends. An interrupt or a failed display stops the work gracefully; a second interrupt stops it at once.

    Args:
        display: Shows the work.
        stop: Asks the work to start nothing more and to finish what is under way.
        interrupted: Printed at the first interrupt.
        lost: Printed when the display fails; `{reason}` in it says why.
        say: Prints a message while the display works.

    Attributes:
        signals: The signals received.
        display_failed: Whether the display has failed.
    """

    def __init__(
        self,
        display: _Shows,
        stop: Callable[[], object],
        *,
        interrupted: str,
        lost: str,
        say: Callable[[str, str], None] = print_stderr,
    ) -> None:
        self._display = display
        self._stop = stop
        self._interrupted = interrupted
        self._lost = lost
        self._say = say
        self.signals: list[int] = []
        self.display_failed = False

    def say(self, text: str, style: str) -> None:
        """Print a message beside the display."""
        if self.display_failed:
            print_stderr(text, style)
        else:
            self.show(self._say, text, style)

    def show(self, method: Callable[..., None], *values: object) -> None:
        """Call a method of the display unless the display has failed. If the method raises, the work stops gracefully."""
        if self.display_failed:
            return
        try:
            method(*values)
        except Exception as problem:  # noqa: BLE001 - a faulty display must not abandon rows under way
            self.display_failed = True
            discard_stdout()
            self._stop()
            with suppress(Exception):
                self._display.end()  # gives the terminal back
            known = problem.strerror if isinstance(problem, OSError) else None
            print_stderr(self._lost.format(reason=known or f"{type(problem).__name__}: {problem}"), "bold red")

    @asynccontextmanager
    async def until_end(self, begin: Callable[[], None]) -> AsyncIterator[None]:
        """Show the work in the block; a second interrupt cancels it."""
        loop = asyncio.get_running_loop()
        task: asyncio.Task[Any] = asyncio.current_task()  # type: ignore[assignment]  # inside a coroutine there is one

        def interrupt(number: int) -> None:
            self.signals.append(number)
            if len(self.signals) == 1:
                self._stop()
                self.say(self._interrupted, "yellow")
            else:
                task.cancel()

        async def keep_refreshing() -> None:
            while True:
                self.show(self._display.refresh)
                await asyncio.sleep(_REFRESH_EVERY)

        handled = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup ignores SIGHUP
        for number in handled:
            loop.add_signal_handler(number, interrupt, number)
        self.show(begin)
        refreshing = loop.create_task(keep_refreshing())
        try:
            yield
        except asyncio.CancelledError:
            if len(self.signals) < 2:
                raise
            task.uncancel()
        finally:
            refreshing.cancel()
            await asyncio.gather(refreshing, return_exceptions=True)
            self.show(self._display.end)
            for number in handled:
                loop.remove_signal_handler(number)


async def run_to_end(run: PayoutRun, display: Display) -> EndedEarly | None:
    """Show a run until its end; return why it ended early, None if it did not."""
    supervision = Supervision(
        display,
        run.stop,
        interrupted="Stopping: no further row is sent; waiting for the rows under way. Interrupt again to stop now.",
        lost="Cannot show the run ({reason}): no further row is sent; waiting for the rows under way.",
        say=display.tell,
    )
    ended_early: EndedEarly | None = None
    async with supervision.until_end(lambda: display.begin(run.progress)):
        try:
            async with run:
                async for entry in run:
                    supervision.show(display.row, entry)
        except (PayoutsStopped, StoreError, CompletionsFailed) as stopped:
            supervision.say(str(stopped), "bold red")
            ended_early = EndedEarly(code=Exit.UNAVAILABLE)
    if supervision.signals:
        return EndedEarly(code=Exit(128 + supervision.signals[0]), at_once=len(supervision.signals) > 1)
    return EndedEarly(code=Exit.FAULT) if supervision.display_failed else ended_early
