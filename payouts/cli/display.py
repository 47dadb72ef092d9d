"""The progress of a run: two moving lines for people, JSON lines for programs."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, SpinnerColumn, TextColumn
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

RECORD_EVERY = 5.0
"""Seconds between two progress records for programs."""
_REDRAW_EVERY = 0.2
_SPEED_WINDOW = 10.0
_MAX_TOLD = 20
_TROUBLE = (State.FAILED, State.MISMATCH, State.REJECTED, State.UNKNOWN)


def facts_of(progress: Progress, seconds: float) -> dict[str, Any]:
    """Return the numbers of a run."""
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
    """Return how long the rest takes at the speed so far, None while that is unknown."""
    ended = sum(progress.ended.values())
    if progress.total is None or not ended or seconds <= 0:
        return None
    return round(max(0, progress.total - ended - progress.skipped) / (ended / seconds), 1)


class JsonLines:
    """Write a JSON line for each row, and one for the run every five seconds."""

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._clock = clock
        self._progress: Progress | None = None
        self._began = self._recorded_at = 0.0

    def begin(self, progress: Progress) -> None:
        """Write the number of rows, and start the clock."""
        self._progress = progress
        self._began = self._recorded_at = self._clock()
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
        """Write the message to standard error."""
        print_stderr(text, style)

    def refresh(self) -> None:
        """Write the progress if five seconds have passed."""
        if self._progress is not None and self._clock() - self._recorded_at >= RECORD_EVERY:
            self._recorded_at = self._clock()
            self._output.record({"event": "progress", **facts_of(self._progress, self._recorded_at - self._began)})

    def end(self) -> None:
        """Write the final numbers."""
        if self._progress is not None:
            self._output.record({"event": "end", **facts_of(self._progress, self._clock() - self._began)})
            self._progress = None


def moving_line(output: Output, field: str) -> tuple[ProgressColumn, ...]:
    """Return a spinner in characters that the terminal supports, a bar, and a field of the task."""
    spinner = "dots" if output.console.encoding.startswith("utf") else "line"
    return SpinnerColumn(spinner, finished_text=" "), BarColumn(bar_width=16), TextColumn(f"{{task.fields[{field}]}}")


def counting_bar(what: str, output: Output) -> Bar:
    """Return a bar that counts up to a total; it is shown on a terminal only, as in a file it would leave an empty line."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn())
    disabled = output.as_json or not output.console.is_terminal
    return Bar(*columns, console=output.console, transient=True, disable=disabled)


class MovingLine:
    """Draw a bar and its speed on one line, and the numbers of the run on the next."""

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bar = _TwoLines(
            *moving_line(output, "speed"),
            console=output.console,
            auto_refresh=False,
            get_time=clock,
        )
        self._task = self._bar.add_task("", total=None, speed="")
        self._progress: Progress | None = None
        self._began = self._drawn_at = 0.0
        self._recent: deque[tuple[float, int]] = deque()
        self._told: dict[tuple[State, str | None], int] = {}

    def begin(self, progress: Progress) -> None:
        """Draw the lines."""
        self._progress = progress
        self._began = self._clock()
        self._bar.start()
        self._draw(progress)

    def row(self, entry: Entry) -> None:
        """Print why a row was not paid, the first 20 times for each kind of problem; paid rows are only counted."""
        if entry.state not in _TROUBLE:
            return
        kind = entry.state, entry.problem_kind
        self._told[kind] = told = self._told.get(kind, 0) + 1
        if told <= _MAX_TOLD:
            self.tell(f"row {entry.id}: {entry.state}: {entry.problem}", "")
        elif told == _MAX_TOLD + 1:
            self.tell("and more like this: payouts status --all lists them", "")

    def tell(self, text: str, style: str) -> None:
        """Print the message above the lines."""
        self._bar.console.print(Text(one_line(text, 2_000), style=style), soft_wrap=True)

    def refresh(self) -> None:
        """Draw the lines again if that is due."""
        if self._progress is not None and self._clock() - self._drawn_at >= _REDRAW_EVERY:
            self._draw(self._progress)

    def end(self) -> None:
        """Draw the lines a last time, with the average speed of the whole run."""
        if self._progress is not None:
            self._recent.clear()
            self._recent.append((self._began, 0))
            progress, self._progress = self._progress, None
            try:
                self._draw(progress)
            finally:
                self._bar.stop()

    def _draw(self, progress: Progress) -> None:
        now = self._drawn_at = self._clock()
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
        """Return the rows per second of the last ten seconds, in which a standstill shows."""
        self._recent.append((now, ended))
        while len(self._recent) > 2 and self._recent[1][0] <= now - _SPEED_WINDOW:
            self._recent.popleft()
        since, before = self._recent[0]
        return (ended - before) / (now - since) if now > since else 0.0


Display: TypeAlias = JsonLines | MovingLine
"""Shows the progress of a run."""


class _TwoLines(Bar):
    """A bar with one line of numbers below it: two lines at any width, so that the text above does not jump."""

    numbers: Sequence[str] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        line = " "
        for number in self.numbers:
            if len(line) + len(number) + 2 > self.console.width:
                break  # a truncated number would be wrong
            line += f" {number}" if line == " " else f", {number}"
        yield Text(line, no_wrap=True, overflow="crop")
