"""The workers of a shared campaign and their speed, for `payouts status`."""

from __future__ import annotations

import math
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from payouts.cells import iso
from payouts.report.charts import duration
from payouts.states import State

if TYPE_CHECKING:
    from payouts.ledger.reader import Campaign, Fleet, LedgerReader
    from payouts.report.figures import Figures
    from rewards_core.cli.output import Output

_WINDOW = 30.0
"""Seconds over which the speed is taken."""


class Pace:
    """Look at the workers of a campaign from time to time; of a ledger in a file there is nothing to see.

    Args:
        reader: The ledger.
        campaign: The campaign.
    """

    def __init__(self, reader: LedgerReader, campaign: Campaign) -> None:
        self._reader = reader
        self._campaign = campaign
        self._fleet: Fleet | None = None
        self._looks: deque[tuple[float, int]] = deque()

    def look(self) -> None:
        """Read the workers."""
        self._fleet = fleet = self._reader.fleet(self._campaign)
        if fleet is not None:
            self._looks.append((fleet.at, fleet.claimed))
            while self._looks[0][0] < fleet.at - _WINDOW:
                self._looks.popleft()

    def look_again(self, seconds: float) -> None:
        """Wait, and read the workers."""
        time.sleep(seconds)
        self.look()

    @property
    def is_moving(self) -> bool:
        """Whether workers send rows."""
        return self._fleet is not None and self._fleet.condition == "running" and bool(self._fleet.workers)

    def facts(self, figures: Figures) -> dict[str, Any]:
        """Return what programs read."""
        fleet = self._fleet
        if fleet is None:
            return {}
        workers = [
            {
                "host": worker.host,
                "process": worker.process,
                "rate": worker.rate,
                "began_at": iso(worker.began_at),
                "lease_left": round(worker.lease_left, 1),
            }
            for worker in fleet.workers
        ]
        speed = self._speed()
        facts = {"condition": fleet.condition, "rows_per_second": None if speed is None else round(speed, 1)}
        return {**facts, "seconds_left": self._seconds_left(figures), "workers": workers}

    def show(self, figures: Figures, output: Output) -> None:
        """Show it to people."""
        fleet = self._fleet
        if fleet is None or (fleet.condition == "running" and not fleet.workers):
            return
        speed, left = self._speed(), self._seconds_left(figures)
        told = f"{fleet.condition}" + ("" if speed is None else f", {speed:,.1f} rows/s")
        output.say("")
        output.say(told if left is None else f"{told}, {duration(math.ceil(left))} left to send", "bold")
        rows = [
            (
                worker.host,
                str(worker.process),
                "no limit" if worker.rate is None else f"{worker.rate:g}/s",
                f"{iso(worker.began_at):.16}".replace("T", " "),
                f"{worker.lease_left:,.0f} s" if worker.lease_left > 0 else "lost",
            )
            for worker in fleet.workers
        ]
        if rows:
            output.draw("", ("worker on", "process", "rate of all", "since (UTC)", "lease"), rows, right=("process", "lease"))

    def _speed(self) -> float | None:
        """Return the rows claimed per second, None if it was looked at once only."""
        if len(self._looks) < 2:
            return None
        (since, before), (now, claimed) = self._looks[0], self._looks[-1]
        return (claimed - before) / (now - since) if now > since else None

    def _seconds_left(self, figures: Figures) -> float | None:
        speed = self._speed()
        return round(figures.counts.get(State.PLANNED, 0) / speed, 1) if speed else None
