"""What is seen of a run: a line that moves where somebody watches, JSON lines where a program does."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from payouts.charts import duration
from payouts.states import Entry, State
from vendor_http.secrets import one_line
from webhooks.cli.terminal import tell

if TYPE_CHECKING:
    from payouts.progress import Progress
    from webhooks.cli.terminal import Output

_TOLD_EVERY = 5.0
_LOOKED_EVERY = 0.2
_LATELY = 10.0
_TROUBLE = (State.FAILED, State.MISMATCH, State.REJECTED)


class Display(Protocol):
    """Shows a run while it goes on."""

    def begin(self, progress: Progress) -> None:
        """Begin to show a run."""
        ...

    def row(self, entry: Entry) -> None:
        """Show that a run is done with a row."""
        ...

    def tell(self, text: str, style: str) -> None:
        """Say something beside the run, where it can be read."""
        ...

    def look(self) -> None:
        """Show how far the run has come; called often."""
        ...

    def end(self) -> None:
        """Show the last of it; a second call does nothing."""
        ...


def facts_of(progress: Progress, seconds: float) -> dict[str, Any]:
    """Return the numbers of a run, after so many seconds."""
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
    """Return how long the rest takes if it goes on as it went so far, None if nobody can say."""
    ended = sum(progress.ended.values())
    if progress.total is None or not ended or seconds <= 0:
        return None
    return round(max(0, progress.total - ended - progress.skipped) / (ended / seconds), 1)


class JsonLines:
    """One JSON line for each row, and one every five seconds for the run.

    Args:
        output: Where they go.
        clock: Monotonic seconds.
    """

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._output = output
        self._clock = clock
        self._progress: Progress | None = None
        self._began = self._told = 0.0

    def begin(self, progress: Progress) -> None:
        """Begin to count the time."""
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
        """Say it where no results go."""
        tell(text, style)

    def look(self) -> None:
        """Write how far the run has come, if that is due."""
        if self._progress is not None and self._clock() - self._told >= _TOLD_EVERY:
            self._told = self._clock()
            self._output.record({"event": "progress", **facts_of(self._progress, self._told - self._began)})

    def end(self) -> None:
        """Write how far the run has come at its end."""
        if self._progress is not None:
            self._output.record({"event": "end", **facts_of(self._progress, self._clock() - self._began)})
            self._progress = None


class MovingLine:
    """A bar, and the numbers of the run beside it.

    Args:
        output: Where they go.
        clock: Monotonic seconds.
    """

    def __init__(self, output: Output, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._bar = Bar(
            SpinnerColumn(finished_text=" "),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}", table_column=Column(ratio=1, overflow="fold")),
            console=output.console,
            auto_refresh=False,
            expand=True,
        )
        self._task = self._bar.add_task("", total=None, told="")
        self._progress: Progress | None = None
        self._began = self._looked = 0.0
        self._lately: deque[tuple[float, int]] = deque()

    def begin(self, progress: Progress) -> None:
        """Draw the bar."""
        self._progress = progress
        self._began = self._clock()
        self._bar.start()
        self._draw(progress)

    def row(self, entry: Entry) -> None:
        """Say of a row that went wrong what happened."""
        if entry.state in _TROUBLE or entry.state is State.UNKNOWN:
            self.tell(f"row {entry.id}: {entry.state}: {entry.problem}", "")

    def tell(self, text: str, style: str) -> None:
        """Say it above the bar, which would be drawn over it elsewhere."""
        self._bar.console.print(Text(one_line(text, 2_000), style=style), soft_wrap=True)

    def look(self) -> None:
        """Draw the bar anew, if that is due."""
        if self._progress is not None and self._clock() - self._looked >= _LOOKED_EVERY:
            self._draw(self._progress)

    def end(self) -> None:
        """Draw the bar for the last time."""
        if self._progress is not None:
            self._lately.clear()
            self._lately.append((self._began, 0))
            self._draw(self._progress)
            self._progress = None
            self._bar.stop()

    def _draw(self, progress: Progress) -> None:
        now = self._looked = self._clock()
        ended = sum(progress.ended.values())
        parts = [
            f"{self._rate(now, ended):,.0f} rows/s",
            f"{progress.in_flight:,} in flight",
            f"{progress.pending:,} waiting",
            f"{progress.settled_by.get('webhook', 0):,} by webhook",
            f"{progress.settled_by.get('poll', 0):,} by poll",
            f"{sum(progress.ended[state] for state in _TROUBLE):,} failed",
            f"{progress.ended[State.UNKNOWN]:,} unknown",
        ]
        left = _seconds_left(progress, now - self._began)
        if left:
            parts.append(f"{duration(math.ceil(left))} left")
        done = ended + progress.skipped
        self._bar.update(self._task, completed=done, total=progress.total, told=" · ".join(parts), refresh=True)

    def _rate(self, now: float, ended: int) -> float:
        """Return how many rows ended per second of the last ten, so that a standstill is seen."""
        self._lately.append((now, ended))
        while len(self._lately) > 2 and self._lately[1][0] <= now - _LATELY:
            self._lately.popleft()
        since, before = self._lately[0]
        return (ended - before) / (now - since) if now > since else 0.0
