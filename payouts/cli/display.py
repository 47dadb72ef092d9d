"""How a run is shown while it goes on: two moving lines for people, JSON lines for programs."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from payouts.report.charts import duration
from payouts.states import Entry, State
from rewards_core.cli.output import print_stderr
from rewards_core.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import RenderableType

    from payouts.progress import Progress
    from rewards_core.cli.output import Output

_TOLD_EVERY = 5.0
_LOOKED_EVERY = 0.2
_LATELY = 10.0
_MOST_TOLD = 20
_TROUBLE = (State.FAILED, State.MISMATCH, State.REJECTED, State.UNKNOWN)


class Display(Protocol):
    """Shows a run while it goes on."""

    def begin(self, progress: Progress) -> None:
        """Start to show a run."""
        ...

    def row(self, entry: Entry) -> None:
        """Show a row that the run has finished with."""
        ...

    def tell(self, text: str, style: str) -> None:
        """Show a message without disturbing what is shown of the run."""
        ...

    def look(self) -> None:
        """Show how far the run has come; called often."""
        ...

    def end(self) -> None:
        """Show the final numbers; a second call does nothing."""
        ...


def facts_of(progress: Progress, seconds: float) -> dict[str, Any]:
    """Return the numbers of a run.

    Args:
        progress: How far it has come.
        seconds: How long it has been running.
    """
    ended = progress.ended
    done = sum(ended.values())
    return {
        "rows": progress.total,
        "read": progress.read,
        "settled_before": progress.skipped,
        "in_flight": progress.in_flight,
        "pending": progress.pending,
        "by_webhook": progress.settled_by.get("webhook", 0),
        "by_poll": progress.settled_by.get("poll", 0),
        "by_reply": progress.settled_by.get("reply", 0),
        **{state.value: ended[state] for state in State if state not in {State.PLANNED, State.SENT}},
        "rows_per_second": round(done / seconds, 1) if seconds > 0 else 0.0,
        "seconds_left": _seconds_left(progress, seconds),
    }


def _seconds_left(progress: Progress, seconds: float) -> float | None:
    """Return how long the rest takes at the speed so far, None while that cannot be known."""
    ended = sum(progress.ended.values())
    if progress.total is None or not ended or seconds <= 0:
        return None
    return round(max(0, progress.total - ended - progress.skipped) / (ended / seconds), 1)


class JsonLines:
    """Write one JSON line for each row, and one every five seconds for the run.

    Args:
        output: Where the lines go.
        clock: Monotonic seconds.
    """

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._clock = clock
        self._progress: Progress | None = None
        self._began = self._told = 0.0

    def begin(self, progress: Progress) -> None:
        """Write how many rows there are, and start the clock."""
        self._progress = progress
        self._began = self._told = self._clock()
        self._output.record({"event": "begin", "rows": progress.total})

    def row(self, entry: Entry) -> None:
        """Write a row."""
        values = {"event": "row", "id": entry.id, "state": entry.state.value, "amount": entry.amount, "uid": entry.uid}
        if entry.settled_by is not None:
            values["settled_by"] = entry.settled_by
        if entry.problem is not None:
            values |= {"problem_kind": entry.problem_kind, "problem": entry.problem}
        self._output.record(values)

    def tell(self, text: str, style: str) -> None:
        """Write the message to standard error, as results go to standard output."""
        print_stderr(text, style)

    def look(self) -> None:
        """Write how far the run has come, if five seconds have passed."""
        if self._progress is not None and self._clock() - self._told >= _TOLD_EVERY:
            self._told = self._clock()
            self._output.record({"event": "progress", **facts_of(self._progress, self._told - self._began)})

    def end(self) -> None:
        """Write the final numbers."""
        if self._progress is not None:
            self._output.record({"event": "end", **facts_of(self._progress, self._clock() - self._began)})
            self._progress = None


def moving_line(output: Output, field: str) -> tuple[ProgressColumn, ...]:
    """Return a spinner in characters that the terminal has, a bar, and a field of the task."""
    spinner = "dots" if output.console.encoding.startswith("utf") else "line"
    return SpinnerColumn(spinner, finished_text=" "), BarColumn(bar_width=16), TextColumn(f"{{task.fields[{field}]}}")


class MovingLine:
    """Draw a bar and its speed on one line, and the numbers of the run on the next.

    Args:
        output: Where they go.
        clock: Monotonic seconds.
    """

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bar = _TwoLines(
            *moving_line(output, "speed"),
            console=output.console,
            auto_refresh=False,
        )
        self._task = self._bar.add_task("", total=None, speed="")
        self._progress: Progress | None = None
        self._began = self._looked = 0.0
        self._lately: deque[tuple[float, int]] = deque()
        self._told: dict[tuple[State, str | None], int] = {}

    def begin(self, progress: Progress) -> None:
        """Draw the lines."""
        self._progress = progress
        self._began = self._clock()
        self._bar.start()
        self._draw(progress)

    def row(self, entry: Entry) -> None:
        """Print why a row was not paid, of each kind of problem only the first 20; a row that was paid only counts."""
        if entry.state not in _TROUBLE:
            return
        kind = entry.state, entry.problem_kind
        self._told[kind] = told = self._told.get(kind, 0) + 1
        if told <= _MOST_TOLD:
            self.tell(f"row {entry.id}: {entry.state}: {entry.problem}", "")
        elif told == _MOST_TOLD + 1:
            self.tell("and more like this: payouts status --all lists them", "")

    def tell(self, text: str, style: str) -> None:
        """Print the message above the moving lines."""
        self._bar.console.print(Text(one_line(text, 2_000), style=style), soft_wrap=True)

    def look(self) -> None:
        """Draw the lines again, if that is due."""
        if self._progress is not None and self._clock() - self._looked >= _LOOKED_EVERY:
            self._draw(self._progress)

    def end(self) -> None:
        """Draw the lines for the last time, with the mean speed of the whole run and no time left."""
        if self._progress is not None:
            self._lately.clear()
            self._lately.append((self._began, 0))
            progress, self._progress = self._progress, None
            try:
                self._draw(progress)
            finally:
                self._bar.stop()

    def _draw(self, progress: Progress) -> None:
        now = self._looked = self._clock()
        ended = sum(progress.ended.values())
        done = ended + progress.skipped
        total = "" if progress.total is None else f" of {progress.total:,}"
        speed = [f"{done:,}{total}", f"{self._rate(now, ended):,.0f} rows/s"]
        left = _seconds_left(progress, now - self._began)
        if left and self._progress is not None:
            speed.append(f"{duration(math.ceil(left))} left")
        self._bar.numbers = [
            *(f"{progress.ended[state]:,} {state}" for state in _TROUBLE if progress.ended[state]),
            f"{progress.in_flight:,} in flight",
            f"{progress.pending:,} waiting",
            *(f"{count:,} by {way}" for way, count in sorted(progress.settled_by.items(), reverse=True)),
        ]
        self._bar.update(self._task, completed=done, total=progress.total, speed=", ".join(speed), refresh=True)

    def _rate(self, now: float, ended: int) -> float:
        """Return how many rows ended per second of the last ten, so that a standstill is seen."""
        self._lately.append((now, ended))
        while len(self._lately) > 2 and self._lately[1][0] <= now - _LATELY:
            self._lately.popleft()
        since, before = self._lately[0]
        return (ended - before) / (now - since) if now > since else 0.0


class _TwoLines(Bar):
    """A bar with a line of numbers below it: two lines at any width, so that what stands above does not jump."""

    numbers: Sequence[str] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        line = " "
        for number in self.numbers:
            if len(line) + len(number) + 2 > self.console.width:
                break  # a number that is cut in the middle would be a wrong one
            line += f" {number}" if line == " " else f", {number}"
        yield Text(line, no_wrap=True, overflow="crop")
